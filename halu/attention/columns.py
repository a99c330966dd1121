"""Writes down how much generated tokens lean on each other, also when a search goes back."""

import copy

import torch
from torch import Tensor
from torch.nn.functional import pad

from halu.attention.policy import AttentionPolicy
from halu.layout import Layout


class Columns(AttentionPolicy):
    """Changes nothing; of one layer's rows, the largest over heads divided by their sum, keeps what
    generated token i gives to generated token j, W_ij.

    Attributes:
        logs: for each generated token i the columns' sums of ln W so far, by j [i + 1].
        picture: what the newest row gives to the pictures.
    """

    def __init__(self, layout: Layout, layer: int) -> None:
        self.layout = layout
        self.layer = layer
        self.image = torch.from_numpy(layout.is_image())
        self.logs: list[Tensor] = []
        self.picture = torch.zeros(())

    def fork(self) -> "Columns":
        """Rows to come are another hypothesis' own."""
        twin = copy.copy(self)
        twin.logs = list(self.logs)
        return twin

    def looks(self, layer: int) -> bool:
        """The one layer."""
        return layer == self.layer

    def look(self, layer: int, x: Tensor) -> None:
        """Adds a generated token's row, from scores [H, K], in the place that it has."""
        prompt = self.layout.length
        row = torch.softmax(x, -1).amax(0)
        row = row / row.sum()
        self.picture = row[:prompt][self.image.to(row.device)].sum()
        own = row[prompt:].double().log()
        if len(own):
            del self.logs[len(own) - 1 :]
            self.logs.append(own + pad(self.logs[-1], (0, 1)) if self.logs else own)
