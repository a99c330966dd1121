"""Whether words fit a picture, and where: small interfaces with several models behind them.

A matcher compares a picture with words and says which parts of the picture the comparison rests on;
a finder puts boxes around what a phrase names. Strategies and detectors know the interfaces only.
Loaded models are kept, since a request should not pay for loading.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from halu.errors import Unavailable

MatcherKind = Literal["clip", "blip-itm"]
FinderKind = Literal["grounding-dino", "owlv2", "tiny-llava", "tiny-qwen"]
Heatmap = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]


class Relevance(NamedTuple):
    """How well a text fits a picture, and which places [rows, columns] speak for it; only the
    order and the relative distances of the places' values mean something.
    """

    map: Heatmap
    similarity: float


class Matcher(Protocol):
    """An image-text model."""

    def relevance(self, image: Image.Image, text: str) -> Relevance:
        """Where the picture, stretched to a square, speaks for the text, and cosine similarity.

        Raises:
            Unsupported: if this model has no such map.
        """

    def similarities(self, image: Image.Image, texts: list[str]) -> list[float]:
        """Cosine similarity of the picture with each text."""


class Embedder(Matcher, Protocol):
    """A matcher that knows pictures and texts apart from each other."""

    def vectors(self, images: Iterable[Image.Image]) -> Vectors:
        """Unit vectors [N, D] of pictures."""

    def word_vectors(self, texts: list[str]) -> Vectors:
        """Unit vectors [N, D] of texts."""


class Box(NamedTuple):
    """Left, top, right and bottom edge in shares of the picture's width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Share of the picture."""
        return (self.right - self.left) * (self.bottom - self.top)


class Sighting(NamedTuple):
    """Where something was found, and how sure the finder is, 0 to 1."""

    box: Box
    score: float


class Finder(Protocol):
    """A detector of what phrases name."""

    def find(self, image: Image.Image, phrase: str, box: float, text: float) -> list[Box]:
        """Boxes of what the phrase names, with scores above `box`, where some word of it has a
        score above `text`; the surest first.
        """

    def spot(
        self, image: Image.Image, phrases: Sequence[str], least: float
    ) -> list[list[Sighting] | None]:
        """Of each phrase what it names with scores of at least `least`, the surest first; none for
        a phrase that the finder does not know. What is said of one hangs on no other.
        """


@lru_cache(maxsize=2)
def open_matcher(kind: MatcherKind, weights: str | None = None) -> Matcher:
    """A loaded matcher.

    Args:
        kind: "clip" for any open_clip checkpoint, "blip-itm" for BLIP with its matching head.
        weights: a folder or hub id; none: the built-in tiny-clip, or the published BLIP.

    Raises:
        Unavailable: an extra or the weights are missing.
        BadInput: weights that do not fit.
    """
    if kind == "blip-itm":
        from halu.grounding.blip import BlipMatcher

        return BlipMatcher(weights)
    try:
        from halu.grounding.clip import ClipMatcher
    except ModuleNotFoundError as error:
        raise Unavailable.without("clip", f"The matcher 'clip' needs {error.name}.") from error
    return ClipMatcher(weights)


def open_embedder(weights: str | None = None) -> Embedder:
    """A loaded open_clip model, as `open_matcher` loads it."""
    embedder = open_matcher("clip", weights)
    from halu.grounding.clip import ClipMatcher

    assert isinstance(embedder, ClipMatcher)
    return embedder


@lru_cache(maxsize=4)
def open_finder(weights: str | None = None, kind: FinderKind = "grounding-dino") -> Finder:
    """A loaded finder.

    Args:
        weights: a folder or hub id, none the published ones; a built-in finder takes none.
        kind: GroundingDINO, OWLv2, or the tower of a built-in model.

    Raises:
        Unavailable: the weights are not here.
        BadInput: weights that do not fit.
    """
    if kind == "grounding-dino":
        from halu.grounding.dino import Dino

        return Dino(weights)
    if kind == "owlv2":
        from halu.grounding.owl import Owl

        return Owl(weights)
    from halu.grounding.patches import PatchFinder

    return PatchFinder(kind)
