"""vLLM's attention backend for CPUs with the steered rows recomputed.

The native call comes first, for the whole batch. Rows of requests on which a policy acts are then
taken from it, their keys and values gathered from the paged cache, and handed to the same code that
runs under transformers. A batch without such rows pays one comparison.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl

from halu.errors import Failed
from halu.vllm.table import Table

PATH = "halu.vllm.attention.SteeredBackend"


class SteeredImpl(CPUAttentionBackendImpl):  # type: ignore[misc]  # vLLM has no types here
    """Attention of one layer.

    Attributes:
        table: the current forward's steered rows; none until a runner of halu's sets it.
        number: which layer of the language model this is.
    """

    table: Table | None = None
    number: int = -1

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Head outputs [N, H, D], into `output`."""
        table = self.table
        if table is not None and table.aside:
            return self._aside(table, query, key, value, output)
        found: Tensor = super().forward(
            layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
        )
        if table is not None and table.rows and attn_metadata is not None:
            gather = partial(gathered, kv_cache, attn_metadata.block_table)
            table.attend(self.number, query, output, gather, self.scale)
        return found

    def _aside(self, table: Table, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        """Causal attention of one prompt that nothing is kept of."""
        queries, keys, values = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H, T, D]
        plain = scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=self.scale, enable_gqa=True
        )
        out[:] = plain[0].transpose(0, 1)

        def own(number: int, count: int) -> tuple[Tensor, Tensor]:
            return keys[0], values[0]

        table.attend(self.number, q, out, own, self.scale)
        return out


class SteeredBackend(CPUAttentionBackend):  # type: ignore[misc]  # vLLM has no types here
    """The CPU backend under its own name."""

    @staticmethod
    def get_impl_cls() -> type[SteeredImpl]:
        """Attention of one layer."""
        return SteeredImpl


def gathered(cache: Tensor, table: Tensor, number: int, count: int) -> tuple[Tensor, Tensor]:
    """Keys and values [Hkv, K, D] of the first `count` tokens of a request.

    Args:
        cache: the layer's cache [blocks, Hkv, block, 2 D]; inside a block first all keys,
            transposed, then all values.
        table: blocks of each request [N, ...].
        number: which request.
        count: how many tokens.
    """
    _, heads, size, double = cache.shape
    width = double // 2
    blocks = cache[table[number, : -(-count // size)].long()]  # [n, Hkv, block, 2 D]
    flat = blocks.reshape(-1, heads, 2, size * width)
    k = flat[:, :, 0].reshape(-1, heads, width, size).permute(1, 0, 3, 2)
    v = flat[:, :, 1].reshape(-1, heads, size, width).permute(1, 0, 2, 3)
    return (
        k.reshape(heads, -1, width)[:, :count],
        v.reshape(heads, -1, width)[:, :count],
    )


def check_layout(layer: Any) -> None:
    """Writes keys and values to a copy of a layer's cache as vLLM does, and reads them back.

    Raises:
        Failed: if they come back as others: this build orders its cache in another way.
    """
    cache = layer.kv_cache
    _, heads, size, double = cache.shape
    own = torch.zeros(2, *cache.shape[1:], dtype=cache.dtype)
    count, width = size + 3, double // 2
    rng = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, count, heads, width, generator=rng).to(cache.dtype)
    keys, values = own.view(2, heads, size * 2, -1).chunk(2, dim=2)
    impl, slots = layer.impl, torch.arange(count)
    scales = {"k_scale": layer._k_scale_float, "v_scale": layer._v_scale_float}
    ops.cpu_attn_reshape_and_cache(
        k, v, keys, values, slots, layer.isa, **scales, kv_cache_dtype=impl.kv_cache_dtype
    )
    got_k, got_v = gathered(own, torch.tensor([[0, 1]]), 0, count)
    if not (torch.equal(got_k, k.transpose(0, 1)) and torch.equal(got_v, v.transpose(0, 1))):
        raise Failed(f"This build of vLLM orders its cache (isa {layer.isa}) in an unknown way.")
