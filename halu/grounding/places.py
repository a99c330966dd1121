"""Where things stand in a picture, in words. Knows boxes and no model."""

from collections.abc import Sequence
from itertools import product

from halu.grounding import Box

EDGES = 0.4, 0.6
"""What lies before the first is left, or at the top; beyond the second, right or at the bottom."""
AXES = {"left": 0, "middle": 0, "right": 0, "top": 1, "bottom": 1}
NAMES = ("left", "middle", "right"), ("top", "middle", "bottom")
FAR = frozenset({"right", "bottom"})


def center(box: Box, axis: int) -> float:
    """Of its width (axis 0) or height (1), in shares of the picture's."""
    return (box[axis] + box[axis + 2]) / 2


def margin(boxes: Sequence[Box], word: str, others: Sequence[Box] = ()) -> float:
    """How far inside the place that a word names ("left") one of the boxes lies, or, if there are
    others, how far on that side of one of them; below 0 outside. In shares of the picture's side.
    """
    axis = AXES[word]
    middles = [center(box, axis) for box in boxes]
    if others:
        ahead = [center(other, axis) - mid for other, mid in product(others, middles)]
        return max(-one if word in FAR else one for one in ahead)
    low, high = EDGES
    return max(
        mid - high if word in FAR else low - mid if word != "middle" else _inside(mid, low, high)
        for mid in middles
    )


def named(box: Box, word: str) -> str:
    """Where the box lies, along the axis of a word for a place."""
    mid, (first, middle, last) = center(box, AXES[word]), NAMES[AXES[word]]
    return first if mid < EDGES[0] else last if mid > EDGES[1] else middle


def opposite(word: str) -> str:
    """The other side."""
    first, middle, last = NAMES[AXES[word]]
    return {first: last, last: first}.get(word, middle)


def _inside(mid: float, low: float, high: float) -> float:
    return min(mid - low, high - mid)
