"""One forward's steering: which row of the batch runs under which policies, applied layer by layer.

Built anew for each forward and passed down to the attention function as an argument, so nothing is
stored on the model and two requests cannot meet. Rows without a policy keep the host's own
attention.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from halu.attention import KeyMap, weighted_attention
from halu.attention.reference import Changes, column_mass, members, scores, softmax
from halu.attention.regrouping import Regrouping
from halu.attention.stacking import stacked, stacked_keys, stacked_maps
from halu.attention.steered import Steered
from halu.attention.trace import Trace

Plain = Callable[[Tensor], Tensor]
"""The host's attention for these rows of the batch: indices [n] -> outputs [n, H, Q, D]."""


class Steering:
    """All rows of one forward.

    Args:
        rows: the steering of each row of the batch.
        lengths: keys that each row sees after this forward, padding not counted.
        pads: padding slots before each row's first key (left padding).
        prefill: whether this forward carries prompts (any number of queries) or one new token a
            row.
    """

    def __init__(
        self,
        rows: Sequence[Steered],
        lengths: Sequence[int],
        *,
        prefill: bool,
        pads: Sequence[int] | None = None,
    ) -> None:
        self.rows = rows
        self.lengths = lengths
        self.pads = pads or [0] * len(rows)
        self.prefill = prefill

    def read(self, layer: int, hidden: Tensor) -> Tensor:
        """Shows the residual streams [B, T, D] that enter a layer to the policies that ask for
        them; returns them as the policies leave them.
        """
        for index, row in enumerate(self.rows):
            span = self._span(index) if self.prefill else slice(None)
            for policy in row.policies:
                if policy.reads == "all" or (policy.reads == "prompt" and self.prefill):
                    found = policy.read(layer, hidden[index, span])
                    if found is not None:
                        hidden = hidden.clone()
                        hidden[index, span] = found
            if layer in row.taps:
                row.tapped[layer] = hidden[index, span][-1]
        return hidden

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, plain: Plain
    ) -> Tensor:
        """Head outputs [B, H, Q, D] of one layer.

        Args:
            layer: which layer.
            q: queries [B, H, Q, D].
            k: keys [B, Hkv, K, D], the cached ones included.
            v: values like k.
            scale: factor on q.k.
            plain: the host's own attention.
        """
        return (
            self._prompts(layer, q, k, v, scale, plain)
            if self.prefill
            else self._tokens(layer, q, k, v, scale, plain)
        )

    def _span(self, index: int) -> slice:
        return slice(self.pads[index], self.pads[index] + self.lengths[index])

    def _prompts(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, plain: Plain
    ) -> Tensor:
        out = plain(torch.arange(len(self.rows), device=q.device))
        for index, row in enumerate(self.rows):
            if row.active:
                span, one = self._span(index), slice(index, index + 1)
                mine = out[one, :, span]
                out[one, :, span] = _prompt(
                    layer, row, q[one, :, span], k[one, :, span], v[one, :, span], scale, mine
                )
        return out

    def _tokens(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, plain: Plain
    ) -> Tensor:
        for index, row in enumerate(self.rows):
            one = slice(index, index + 1)
            row.look(layer, q[one], k[one, :, self._span(index)], scale)
        changed = [i for i, row in enumerate(self.rows) if row.regrouping.changes(layer)]
        rest = [index for index in range(len(self.rows)) if index not in changed]
        out = torch.empty_like(q)
        if rest:
            others = torch.tensor(rest, device=q.device)
            out[others] = plain(others)
        if changed:
            every = not rest
            pick = slice(None) if every else torch.tensor(changed, device=q.device)
            out[pick] = self._mixed(layer, changed, q[pick], k[pick], v[pick], scale).to(q.dtype)
        for index, row in enumerate(self.rows):
            for policy in row.policies:
                factor = policy.head_scale(layer, None)
                if factor is not None:
                    out[index] *= factor.to(out)[:, None, None]
            if row.trace is not None:
                one = slice(index, index + 1)
                keys = k[one, :, self._span(index)]
                _trace(layer, row.trace, row.regrouping, q[one], keys, scale)
        return out

    def _mixed(
        self, layer: int, index: list[int], q: Tensor, k: Tensor, v: Tensor, scale: float
    ) -> Tensor:
        keys = k.shape[2]
        rows = [self.rows[i].regrouping for i in index]
        own = [keys - self.pads[i] for i in index]
        labels = [row.labels(layer, n, k.device) for row, n in zip(rows, own, strict=True)]
        maps = [row.key_map(layer, n, k.device) for row, n in zip(rows, own, strict=True)]
        return _weighted(
            layer,
            rows,
            (q, k, v),
            scale,
            stacked(labels, q.shape[1], keys, 0),
            stacked_keys(maps, q.shape[1], keys),
            mask=self._mask(index, k),
        )

    def _mask(self, rows: list[int], k: Tensor) -> Tensor | None:
        keys = k.shape[2]
        if all(self.lengths[i] == keys for i in rows):
            return None
        position = torch.arange(keys, device=k.device)
        start = torch.tensor([self.pads[i] for i in rows], device=k.device)
        stop = start + torch.tensor([self.lengths[i] for i in rows], device=k.device)
        return ((position >= start[:, None]) & (position < stop[:, None]))[
            :, None, None
        ]  # [B, 1, 1, K]


