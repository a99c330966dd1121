"""Remembers where each token's row looked on the picture, also when a search goes back."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.layout import ImageSpan, Layout


class Gaze(AttentionPolicy):
    """Attention rows to the first picture, mean of heads, sum of layers; changes nothing.

    Rows are counted by the tokens before them, so that one decoded anew takes its past's place.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._rows: dict[int, Tensor] = {}

    @property
    def span(self) -> ImageSpan:
        """The picture's tokens."""
        return self.layout.images[0]

    def fork(self) -> "Gaze":
        """Rows to come are another hypothesis' own."""
        other = Gaze(self.layout)
        other._rows = dict(self._rows)
        return other

    def looks(self, layer: int) -> bool:
        """Every layer."""
        return True

    def look(self, layer: int, x: Tensor) -> None:
        """One layer's row, from its scores [H, K]."""
        seen = torch.softmax(x.double(), -1)[:, self.span.start : self.span.stop].mean(0).cpu()
        row = x.shape[1] - self.layout.length
        self._rows[row] = seen if layer == 0 else self._rows[row] + seen

    def heat(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Where the rows that gave the answer's tokens [start, stop) looked [rows, columns]."""
        total = torch.stack([self._rows[row] for row in range(start, stop)]).sum(0)
        return self.span.heat(total.numpy())
