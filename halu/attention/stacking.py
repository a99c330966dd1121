"""The tables of several rows of a batch as one, whatever groups and keys each of them has."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from halu.attention import Epilogue, KeyMap, Redistribution, ScoreMap
from halu.attention.regrouping import Regrouping

Made = TypeVar("Made")


class Stack:
    """Score maps and epilogues of several rows as one. What several layers share is made once, for
    as long as the stack lives.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[int, ...]], tuple[Sequence[object], Any]] = {}

    def score_map(
        self, layer: int, rows: Sequence[Regrouping], groups: int, q: Tensor
    ) -> ScoreMap | None:
        """The rows' score maps [n, H, G]; identity where a row or a group has none."""
        found = [row.score_map(layer) for row in rows]
        if all(m is None for m in found):
            return None
        return self._once(groups, found, lambda: _stacked_maps(found, groups, q))

    def epilogue(
        self, layer: int, rows: Sequence[Regrouping], groups: int, q: Tensor
    ) -> Epilogue | None:
        """The rows' epilogues as one: a closed form if all that there are have a closed form."""
        found = [row.epilogue(layer) for row in rows]
        if all(own is None for own in found):
            return None
        if any(own is not None and not isinstance(own, Redistribution) for own in found):
            return lambda mass: _row_by_row(found, mass)
        closed = [own for own in found if own is None or isinstance(own, Redistribution)]
        return self._once(groups, closed, lambda: _stacked_closed(closed, groups, q))

    def _once(self, groups: int, parts: Sequence[object], make: Callable[[], Made]) -> Made:
        """What was made of these very parts, which are kept, so that no other gets their id."""
        key = (groups, tuple(map(id, parts)))
        if key not in self._known:
            self._known[key] = (parts, make())
        made: Made = self._known[key][1]
        return made


def _stacked_maps(found: Sequence[ScoreMap | None], groups: int, q: Tensor) -> ScoreMap:
    if len(found) == 1 and found[0] is not None:
        return found[0].on(q.device)
    neutral = (1.0, 1.0, 0.0)

    def table(index: int) -> Tensor:
        out = torch.full((len(found), q.shape[1], groups), neutral[index], device=q.device)
        for row, score_map in enumerate(found):
            if score_map is not None:
                there = score_map.on(out.device)
                part = (there.up, there.down, there.bias)[index].to(out)
                out[row, :, : part.shape[-1]] = part
        return out

    return ScoreMap(table(0), table(1), table(2))


def _stacked_closed(
    closed: Sequence[Redistribution | None], groups: int, q: Tensor
) -> Redistribution:
    if len(closed) == 1 and closed[0] is not None:
        return closed[0].on(q.device)
    neutral = Redistribution.neutral(groups)
    tables = [(own or neutral).on(q.device).widened(groups).table for own in closed]
    return Redistribution(torch.stack([t.expand(q.shape[1], -1, -1) for t in tables]))


def _row_by_row(epilogues: Sequence[Epilogue | None], mass: Tensor) -> Tensor | None:
    """Weights [n, H, Q, G], each row's own."""
    weights = [None if own is None else own(mass[i]) for i, own in enumerate(epilogues)]
    if all(w is None for w in weights):
        return None
    return torch.stack([torch.ones_like(mass[0]) if w is None else w for w in weights])


def stacked_keys(maps: Sequence[KeyMap | None], heads: int, keys: int) -> KeyMap | None:
    """The rows' key maps [n, K] or [n, H, K]; identity where a row has none."""
    if all(m is None for m in maps):
        return None

    def tables(parts: Sequence[Tensor | None], neutral: float) -> Tensor | None:
        some = next((part for part in parts if part is not None), None)
        if some is None:
            return None
        filled = [some.new_full((1,), neutral) if part is None else part for part in parts]
        table = stacked(filled, heads, keys, neutral)
        return table if table.dim() == 3 else table.unsqueeze(1)  # the same in all heads

    return KeyMap(
        tables([m.factor if m else None for m in maps], 1.0),
        tables([m.bias if m else None for m in maps], 0.0),
        tables([m.gain if m else None for m in maps], 1.0),
    )


def stacked(parts: Sequence[Tensor], heads: int, keys: int, neutral: float) -> Tensor:
    """Tables over keys, [K'] or [H, K'] with K' of the row's own keys, padded on the left to `keys`
    and stacked: [n, K], or [n, H, K] if any is by head.
    """
    if len(parts) == 1 and parts[0].shape[-1] == keys:
        return parts[0].unsqueeze(0)
    padded = [
        part.expand(*part.shape[:-1], keys)
        if part.shape[-1] == 1
        else torch.nn.functional.pad(part, (keys - part.shape[-1], 0), value=neutral)
        for part in parts
    ]
    if any(part.dim() == 2 for part in padded):
        padded = [part.expand(heads, keys) for part in padded]
    return torch.stack(padded)
