"""Which token of a prompt is what. Only adapters make layouts; everybody else reads them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Grid:
    """Image tokens in rows and columns: token `start + row * stride + column` lies at (row,
    column).
    """

    start: int
    rows: int
    columns: int
    stride: int


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """The tokens [start, stop) of one picture; `grids` say where on the picture they lie.

    Tokens on no grid (LLaVA-NeXT's line ends) belong to the picture but not to a place on it.
    """

    start: int
    stop: int
    grids: tuple[Grid, ...]

    def heat(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Weights of this picture's tokens [stop - start] summed onto its finest grid [rows,
        columns].
        """
        fine = max(self.grids, key=lambda grid: grid.rows * grid.columns)
        total = np.zeros((fine.rows, fine.columns))
        for grid in self.grids:
            index = (
                grid.start + grid.stride * np.arange(grid.rows)[:, None] + np.arange(grid.columns)
            )
            total += _stretched(weights[index], fine.rows, fine.columns)
        return total


@dataclass(frozen=True, slots=True)
class Layout:
    """A prompt of `length` tokens with its pictures in order.

    `system` tokens come before the first picture (the start token included), `question` tokens
    after the last. Without a picture everything is question.
    """

    length: int
    images: tuple[ImageSpan, ...] = ()

    @property
    def system(self) -> slice:
        """Tokens before the first picture."""
        return slice(0, self.images[0].start if self.images else 0)

    @property
    def question(self) -> slice:
        """Tokens after the last picture."""
        return slice(self.images[-1].stop if self.images else 0, self.length)

    @property
    def image_tokens(self) -> int:
        """How many tokens are picture."""
        return sum(span.stop - span.start for span in self.images)

    def is_image(self) -> npt.NDArray[np.bool_]:
        """True where a token belongs to a picture [length]."""
        mask = np.zeros(self.length, dtype=bool)
        for span in self.images:
            mask[span.start : span.stop] = True
        return mask


def _stretched(values: npt.NDArray[np.float64], rows: int, columns: int) -> npt.NDArray[np.float64]:
    """A coarse grid spread over a finer one, its sum kept."""
    row = np.arange(rows) * values.shape[0] // rows
    column = np.arange(columns) * values.shape[1] // columns
    spread: npt.NDArray[np.float64] = values[row][:, column]
    return spread * (values.sum() / spread.sum()) if spread.sum() else spread
