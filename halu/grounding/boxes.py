"""Boxes around a thing, closer and wider, and pictures cut out by them. Knows no model."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from halu.grounding import Box

NARROWEST = 1 / 32
"""Least side of a crop, in sides of the picture; image processors refuse slivers."""
TIGHTEST = 0.8
"""Most that a box is shrunk by."""


def grown(box: Box, by: float) -> Box:
    """The box, each side moved out by half of `by` times its length; less than 0 moves in."""
    across, down = by / 2 * (box.right - box.left), by / 2 * (box.bottom - box.top)
    return Box(
        max(0, box.left - across),
        max(0, box.top - down),
        min(1, box.right + across),
        min(1, box.bottom + down),
    )


def nested(box: Box, ratio: float, count: int) -> list[Box]:
    """The box shrunk, as it is, and grown again and again: `count` in all."""
    found = [grown(box, -min(ratio, TIGHTEST)), box]
    while len(found) < count:
        found.append(grown(found[-1], ratio))
    return found


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    across = min(a.right, b.right) - max(a.left, b.left)
    down = min(a.bottom, b.bottom) - max(a.top, b.top)
    shared = max(0, across) * max(0, down)
    return shared / (a.area + b.area - shared) if shared else 0.0


def distinct(boxes: Sequence[Box], least: float, same: float) -> list[Box]:
    """Boxes of at least this area; of those that overlap by more than `same`, the first."""
    found: list[Box] = []
    for box in boxes:
        if box.area >= least and all(overlap(box, other) <= same for other in found):
            found.append(box)
    return found


def around(heat: npt.NDArray[np.float64], share: float) -> Box:
    """The bounding box of the cells [rows, columns] with at least this share of the most heat."""
    hot = heat >= share * heat.max()
    rows, columns = np.flatnonzero(hot.any(1)), np.flatnonzero(hot.any(0))
    return Box(
        float(columns[0] / heat.shape[1]),
        float(rows[0] / heat.shape[0]),
        float((columns[-1] + 1) / heat.shape[1]),
        float((rows[-1] + 1) / heat.shape[0]),
    )


def cut(image: Image.Image, box: Box) -> Image.Image:
    """What the box shows of the picture."""
    edges = []
    for low, high, size in (
        (box.left, box.right, image.width),
        (box.top, box.bottom, image.height),
    ):
        side = max(1, round(max(image.size) * NARROWEST), round((high - low) * size))
        side = min(side, size)
        first = min(max(0, round((low + high) / 2 * size - side / 2)), size - side)
        edges.append((first, first + side))
    (left, right), (top, bottom) = edges
    return image.crop((left, top, right, bottom))