def _prompt(
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
            found = _weighted(layer, [part], some, scale, *_tables(layer, part, k), first=start)
            out[:, :, start:stop] = found.to(out.dtype)
    last = out[0, :, -1].to(torch.float32, copy=True)  # before any policy scales it
    for policy in row.policies:
        factor = policy.head_scale(layer, last)
        if factor is not None:
            rows = slice(row.starts(policy.rows), None)
            out[:, :, rows] = out[:, :, rows] * factor.to(out)[:, None, None]
    if row.trace is not None:
        *_, (_, _, part) = _segments(row, keys, lent=True)
        _trace(layer, row.trace, part, q[:, :, -1:], k, scale)
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


def _tables(layer: int, part: Regrouping, k: Tensor) -> tuple[Tensor, KeyMap | None]:
    """Labels [1, K] or [1, H, K] and key map of one row."""
    keys = k.shape[2]
    return part.labels(layer, keys, k.device)[None], part.key_map(layer, keys, k.device)


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


def _weighted(
    layer: int,
    rows: Sequence[Regrouping],
    qkv: tuple[Tensor, Tensor, Tensor],
    scale: float,
    labels: Tensor,
    key_map: KeyMap | None,
    *,
    mask: Tensor | None = None,
    first: int | None = None,
) -> Tensor:
    groups = max(row.groups for row in rows)

    def epilogue(mass: Tensor) -> Tensor | None:
        weights = [row.weights(layer, mass[i]) for i, row in enumerate(rows)]
        if all(w is None for w in weights):
            return None
        return torch.stack([torch.ones_like(mass[0]) if w is None else w for w in weights])

    return weighted_attention(
        *qkv,
        labels,
        groups,
        scale=scale,
        epilogue=epilogue,
        mask=mask,
        first=first,
        score_map=stacked_maps(layer, rows, groups, qkv[0]),
        key_map=key_map,
    )


def _trace(layer: int, trace: Trace, part: Regrouping, q: Tensor, k: Tensor, scale: float) -> None:
    """Records where one query row looked, as its policies left it."""
    x = scores(q, k, scale)
    if not part.changes(layer):
        trace.add(softmax(x, None)[0][0, :, 0])
        return
    labels, key_map = _tables(layer, part, k)
    changes = Changes(part.score_map(layer), key_map)
    p = softmax(changes.scores(x, labels), None)[0]  # [1, H, 1, K]
    member = members(labels, part.groups)
    weights = part.weights(layer, (p @ member.transpose(-1, -2))[0])
    if weights is not None:
        p = p * (weights @ member)
    trace.add(p[0, :, 0])
