"""Where each token looked: attention by key group and picture token, mean of layers and heads."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from halu.layout import Layout
from halu.types import Heat


class Trace:
    """Collects one branch's attention rows; `take` closes the row of the token just decoded.

    Attention says where the model read from, not why it said something.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._sum: Tensor | None = None
        self._layers = 0

    def add(self, probabilities: Tensor) -> None:
        """One layer's row [H, K], as the policy left it."""
        row = probabilities.mean(0)
        self._sum = row if self._sum is None else self._sum + row
        self._layers += 1

    def take(self) -> tuple[dict[str, float], tuple[Heat, ...]]:
        """Mass by group and heat by picture since the last call."""
        assert self._sum is not None
        row: npt.NDArray[np.float64] = (self._sum / self._layers).to(torch.float64).cpu().numpy()
        self._sum, self._layers = None, 0
        return self._mass(row), self._heat(row)

    def _mass(self, row: npt.NDArray[np.float64]) -> dict[str, float]:
        layout = self.layout
        image = float(row[: layout.length][layout.is_image()].sum())
        system = float(row[layout.system].sum())
        answer = float(row[layout.length :].sum())
        question = float(row.sum()) - image - system - answer
        return {"system": system, "image": image, "question": question, "answer": answer}

    def _heat(self, row: npt.NDArray[np.float64]) -> tuple[Heat, ...]:
        heats = []
        for index, span in enumerate(self.layout.images):
            grid = span.heat(row[span.start : span.stop])
            values = tuple(float(f"{value:.4g}") for value in grid.ravel())
            heats.append(
                Heat(image=index, rows=grid.shape[0], columns=grid.shape[1], values=values)
            )
        return tuple(heats)
