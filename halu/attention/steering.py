"""One forward's steering: which row of the batch runs under which policies, applied layer by layer.

Built anew for each forward and passed down to the attention function as an argument, so nothing is
stored on the model and two requests cannot meet. Rows without a policy keep the host's own
attention.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.attention import ScoreMap, grouped_attention, merge
from halu.attention.policy import AttentionPolicy, Stacked
from halu.attention.reference import mapped, scores, softmax
from halu.attention.trace import Trace
from halu.layout import Layout

Plain = Callable[[Tensor], Tensor]
"""The host's attention for these rows of the batch: indices [n] -> outputs [n, H, Q, D]."""


@dataclass(slots=True)
class Steered:
    """One branch's steering for as long as it lives: its policies, its prompt, and what is recorded
    of it.
    """

    layout: Layout
    policies: tuple[AttentionPolicy, ...] = ()
    trace: Trace | None = None
    grouping: AttentionPolicy | None = field(init=False)
    _tables: dict[int, Tensor | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        parts = [policy for policy in self.policies if policy.groups > 1]
        self.grouping = Stacked(parts) if len(parts) > 1 else (parts[0] if parts else None)

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.policies) or self.trace is not None

    def labels(self, layer: int, keys: int, device: torch.device) -> Tensor | None:
        """Group of each key [keys]: the prompt's labels, then the generated tokens' label; none:
        silent.
        """
        if self.grouping is None:
            return None
        table = self._tables.get(layer)
        if layer not in self._tables or (table is not None and table.shape[0] < keys):
            prompt = self.grouping.labels(layer)
            if prompt is not None:
                table = torch.full(
                    (keys + 256,), self.grouping.generated, dtype=torch.int64, device=device
                )
                table[: self.layout.length] = prompt.to(device)
            self._tables[layer] = table
        return None if table is None else table[:keys]


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

    def read(self, layer: int, hidden: Tensor) -> None:
        """Shows the layer inputs [B, T, D] of the prompts to the policies that ask for them."""
        if not self.prefill:
            return
        for index, row in enumerate(self.rows):
            for policy in row.policies:
                if policy.reads_hidden:
                    policy.read(layer, hidden[index, self._span(index)])

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
                out[one, :, span] = self._prompt(
                    layer, row, q[one, :, span], k[one, :, span], v[one, :, span], scale, mine
                )
        return out

    def _prompt(
        self, layer: int, row: Steered, q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor
    ) -> Tensor:
        keys = k.shape[2]
        first = _first_row(row.grouping, row.layout) if row.grouping else keys
        labels = row.labels(layer, keys, k.device) if first < keys else None
        out = out.clone()
        if labels is not None:
            out[:, :, first:] = _mixed(
                layer, [row], q[:, :, first:], k, v, labels[None], scale, first=first
            ).to(out.dtype)
        for policy in row.policies:
            factor = policy.head_scale(layer, out[0, :, -1].to(torch.float32, copy=True))
            if factor is not None:
                rows = slice(_first_row(policy, row.layout), None)
                out[:, :, rows] = out[:, :, rows] * factor.to(out)[:, None, None]
        if row.trace is not None:
            _look(layer, row, q[:, :, -1:], k, labels, scale)
        return out

    def _tokens(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, plain: Plain
    ) -> Tensor:
        keys = k.shape[2]
        tables = [
            row.labels(layer, keys - pad, k.device)
            for row, pad in zip(self.rows, self.pads, strict=True)
        ]
        mixed = [index for index, table in enumerate(tables) if table is not None]
        rest = [index for index, table in enumerate(tables) if table is None]
        out = torch.empty_like(q)
        if rest:
            others = torch.tensor(rest, device=q.device)
            out[others] = plain(others)
        if mixed:
            rows = [self.rows[index] for index in mixed]
            labels = torch.stack([_padded(tables[i], keys) for i in mixed])
            every = len(mixed) == len(self.rows)
            pick = slice(None) if every else torch.tensor(mixed, device=q.device)
            out[pick] = _mixed(
                layer, rows, q[pick], k[pick], v[pick], labels, scale, self._mask(mixed, k)
            ).to(q.dtype)
        for index, row in enumerate(self.rows):
            for policy in row.policies:
                factor = policy.head_scale(layer, None)
                if factor is not None:
                    out[index] *= factor.to(out)[:, None, None]
            if row.trace is not None:
                one, span = slice(index, index + 1), self._span(index)
                table = tables[index]
                own = None if table is None else table[: self.lengths[index]]
                _look(layer, row, q[one], k[one, :, span], own, scale)
        return out

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


def _first_row(policy: AttentionPolicy, layout: Layout) -> int:
    after = max((span.stop for span in layout.images), default=0)
    return {"all": 0, "after_image": after, "last": layout.length - 1, "decode": layout.length}[
        policy.rows
    ]


def _padded(table: Tensor | None, keys: int) -> Tensor:
    assert table is not None
    missing = keys - table.shape[0]
    return table if missing == 0 else torch.cat([table.new_zeros(missing), table])


def _mixed(
    layer: int,
    rows: Sequence[Steered],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    scale: float,
    mask: Tensor | None = None,
    first: int | None = None,
) -> Tensor:
    groups = max(row.grouping.groups for row in rows if row.grouping is not None)
    maps = _stacked_maps(layer, rows, groups, q)
    grouped = grouped_attention(
        q, k, v, labels, groups, scale=scale, mask=mask, first=first, score_map=maps
    )
    weights = [_weights(layer, row, grouped.mass[i]) for i, row in enumerate(rows)]
    if all(w is None for w in weights):
        return merge(grouped)
    ones = torch.ones_like(grouped.mass[0])
    return merge(grouped, torch.stack([ones if w is None else w for w in weights]))


def _weights(layer: int, row: Steered, mass: Tensor) -> Tensor | None:
    assert row.grouping is not None
    groups = row.grouping.groups
    found = row.grouping.weights(layer, mass[..., :groups])
    if found is None or groups == mass.shape[-1]:
        return found
    return torch.nn.functional.pad(found, (0, mass.shape[-1] - groups), value=1.0)


def _stacked_maps(layer: int, rows: Sequence[Steered], groups: int, q: Tensor) -> ScoreMap | None:
    found = [row.grouping.score_map(layer) if row.grouping else None for row in rows]
    if all(m is None for m in found):
        return None
    neutral = (1.0, 1.0, 0.0)

    def table(index: int) -> Tensor:
        out = torch.full((len(rows), q.shape[1], groups), neutral[index], device=q.device)
        for row, score_map in enumerate(found):
            if score_map is not None:
                part = (score_map.up, score_map.down, score_map.bias)[index].to(out)
                out[row, :, : part.shape[-1]] = part
        return out

    return ScoreMap(table(0), table(1), table(2))


def _look(
    layer: int, row: Steered, q: Tensor, k: Tensor, labels: Tensor | None, scale: float
) -> None:
    """Records where one query row looked, as its policy left it."""
    assert row.trace is not None
    x = scores(q, k, scale)
    if labels is None or row.grouping is None:
        row.trace.add(softmax(x, None)[0][0, :, 0])
        return
    found = row.grouping.score_map(layer)
    if found is not None:
        x = mapped(x, labels[None], (found.up, found.down, found.bias))
    p = softmax(x, None)[0]  # [1, H, 1, K]
    member = torch.nn.functional.one_hot(labels, row.grouping.groups).to(p)
    weights = row.grouping.weights(layer, (p @ member)[0])
    if weights is not None:
        p = p * (weights @ member.T)
    row.trace.add(p[0, :, 0])
