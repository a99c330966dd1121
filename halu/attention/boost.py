"""Raising the scores of chosen keys in proportion to their size (PAI and what grew out of it)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from halu.attention import ScoreMap
from halu.attention.policy import AttentionPolicy, Rows


class Boost(AttentionPolicy):
    """x + a_g |x| for the scores of group g's keys; group 0, to which generated tokens belong,
    keeps its own.

    Args:
        labels: group of each prompt key [T].
        amounts: a_1, a_2, ...
        layers: layers that take part.
        rows: prompt rows that take part.
    """

    settled = True
    pieces = True

    def __init__(
        self, labels: Tensor, amounts: Sequence[float], layers: range, rows: Rows = "last"
    ) -> None:
        self.rows = rows
        self.groups = len(amounts) + 1
        self.layers = layers
        self._labels = labels
        added = torch.tensor([0.0, *amounts])
        self._map = ScoreMap(1 + added, 1 - added, torch.zeros(self.groups))

    def labels(self, layer: int) -> Tensor | None:
        """None outside the boosted layers."""
        return self._labels if layer in self.layers else None

    def score_map(self, layer: int) -> ScoreMap:
        """Slopes 1 + a and 1 - a."""
        return self._map
