"""Writes down where the newest token looks, and changes nothing."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.layout import Layout


class Looks(AttentionPolicy):
    """Attention rows to the prompt, mean of heads, of chosen layers: the prompt's last row, then
    each generated token's.

    Attributes:
        steps: for each forward the rows [layers, T], layers in rising order.
    """

    def __init__(self, layout: Layout, layers: Collection[int]) -> None:
        self.layout = layout
        self.layers = sorted(set(layers))
        self.steps: list[npt.NDArray[np.float64]] = []

    def looks(self, layer: int) -> bool:
        """The chosen layers."""
        return layer in self.layers

    def look(self, layer: int, x: Tensor) -> None:
        """Keeps one layer's row from its scores [H, K]."""
        if layer == self.layers[0]:
            self.steps.append(np.zeros((len(self.layers), self.layout.length)))
        row = torch.softmax(x, -1).mean(0)[: self.layout.length]
        self.steps[-1][self.layers.index(layer)] = row.double().cpu().numpy()

    def heats(self, picture: int) -> list[npt.NDArray[np.float64]]:
        """For each forward the maps [layers, rows, columns] on one picture's finest grid."""
        span = self.layout.images[picture]
        return [
            np.stack([span.heat(row[span.start : span.stop]) for row in step])
            for step in self.steps
        ]
