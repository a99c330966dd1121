"""What a prompt's forward does to one row: watched columns, borrowed heads, and policies that act
on different stretches of the prompt.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from halu.attention import column_mass
from halu.attention.regrouped import record, regrouped, tables
from halu.attention.regrouping import Regrouping
from halu.attention.steered import Steered


def prompt_outputs(
    layer: int, row: Steered, q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor
) -> Tensor:
    """One prompt's outputs [1, H, T, D], from what the host's attention gives."""
    keys = k.shape[2]
    _watch(layer, row, q, k, scale)
    row.look(layer, q, k, scale)
    out = out.clone()
    heads = next((h for p in row.policies if (h := p.borrowed_heads(layer)) is not None), None)
    if heads is not None:
        q, k, v = _borrowed(heads, q, k, v)
    for start, stop, part in _segments(row, keys, lent=heads is not None):
        if part.changes(layer) or heads is not None:
            some = (q[:, :, start:stop], k, v)
            found = regrouped(layer, [part], some, scale, *tables(layer, part, k), first=start)
            out[:, :, start:stop] = found.to(out.dtype)
    last = out[0, :, -1].to(torch.float32, copy=True)  # before any policy scales it
    for policy in row.policies:
        factor = policy.head_scale(layer, last)
        if factor is not None:
            rows = slice(row.starts(policy.rows), None)
            out[:, :, rows] = out[:, :, rows] * factor.to(out)[:, None, None]
    if row.trace is not None:
        *_, (_, _, part) = _segments(row, keys, lent=True)
        record(layer, row.trace, part, q[:, :, -1:], k, scale)
    return out


def _segments(row: Steered, keys: int, lent: bool) -> Iterator[tuple[int, int, Regrouping]]:
    """Rows [start, stop) of a prompt and the policies that act on them; with `lent`, rows on which
    none acts come too.
    """
    bare = (0, Regrouping((), (), keys))
    passes = (bare, *row.passes) if lent else row.passes
    stops = (*(start for start, _ in passes), keys)[1:]
    for (start, part), stop in zip(passes, stops, strict=True):
        if start < min(stop, keys):
            yield start, min(stop, keys), part


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
