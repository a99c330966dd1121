"""What a strategy may ask of attention, layer by layer.

A policy belongs to one branch of one request and may keep what it learnt from the prompt (VAR's
sinks, VHR's heads). It knows nothing of batches, caches or models; `halu.attention.steering` calls
it. In each layer the order is: `read` the layer's input, `watch` columns of the prompt, `look` at
the newest row, then change scores and outputs.

Letters: H query heads, K keys, T prompt tokens, G groups, D width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from halu.attention import Epilogue, KeyMap, Redistribution, ScoreMap, meeting_place

Rows = Literal["all", "after_image", "last", "decode"]
"""Which prompt rows a policy acts on; every generated token's row is always included."""


class AttentionPolicy:
    """Neutral in every respect; a method overrides what it needs.

    Attributes:
        rows: prompt rows whose attention is changed.
        groups: number of key groups, labels lie in [0, groups).
        generated: label of the keys of generated tokens.
        keyed: whether `key_map` may give something.
        key_rows: prompt rows on which `key_map` acts, if not on all of `rows`.
        looks_back: how many of the prompt's last rows `look` is shown, one after the other.
        reads: in which forwards `read` sees the residual stream.
        carries: whether what it does to a token depends on what it was shown of generated tokens
            before, so that its hypothesis cannot go back.
        settled: whether, once the prompt is read, it answers every question about a generated token
            with the same tables, and weighs masses by the same function, so that a recorded step
            can be repeated without asking it again. Then it neither reads generated tokens'
            streams nor looks at their rows nor hears their scores.
        pieces: whether the prompt may come to it in pieces, forward after forward: what it does to
            a row rests on tables that it has from the start, or it acts from the prompt's last row
            on. Of the prompt it is then shown that row alone, by one `look`, and `head_scale` is
            given it; it watches, reads and borrows nothing.
    """

    rows: Rows = "all"
    groups: int = 1
    generated: int = 0
    keyed: bool = False
    key_rows: Rows | None = None
    looks_back: int = 1
    reads: Literal["none", "prompt", "all"] = "none"
    carries: bool = False
    settled: bool = False
    pieces: bool = False

    def fork(self) -> "AttentionPolicy":
        """The policy of another hypothesis that goes on from here: itself, unless it learns from
        generated tokens; then a copy whose learning does not touch this one.
        """
        return self

    def read(self, layer: int, hidden: Tensor) -> Tensor | None:
        """Sees the residual stream [T, D] ([1, D] for a generated token) as it enters a layer, and
        under the number of layers as it enters the final norm; a tensor takes its place.
        """
        return None

    def watch(self, layer: int) -> Tensor | None:
        """Indices of the prompt rows whose attention `watched` wants summed by key."""
        return None

    def watched(self, layer: int, mass: Tensor, own: Tensor) -> None:
        """Column masses of the prompt, unchanged attention: `mass` [H, T] sums each key's
        probability over the watched rows, `own` [H, T] is each key's probability in its own row.
        """

    def looks(self, layer: int) -> bool:
        """Whether `look` wants this layer."""
        return False

    def look(self, layer: int, x: Tensor) -> None:
        """Sees the scaled scores [H, K] of the newest row, unchanged: the prompt's last (and before
        it those that `looks_back` asks for), then each generated token's.
        """

    def heard(self, scores: Tensor) -> None:
        """Sees the branch's row of scores [V] that a forward gave, before any rule."""

    def borrowed_heads(self, layer: int) -> Tensor | None:
        """For each head [H] the one whose queries and keys it borrows, in the prompt's forward."""
        return None

    def labels(self, layer: int) -> Tensor | None:
        """Group of each prompt key, [T] or [H, T]; none if groups play no role in this layer. It is
        asked in every forward, but a table that generated tokens have seen stays.
        """
        return None

    def score_map(self, layer: int) -> ScoreMap | None:
        """Change of the scores by group."""
        return None

    def key_map(self, layer: int) -> KeyMap | None:
        """Change of scores and values by key, tables over [K'] or [H, K'] for the first K' keys,
        at least the prompt's; further keys stay.
        """
        return None

    def epilogue(self, layer: int) -> Epilogue | None:
        """Factor of each group's output [H, Q, G] as a function of the masses [H, Q, G]; none means
        1. A `Redistribution` is such a function that kernels know.
        """
        return None

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor | None:
        """Factor of each head's output [H] on this policy's rows.

        Args:
            layer: which layer.
            last: in the forward that reads the prompt's last row that row's head outputs [H, D];
                none in later steps, and in earlier pieces of the prompt.
        """
        return None

    @property
    def rows_of_keys(self) -> Rows:
        """Prompt rows on which `key_map` acts."""
        return self.key_rows or self.rows


class Stacked(AttentionPolicy):
    """The groups of several policies at once: each sees its own groups of the same masses, their
    weights multiply, their score maps follow one another.

    Labels are the product of the parts' labels.
    """

    def __init__(self, parts: Sequence[AttentionPolicy]) -> None:
        self.parts = tuple(parts)
        self.groups = 1
        self.generated = 0
        for part in parts:
            self.groups *= part.groups
            self.generated = self.generated * part.groups + part.generated

    def labels(self, layer: int) -> Tensor | None:
        """Mixed-radix product of the parts' labels; a part that is silent in this layer counts as
        label 0.
        """
        known = [part.labels(layer) for part in self.parts]
        some = next((table for table in known if table is not None), None)
        if some is None:
            return None
        device = meeting_place(*(table for table in known if table is not None))
        joint = torch.zeros((), dtype=some.dtype, device=device)
        for part, table in zip(self.parts, known, strict=True):
            joint = joint * part.groups + (0 if table is None else table.to(device))
        return joint

    def score_map(self, layer: int) -> ScoreMap | None:
        """The parts' score maps, one after another."""
        total: ScoreMap | None = None
        for index, part in enumerate(self.parts):
            found = part.score_map(layer) if part.labels(layer) is not None else None
            if found is not None:
                tables = (found.up, found.down, found.bias)
                spread = ScoreMap(*(self._spread(table, index) for table in tables))
                total = spread if total is None else total.then(spread)
        return total

    def epilogue(self, layer: int) -> Epilogue | None:
        """Product of the parts' weights, each computed from the masses summed over the other parts'
        groups; a closed form if only one part has one.
        """
        known = [
            part.epilogue(layer) if part.labels(layer) is not None else None for part in self.parts
        ]
        acting = [(index, own) for index, own in enumerate(known) if own is not None]
        if not acting:
            return None
        if len(acting) == 1 and isinstance(acting[0][1], Redistribution):
            return Redistribution(self._spread(acting[0][1].table, acting[0][0]))
        return lambda mass: self._product(acting, mass)

    def _product(self, acting: Sequence[tuple[int, Epilogue]], mass: Tensor) -> Tensor | None:
        total: Tensor | None = None
        joint = mass.unflatten(-1, [part.groups for part in self.parts])
        lead = mass.dim() - 1
        for index, weigh in acting:
            others = [axis + lead for axis in range(len(self.parts)) if axis != index]
            own = weigh(joint.sum(others) if others else joint)
            if own is not None:
                spread = self._spread(own, index)
                total = spread if total is None else total * spread
        return total

    def _spread(self, table: Tensor, index: int) -> Tensor:
        """A table over one part's groups [..., G_i] as a table over the joint groups [..., G]."""
        sizes = [part.groups for part in self.parts]
        lead = table.shape[:-1]
        shape = [size if axis == index else 1 for axis, size in enumerate(sizes)]
        return table.reshape(*lead, *shape).expand(*lead, *sizes).reshape(*lead, -1)
