"""The specification of grouped attention, in plain torch, on any device.

Queries are taken in blocks, so that no N x N map is ever held.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from halu.attention.inputs import Inputs
from halu.attention.keys import Keys
from halu.attention.maps import KeyMap, ScoreMap
from halu.attention.redistribution import Epilogue

BLOCK = 128


@dataclass(frozen=True, slots=True)
class Changes:
    """What happens to scores [B, H, Q, K] before the softmax, and to the probabilities after the
    masses are taken.
    """

    by_group: ScoreMap | None = None
    by_key: KeyMap | None = None

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
    """Scaled dot products [B, H, Q, K] in float32, of keys [B, Hkv, K, D] in a row."""
    return Keys(k, k).dot(q) * scale


def probabilities(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax [B, H, Q, K] over the keys that a query sees; one that sees none: zeros."""
    x = _masked(x, mask)
    return torch.where(torch.isneginf(x.amax(-1, keepdim=True)), 0.0, torch.softmax(x, -1))


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else torch.where(mask, x, float("-inf"))


def grouped_reference(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Masses [B, H, Q, G], partial outputs [B, H, Q, G, D] and log-sum-exp [B, H, Q], float32."""
    parts = []
    rows = _Rows(inputs)
    for x, seen in rows.blocks():
        p = probabilities(x, seen)
        mass = masses(p, rows.member)
        split = rows.changes.values(p).unsqueeze(3) * rows.member.unsqueeze(2)  # [B, H, Q, G, K]
        out = rows.keys.mix(split.flatten(2, 3)).unflatten(2, (-1, inputs.groups))
        parts.append((mass, out, torch.logsumexp(_masked(x, seen), -1)))
    mass, out, lse = (torch.cat(part, 2) for part in zip(*parts, strict=True))
    return mass, out, lse


def weighted_reference(inputs: Inputs, epilogue: Epilogue | None) -> Tensor:
    """Outputs [B, H, Q, D], float32: every probability times the weight of its key's group."""
    parts = []
    rows = _Rows(inputs)
    for x, seen in rows.blocks():
        p = probabilities(x, seen) if rows.hides else torch.softmax(x, -1)
        weights = None if epilogue is None else epilogue(masses(p, rows.member))
        if weights is not None:
            p = p * spread(weights, rows.member)
        parts.append(rows.keys.mix(rows.changes.values(p)))
    return torch.cat(parts, 2) if len(parts) > 1 else parts[0]


def members(labels: Tensor, groups: int) -> Tensor:
    """One where a key belongs to a group, else zero [B, 1 or H, G, K]."""
    index = torch.arange(groups, device=labels.device).unsqueeze(-1)
    member = (labels.unsqueeze(-2) == index).float()
    return member if member.dim() == 4 else member.unsqueeze(1)


def masses(p: Tensor, member: Tensor) -> Tensor:
    """Probability of each group [B, H, Q, G], from that of each key [B, H, Q, K]."""
    return _shared(p, member.transpose(-1, -2))


def spread(weights: Tensor, member: Tensor) -> Tensor:
    """The weight of each key's group [B, H, Q, K], from those of the groups [B, H, Q, G]."""
    return _shared(weights, member)


def _shared(x: Tensor, table: Tensor) -> Tensor:
    """x [B, H, Q, N] @ table [B, 1 or H, N, M], a table of all heads not copied for each."""
    if table.shape[1] == x.shape[1]:
        return x @ table
    return (x.flatten(1, 2) @ table[:, 0]).reshape(*x.shape[:3], -1)


def column_reference(q: Tensor, k: Tensor, rows: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """For a causal prompt [B, H, T, D]: each key's probability summed over the query rows `rows`
    [R], and in its own row, both [B, H, T].
    """
    total = torch.zeros(q.shape[:3], device=q.device)
    own = torch.zeros_like(total)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        seen = torch.arange(k.shape[2], device=q.device) <= part[:, None]
        p = probabilities(scores(q[:, :, part], k, scale), seen[None, None])
        total += p.sum(2)
        own[:, :, part] = p.gather(-1, part.expand(*p.shape[:2], -1).unsqueeze(-1)).squeeze(-1)
    return total, own


class _Rows:
    """Rows of probabilities of one call.

    Attributes:
        hides: whether there may be a query that sees no key.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.keys = inputs.cached
        self.labels = inputs.table
        self.changes = Changes(inputs.score_map, inputs.key_map)
        self.member = members(self.labels, inputs.groups)
        hiding = (inputs.mask, inputs.first, inputs.within, inputs.score_map, inputs.key_map)
        self.hides = any(one is not None for one in hiding)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Scores [B, H, q, K] of one block of queries after another, and where these may look;
        none: everywhere.
        """
        for start in range(0, self.inputs.q.shape[2], BLOCK):
            q = self.inputs.q[:, :, start : start + BLOCK]
            x = self.changes.scores(self.keys.dot(q) * self.inputs.scale, self.labels)
            yield x, self._seen(start, x)

    def _seen(self, start: int, x: Tensor) -> Tensor | None:
        """Where the queries from `start` on may look."""
        mask, first, within = self.inputs.mask, self.inputs.first, self.inputs.within
        rows = slice(start, start + BLOCK)
        seen = mask[:, :, rows] if mask is not None and mask.shape[2] > 1 else mask
        if first is not None:
            seen = _causal(first + start, x)
        if within is None:
            return seen
        position = torch.arange(x.shape[-1], device=x.device)
        low, high = (edge[:, None] for edge in within)
        inside = ((position >= low) & (position < high))[:, None, None]
        return inside if seen is None else inside & seen


def _causal(first: int, x: Tensor) -> Tensor:
    """True where the queries from position `first` on may look [1, 1, Q, K]."""
    position = torch.arange(x.shape[-1], device=x.device)
    query = torch.arange(first, first + x.shape[2], device=x.device)
    return (position <= query[:, None])[None, None]


def _own(table: Tensor, x: Tensor) -> Tensor:
    """A table over keys, [K], [H, K] or [B, H, K], against scores [B, H, Q, K]."""
    return table.to(x).unsqueeze(-2)


def _per_key(table: Tensor, labels: Tensor, x: Tensor) -> Tensor:
    """What a table over groups, [G], [H, G] or [B, H, G], says of each key [B, 1 or H, 1, K]; what
    all heads share is looked up once.
    """
    table = table.to(x).reshape((1,) * (3 - table.dim()) + table.shape)
    index = (labels.unsqueeze(1) if labels.dim() == 2 else labels).long()
    b, h = len(index), max(table.shape[1], index.shape[1])
    return table.expand(b, h, -1).gather(-1, index.expand(-1, h, -1)).unsqueeze(2)
