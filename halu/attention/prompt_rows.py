"""What a prompt's forward does to one row: watched columns, borrowed heads, and policies that act
on different stretches of the prompt.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from halu.attention import column_mass
from halu.attention.keys import Keys
from halu.attention.regrouped import record, regrouped, tables
from halu.attention.regrouping import Regrouping
from halu.attention.steered import Steered


def prompt_outputs(
    layer: int, row: Steered, q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor
) -> Tensor:
    """Outputs [1, H, Q, D] of one prompt's rows, from what the host's attention gives.

    The queries are those of the last Q keys: of all, or of the piece of the prompt that has come.
    """
    first, whole = k.shape[2] - q.shape[2], k.shape[2] >= row.layout.length
    if whole:
        _watch(layer, row, q, k, scale)
        row.look(layer, q, k, scale)
    out = out.clone()
    heads = next((h for p in row.policies if (h := p.borrowed_heads(layer)) is not None), None)
    if heads is not None:
        q, k, v = _borrowed(heads, q, k, v)
    for start, stop, part in _segments(row, first, k.shape[2], lent=heads is not None):
        if part.changes(layer) or heads is not None:
            own = slice(start - first, stop - first)
            some, keys = q[:, :, own], Keys(k, v)
            told = tables(layer, part, k)
            found = regrouped(layer, [part], some, keys, scale, *told, first=start)
            out[:, :, own] = found.to(out.dtype)
    # the last row's, before any policy scales it
    last = out[0, :, -1].to(torch.float32, copy=True) if whole else None
    for policy in row.policies:
        factor = policy.head_scale(layer, last)
        if factor is not None:
            rows = slice(max(row.starts(policy.rows) - first, 0), None)
            out[:, :, rows] = out[:, :, rows] * factor.to(out)[:, None, None]
    if row.trace is not None:
        *_, (_, _, part) = _segments(row, first, k.shape[2], lent=True)
        record(layer, row.trace, part, q[:, :, -1:], k, scale)
    return out


def _segments(
    row: Steered, first: int, keys: int, lent: bool
) -> Iterator[tuple[int, int, Regrouping]]:
    """Rows [start, stop) of a prompt, from `first` on, and the policies that act on them; with
    `lent`, rows on which none acts come too.
    """
    bare = (0, Regrouping((), (), keys))
    passes = (bare, *row.passes) if lent else row.passes
    stops = (*(start for start, _ in passes), keys)[1:]
    for (start, part), stop in zip(passes, stops, strict=True):
        if max(start, first) < min(stop, keys):
            yield max(start, first), min(stop, keys), part


def _watch(layer: int, row: Steered, q: Tensor, k: Tensor, scale: float) -> None:
    for policy in row.policies:
        rows = policy.watch(layer)
        if rows is not None:
            mass, own = column_mass(q, k, rows.to(q.device), scale)
            policy.watched(layer, mass[0], own[0])


def _borrowed(heads: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys [1, H, T, D] of other heads, each head's own values."""
    share = q.shape[1] // k.shape[1]
    heads = heads.to(q.device)
    return q[:, heads], k[:, heads // share], v.repeat_interleave(share, 1)
