"""Parts of a picture chosen by a map over it: thresholds, connected regions, windows, crops."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from halu.errors import Unavailable

Map = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
Rank = Literal["mass", "size", "all"]

LARGEST = 2**24
"""Most pixels of an enlarged part of a picture that has fewer itself."""


def stretched(grid: Map, size: tuple[int, int]) -> Map:
    """A map [rows, columns] over a picture of (width, height), bilinear [height, width]."""
    drawn = Image.fromarray(grid.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(drawn, np.float64)


def top_regions(heat: Map, share: float, rank: Rank, count: int, *, more: bool) -> Mask:
    """The hottest `share` of the pixels, and of their regions (4-connected) the best.

    Args:
        heat: map over the picture [height, width].
        share: of the pixels over the threshold, the percentile interpolated.
        rank: regions by their heat or by their size; or all but those under a thousandth of what
            is over the threshold.
        count: that many regions stay.
        more: or `share` of them, if that is more.

    Raises:
        Unavailable: without scipy.
    """
    mask: Mask = heat >= np.percentile(heat, (1 - share) * 100)
    ndimage = _ndimage()
    labels, found = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=found + 1)
    stays = np.zeros(found + 1, bool)  # by label; 0 is what is under the threshold
    if rank == "all":
        stays[1:] = sizes[1:] >= mask.sum() // 1000
    else:
        score = np.bincount(labels.ravel(), heat.ravel()) if rank == "mass" else sizes
        best = 1 + np.argsort(-score[1:], kind="stable")
        stays[best[: max(count, int(found * share)) if more else count]] = True
    kept: Mask = stays[labels]
    return kept


def around(mask: Mask) -> Box:
    """The smallest box (left, top, right, bottom; right and bottom exclusive) with all that is
    true; the whole of an empty mask.
    """
    if not mask.any():
        return (0, 0, mask.shape[1], mask.shape[0])
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def cut_out(image: Image.Image, mask: Mask) -> Image.Image:
    """The picture black outside the mask, cropped to it, enlarged until it covers the picture's
    size; a narrow strip no further than LARGEST.
    """
    shown = Image.fromarray(np.asarray(image.convert("RGB")) * mask[..., None].astype(np.uint8))
    cropped = shown.crop(around(mask))
    scale = max(image.width / cropped.width, image.height / cropped.height)
    room = math.sqrt(max(LARGEST, image.width * image.height) / (cropped.width * cropped.height))
    scale = min(scale, room)
    size = (int(cropped.width * scale), int(cropped.height * scale))
    return cropped.resize(size, Image.Resampling.LANCZOS)


def hottest_window(heat: Map, share: float, size: tuple[int, int]) -> Box:
    """The box, `share` of a picture's sides (width, height), that catches most of a map
    [rows, columns] over it; the middlemost of equals.
    """
    rows, columns = heat.shape
    height, width = max(1, round(rows * share)), max(1, round(columns * share))
    total = np.pad(heat, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    caught = total[height:, width:] - total[:-height, width:]
    caught = caught - total[height:, :-width] + total[:-height, :-width]
    y, x = np.indices(caught.shape)
    aside = np.abs(2 * y + height - rows) / rows + np.abs(2 * x + width - columns) / columns
    near = np.isclose(caught, caught.max(), rtol=1e-9, atol=0)
    top, left = np.unravel_index(np.where(near, aside, np.inf).argmin(), caught.shape)
    across, down = size[0] / columns, size[1] / rows
    return (
        round(float(left) * across),
        round(float(top) * down),
        max(round(float(left + width) * across), round(float(left) * across) + 1),
        max(round(float(top + height) * down), round(float(top) * down) + 1),
    )


def _ndimage() -> Any:
    try:
        from scipy import ndimage
    except ImportError:
        raise Unavailable.without("eval", "Regions of a picture are found with scipy.") from None
    return ndimage
