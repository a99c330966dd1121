"""The specification of grouped attention, in plain torch, on any device.

Queries are taken in blocks, so that no N x N map is ever held.
"""

import torch
from torch import Tensor

Maps = tuple[Tensor, Tensor, Tensor]

BLOCK = 128


def scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Scaled dot products [B, H, Q, K] in float32; grouped-query heads share keys without copying
    them.
    """
    b, h, n, d = q.shape
    shared = q.float().reshape(b, k.shape[1], -1, d)  # [B, Hkv, (H/Hkv) Q, D]
    return (shared @ k.float().transpose(-1, -2)).reshape(b, h, n, -1) * scale


def mapped(x: Tensor, labels: Tensor, maps: Maps) -> Tensor:
    """The score map applied: up_g max(x, 0) + down_g min(x, 0) + bias_g for the group g of each
    key.
    """
    up, down, bias = (_per_key(table, labels, x) for table in maps)  # [B, H, 1, K]
    return up * x.clamp(min=0) + down * x.clamp(max=0) + bias


def softmax(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Probabilities [B, H, Q, K] and log-sum-exp [B, H, Q]; a query that sees nothing: zeros."""
    if mask is not None:
        x = x.masked_fill(~mask, float("-inf"))
    lse = torch.logsumexp(x, -1)
    return torch.exp(x - lse.clamp(min=torch.finfo(lse.dtype).min).unsqueeze(-1)), lse


def grouped_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    groups: int,
    scale: float,
    mask: Tensor | None,
    first: int | None,
    maps: Maps | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Masses [B, H, Q, G], partial outputs [B, H, Q, G, D] and log-sum-exp [B, H, Q], float32."""
    parts = []
    for start in range(0, q.shape[2], BLOCK):
        rows = slice(start, start + BLOCK)
        x = scores(q[:, :, rows], k, scale)
        if maps is not None:
            x = mapped(x, labels, maps)
        seen = mask[:, :, rows] if mask is not None and mask.shape[2] > 1 else mask
        if first is not None:
            seen = _causal(first + start, x)
        p, lse = softmax(x, seen)
        parts.append((*_by_group(p, v, labels, groups), lse))
    mass, out, lse = (torch.cat(part, 2) for part in zip(*parts, strict=True))
    return mass, out, lse


def _causal(first: int, x: Tensor) -> Tensor:
    """True where the queries from position `first` on may look [1, 1, Q, K]."""
    position = torch.arange(x.shape[-1], device=x.device)
    query = torch.arange(first, first + x.shape[2], device=x.device)
    return (position <= query[:, None])[None, None]


def _by_group(p: Tensor, v: Tensor, labels: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    b, h, n, keys = p.shape
    member = labels.unsqueeze(-2) == torch.arange(groups, device=p.device).unsqueeze(
        -1
    )  # [B, (H,) G, K]
    if member.dim() == 3:
        member = member.unsqueeze(1)
    split = p.unsqueeze(3) * member.unsqueeze(2)  # [B, H, Q, G, K]
    out = split.reshape(b, v.shape[1], -1, keys) @ v.float()
    return split.sum(-1), out.reshape(b, h, n, groups, -1)


def _per_key(table: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    b, h, _, keys = x.shape
    table = table.to(x).expand(b, h, -1)
    index = labels.unsqueeze(1) if labels.dim() == 2 else labels
    return table.gather(-1, index.expand(b, h, keys).long()).unsqueeze(2)
