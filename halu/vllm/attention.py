"""vLLM's attention backends with the steered rows recomputed.

The native call comes first, for the whole batch, unless the policies leave nothing of it. Rows of
requests on which a policy acts are then taken from it and handed to the same code that runs under
transformers: generated tokens' with the paged cache as it is, prompts' with a copy of their part.
A batch without such rows pays one comparison.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
)

from halu.attention.keys import Keys
from halu.attention.pages import Pages
from halu.errors import Failed
from halu.vllm.table import Table


class SteeredImpl:
    """What halu adds to the attention of one layer; a backend's own class comes after it.

    Attributes:
        table: the current forward's steered rows; none until a runner of halu's sets it.
        number: which layer of the language model this is.
        metadata: what the backend is told of a forward, which must have a `block_table`.
    """

    table: Table | None = None
    number: int = -1
    metadata: type

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
        table, scale = self.table, self.scale  # type: ignore[attr-defined]  # the backend's
        if table is not None and table.aside:
            return _aside(table, self.number, (query, key, value), output, scale)
        steered = table is not None and bool(table.rows) and attn_metadata is not None
        if table is not None and steered and table.replaces(self.number, output):
            output.zero_()  # of a row whose policies fail something must stay
        else:
            super().forward(  # type: ignore[misc]  # the backend's
                layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
            )
        if table is not None and steered:
            pages = Pages(attn_metadata.block_table, kv_cache.shape[2])
            table.attend(self.number, query, output, Keys(*self.pools(kv_cache), pages), scale)
        return output

    @staticmethod
    def pools(cache: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [blocks, Hkv, block, D] as they lie in a layer's cache [blocks, Hkv,
        block, 2 D], which has each token's key and value side by side.
        """
        k, v = cache.split(cache.shape[-1] // 2, -1)
        return k, v


def _aside(
    table: Table, number: int, qkv: tuple[Tensor, Tensor, Tensor], out: Tensor, scale: float
) -> Tensor:
    """Causal attention of one prompt that nothing is kept of."""
    queries, keys, values = (x.transpose(0, 1)[None] for x in qkv)  # [1, H, T, D]
    plain = scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=scale, enable_gqa=True
    )
    out[:] = plain[0].transpose(0, 1)
    table.attend(number, qkv[0], out, Keys(keys, values), scale)
    return out


class CPUImpl(SteeredImpl, CPUAttentionBackendImpl):  # type: ignore[misc]  # vLLM has no types here
    """On CPUs."""

    metadata = CPUAttentionMetadata

    @staticmethod
    def pools(cache: Tensor) -> tuple[Tensor, Tensor]:
        """As above; inside a block come first all keys, transposed, then all values."""
        blocks, heads, size, double = cache.shape
        k, v = cache.view(blocks, heads, 2, -1).unbind(2)
        shape = (blocks, heads, double // 2, size)
        return k.view(shape).transpose(-1, -2), v.view(blocks, heads, size, -1)


class CPU(CPUAttentionBackend):  # type: ignore[misc]  # vLLM has no types here
    """The CPU backend under its own name."""

    @staticmethod
    def get_impl_cls() -> type[CPUImpl]:
        """Attention of one layer."""
        return CPUImpl


def check_layout(layer: Any) -> None:
    """Writes keys and values to a copy of a layer's cache as vLLM does, and reads them back.

    Raises:
        Failed: if they come back as others: this build orders its cache in another way.
    """
    cache, impl = layer.kv_cache, layer.impl
    own = torch.zeros_like(cache[:2])
    _, heads, size, double = cache.shape
    rng = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, size + 3, heads, double // 2, generator=rng).to(cache)
    slots = torch.arange(size + 3, device=cache.device)
    impl.do_kv_cache_update(layer, k, v, own, slots)
    table = torch.tensor([[0, 1]], device=cache.device)
    pools: tuple[Tensor, Tensor] = impl.pools(own)
    read = Keys(*pools, Pages(table, size)).stretch(0, slice(0, size + 3))
    if not all(map(torch.equal, read, (k.transpose(0, 1)[None], v.transpose(0, 1)[None]))):
        raise Failed(f"This build's {type(impl).__name__} orders its cache in an unknown way.")


def check_plain(impl: Any) -> None:
    """Refuses attention that is more than a softmax over all keys so far.

    Raises:
        Failed: naming what it is.
    """
    window = getattr(impl, "sliding_window", None)
    special = {
        "a sliding window": window not in (None, -1, (-1, -1)),
        "a soft cap": bool(getattr(impl, "logits_soft_cap", None)),
        "sinks of its own": getattr(impl, "sinks", None) is not None,
        "slopes by distance": getattr(impl, "alibi_slopes", None) is not None,
    }
    for what, has in special.items():
        if has:
            raise Failed(f"This model's attention has {what}; strategies are not defined on that.")
