"""What finders say of objects in pictures, each object of a picture asked for once."""

from collections.abc import Sequence
from functools import lru_cache

from halu.grounding import FinderKind, Sighting, open_finder
from halu.grounding.pixels import Pixels

MOST = 1000
"""Objects of one picture that are kept; beyond, all are asked for again."""

Seen = list[Sighting] | None


def spotted(
    pixels: Pixels, names: Sequence[str], kind: FinderKind, weights: str | None, least: float
) -> dict[str, Seen]:
    """What `halu.grounding.Finder.spot` says of each name, asking only for what it has not been
    asked for in this picture before.

    Raises:
        Unavailable: the weights are not here.
        BadInput: weights that do not fit.
    """
    kept = _kept(pixels, kind, weights, least)
    known = kept.copy()  # another thread may write to it
    new = [name for name in names if name not in known]
    if new:
        found = open_finder(weights, kind).spot(pixels.image, new, least)
        known.update(zip(new, found, strict=True))
        if len(known) > MOST:
            kept.clear()
        kept.update(zip(new, found, strict=True))
    return {name: known[name] for name in names}


@lru_cache(maxsize=64)
def _kept(pixels: Pixels, kind: FinderKind, weights: str | None, least: float) -> dict[str, Seen]:
    """The memory of one picture and finder."""
    return {}
