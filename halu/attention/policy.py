"""What a strategy may ask of attention: labels for keys, a score map, weights for groups, a factor
for heads.

A policy belongs to one branch of one request and may keep what it learnt from the prompt (VAR's
sinks, VHR's heads). It knows nothing of batches, caches or models; `halu.attention.steering` calls
it, layer by layer.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from halu.attention import ScoreMap

Rows = Literal["all", "after_image", "last", "decode"]
"""Which prompt rows a policy acts on; every generated token's row is always included."""


class AttentionPolicy:
    """Neutral in every respect; a method overrides what it needs.

    Attributes:
        rows: prompt rows whose attention is changed.
        groups: number of key groups, labels lie in [0, groups).
        generated: label of the keys of generated tokens.
        reads_hidden: whether `read` wants the layer inputs of the prompt.
    """

    rows: Rows = "all"
    groups: int = 1
    generated: int = 0
    reads_hidden: bool = False

    def read(self, layer: int, hidden: Tensor) -> None:
        """Sees the prompt's residual stream [T, D] as it enters a layer, once, before that layer's
        attention.
        """

    def labels(self, layer: int) -> Tensor | None:
        """Group of each prompt key [T], or none if groups play no role in this layer."""
        return None

    def score_map(self, layer: int) -> ScoreMap | None:
        """Change of the scores by group."""
        return None

    def weights(self, layer: int, mass: Tensor) -> Tensor | None:
        """Factor of each group's output [H, Q, G] as a function of the masses [H, Q, G]; none means
        1.
        """
        return None

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor | None:
        """Factor of each head's output [H] on this policy's rows.

        Args:
            layer: which layer.
            last: in the prompt's forward the head outputs [H, D] of the last row; none in later
                steps.
        """
        return None


class Stacked(AttentionPolicy):
    """Several group policies at once: each sees its own groups of the same masses, and their
    weights multiply.

    Labels are the product of the parts' labels. The parts act on the same rows, since one pass
    serves all.
    """

    def __init__(self, parts: Sequence[AttentionPolicy]) -> None:
        self.parts = tuple(parts)
        self.rows = parts[0].rows
        self.groups = 1
        self.generated = 0
        for part in parts:
            self.groups *= part.groups
            self.generated = self.generated * part.groups + part.generated

    def labels(self, layer: int) -> Tensor | None:
        """Mixed-radix product of the parts' labels [T]; a part that is silent in this layer counts
        as label 0.
        """
        known = [part.labels(layer) for part in self.parts]
        some = next((table for table in known if table is not None), None)
        if some is None:
            return None
        joint = torch.zeros_like(some)
        for part, table in zip(self.parts, known, strict=True):
            joint = joint * part.groups + (0 if table is None else table)
        return joint

    def score_map(self, layer: int) -> ScoreMap | None:
        """The one score map among the parts (composition refuses two)."""
        for index, part in enumerate(self.parts):
            found = part.score_map(layer) if part.labels(layer) is not None else None
            if found is not None:
                return ScoreMap(
                    *(self._spread(t, index) for t in (found.up, found.down, found.bias))
                )
        return None

    def weights(self, layer: int, mass: Tensor) -> Tensor | None:
        """Product of the parts' weights, each computed from the masses summed over the other parts'
        groups.
        """
        total: Tensor | None = None
        joint = mass.reshape(*mass.shape[:2], *(part.groups for part in self.parts))
        for index, part in enumerate(self.parts):
            if part.labels(layer) is None:
                continue
            others = [axis + 2 for axis in range(len(self.parts)) if axis != index]
            own = part.weights(layer, joint.sum(others) if others else joint)
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
