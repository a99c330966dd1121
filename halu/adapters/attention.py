"""The one place that touches transformers' attention registry.

`halu` is an attention implementation like "sdpa": without steering it is sdpa, with a `Steering`
passed to the forward as the keyword `halu` it hands the layer to that. The mask function is
registered under the same name, because transformers silently drops the causal mask of an
implementation that has none.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from halu.attention.keys import Keys
from halu.attention.steering import Steering

NAME = "halu"


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    halu: Steering | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, [B, Q, H, D]; `halu` says which rows are steered and how."""
    if halu is None or not any(row.active for row in halu.rows):
        return _stock(module, query, key, value, attention_mask, **kwargs), None

    def plain(rows: slice | Tensor) -> Tensor:
        q, k, v = (t[rows] for t in (query, key, value))
        mask = None if attention_mask is None else attention_mask[rows]
        return _stock(module, q, k, v, mask, **kwargs).transpose(1, 2)

    scale: float = kwargs.get("scaling") or query.shape[-1] ** -0.5
    layer = cast(int, module.layer_idx)
    return halu.attend(layer, query, Keys(key, value), scale, plain).transpose(1, 2), None


def register() -> None:
    """Make `attn_implementation="halu"` known to transformers."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _stock(
    module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any
) -> Tensor:
    if q.shape[2] > 1 or (mask is not None and mask.shape[1] > 1):
        out: Tensor = sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0]
        return out
    # One query a row: heads that share a key head are taken as its queries, so keys are not copied.
    b, h, _, d = q.shape
    few = _few_queries(q.reshape(b, k.shape[1], -1, d), k, v, mask, kwargs["scaling"])
    return few.reshape(b, h, 1, d).transpose(1, 2)


def _few_queries(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if q.device.type != "cpu":
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    # torch's CPU kernel may fall back to scaling a copy of all keys; plain products are quicker.
    x = (q * scale) @ k.transpose(-1, -2)
    if mask is not None:
        x = x.masked_fill(~mask, float("-inf"))
    return torch.softmax(x, -1) @ v
