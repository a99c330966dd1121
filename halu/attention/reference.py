"""The specification of grouped attention, in plain torch, on any device.

Queries are taken in blocks, so that no N x N map is ever held.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 128


class ByGroup(Protocol):
    """A `ScoreMap`."""

    @property
    def up(self) -> Tensor:
        """Slope of positive scores."""

    @property
    def down(self) -> Tensor:
        """Slope of negative scores."""

    @property
    def bias(self) -> Tensor:
        """What is added."""


class ByKey(Protocol):
    """A `KeyMap`."""

    @property
    def factor(self) -> Tensor | None:
        """Factor of the score."""

    @property
    def bias(self) -> Tensor | None:
        """What is added to it."""

    @property
    def gain(self) -> Tensor | None:
        """Factor of the value."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What happens to scores [B, H, Q, K] before the softmax, and to the probabilities after the
    masses are taken.
    """

    by_group: ByGroup | None = None
    by_key: ByKey | None = None

    def scores(self, x: Tensor, labels: Tensor) -> Tensor:
        """up_g max(x, 0) + down_g min(x, 0) + bias_g for the group g of each key, then the key's
        own factor and bias.
        """
        maps, keys = self.by_group, self.by_key
        if maps is not None:
            up, down, bias = (_per_key(t, labels, x) for t in (maps.up, maps.down, maps.bias))
            x = up * x.clamp(min=0) + down * x.clamp(max=0) + bias
        if keys is not None and keys.factor is not None:
            x = x * _own(keys.factor, x)
        if keys is not None and keys.bias is not None:
            x = x + _own(keys.bias, x)
        return x

    def values(self, p: Tensor) -> Tensor:
        """Probabilities times the gains of their keys' values."""
        if self.by_key is None or self.by_key.gain is None:
            return p
        return p * _own(self.by_key.gain, p)


def scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Scaled dot products [B, H, Q, K] in float32; grouped-query heads share keys without copying
    them.
    """
    b, h, n, d = q.shape
    shared = q.float().reshape(b, k.shape[1], -1, d)  # [B, Hkv, (H/Hkv) Q, D]
    return (shared @ k.float().transpose(-1, -2)).reshape(b, h, n, -1) * scale


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
    changes: Changes,
) -> tuple[Tensor, Tensor, Tensor]:
    """Masses [B, H, Q, G], partial outputs [B, H, Q, G, D] and log-sum-exp [B, H, Q], float32."""
    parts = []
    member = members(labels, groups)
    for p, lse in _blocks(q, k, labels, scale, mask, first, changes):
        mass = p @ member.transpose(-1, -2)
        split = changes.values(p).unsqueeze(3) * member.unsqueeze(2)  # [B, H, Q, G, K]
        out = _times(split.flatten(2, 3), v).unflatten(2, (-1, groups))
        parts.append((mass, out, lse))
    mass, out, lse = (torch.cat(part, 2) for part in zip(*parts, strict=True))
    return mass, out, lse


def weighted_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    groups: int,
    scale: float,
    mask: Tensor | None,
    first: int | None,
    changes: Changes,
    epilogue: Callable[[Tensor], Tensor | None],
) -> Tensor:
    """Outputs [B, H, Q, D], float32: every probability times the weight of its key's group."""
    parts = []
    member = members(labels, groups)
    for p, _ in _blocks(q, k, labels, scale, mask, first, changes):
        weights = epilogue(p @ member.transpose(-1, -2))
        if weights is not None:
            p = p * (weights @ member)
        parts.append(_times(changes.values(p), v))
    return torch.cat(parts, 2)


def members(labels: Tensor, groups: int) -> Tensor:
    """One where a key belongs to a group, else zero [B, 1 or H, G, K]."""
    index = torch.arange(groups, device=labels.device).unsqueeze(-1)
    member = (labels.unsqueeze(-2) == index).float()
    return member if member.dim() == 4 else member.unsqueeze(1)


def column_mass(q: Tensor, k: Tensor, rows: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """For a causal prompt [B, H, T, D]: each key's probability summed over the query rows `rows`
    [R], and in its own row, both [B, H, T].
    """
    total = torch.zeros(q.shape[:3], device=q.device)
    own = torch.zeros_like(total)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        seen = torch.arange(k.shape[2], device=q.device) <= part[:, None]
        p, _ = softmax(scores(q[:, :, part], k, scale), seen[None, None])
        total += p.sum(2)
        own[:, :, part] = p.gather(-1, part.expand(*p.shape[:2], -1).unsqueeze(-1)).squeeze(-1)
    return total, own


def _blocks(
    q: Tensor,
    k: Tensor,
    labels: Tensor,
    scale: float,
    mask: Tensor | None,
    first: int | None,
    changes: Changes,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Probabilities [B, H, q, K] and log-sum-exp of one block of queries after another."""
    for start in range(0, q.shape[2], BLOCK):
        rows = slice(start, start + BLOCK)
        x = changes.scores(scores(q[:, :, rows], k, scale), labels)
        seen = mask[:, :, rows] if mask is not None and mask.shape[2] > 1 else mask
        if first is not None:
            seen = _causal(first + start, x)
        yield softmax(x, seen)


def _causal(first: int, x: Tensor) -> Tensor:
    """True where the queries from position `first` on may look [1, 1, Q, K]."""
    position = torch.arange(x.shape[-1], device=x.device)
    query = torch.arange(first, first + x.shape[2], device=x.device)
    return (position <= query[:, None])[None, None]


def _times(p: Tensor, v: Tensor) -> Tensor:
    """p [B, H, R, K] on values [B, Hkv, K, D], key heads shared without copying: [B, H, R, D]."""
    b, h, rows, keys = p.shape
    out = p.reshape(b, v.shape[1], -1, keys) @ v.float()
    return out.reshape(b, h, rows, -1)


def _own(table: Tensor, x: Tensor) -> Tensor:
    """A table over keys, [K], [H, K] or [B, H, K], against scores [B, H, Q, K]."""
    return table.to(x).unsqueeze(-2)


def _per_key(table: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    b, h, _, keys = x.shape
    table = table.to(x).expand(b, h, -1)
    index = labels.unsqueeze(1) if labels.dim() == 2 else labels
    return table.gather(-1, index.expand(b, h, keys).long()).unsqueeze(2)
