"""What a drawn picture is known to show, exactly. Knows nothing of how it was drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halu.scenes.atlas import entries

# The categories, in COCO's spelling and order.
NAMES: tuple[str, ...] = tuple(dict.fromkeys(e.name for e in entries() if e.kind == "thing"))
# The least share of a patch that makes it its owner's.
PATCH_SHARE = 0.25

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Thing:
    """An object. `box`: x0, y0, x1, y1 in pixels of the part that shows; `visible`: its share."""

    name: str
    box: Box
    color: str | None
    style: str
    visible: float


@dataclass(frozen=True, slots=True)
class Print:
    """A word on a small sign, with the sign's box. `real`: an English word."""

    text: str
    box: Box
    real: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and its truth. `image`: [S, S, 3] uint8; `owner`: [S, S] index of thing or -1."""

    seed: int
    split: str
    theme: str
    image: npt.NDArray[np.uint8]
    things: tuple[Thing, ...]
    prints: tuple[Print, ...]
    distractors: tuple[str, ...]
    owner: npt.NDArray[np.int16]

    @property
    def counts(self) -> dict[str, int]:
        """Name -> how many, in the order of drawing."""
        return dict(Counter(thing.name for thing in self.things))

    @property
    def names(self) -> frozenset[str]:
        """The categories that are there."""
        return frozenset(thing.name for thing in self.things)

    def labels(self, grid: int) -> npt.NDArray[np.int16]:
        """[grid, grid] index into NAMES of the thing with most of each patch, else -1.

        A thing owns a patch only with at least a quarter of it. `grid` is at most the side.
        """
        side = self.owner.shape[0]
        lines = np.arange(side) * grid // side
        kinds = len(self.things) + 1
        cells = (lines[:, None] * grid + lines[None, :]) * kinds
        flat = (cells + self.owner + 1).ravel()
        shares = np.bincount(flat, minlength=grid * grid * kinds).reshape(grid * grid, kinds)
        most = shares[:, 1:].argmax(1)
        enough = shares[:, 1:].max(1) >= PATCH_SHARE * shares.sum(1)
        table = np.asarray([NAMES.index(thing.name) for thing in self.things], np.int16)
        return np.where(enough, table[most], -1).astype(np.int16).reshape(grid, grid)
