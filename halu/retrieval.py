"""Captioned pictures to be found by a picture: the built-in world's, or a user's own index.

    python -m halu.retrieval NAME captions.jsonl

makes an index. Each line is {"file": "a.jpg", "caption": "..."}, the file beside the list; with
"box": [left, top, right, bottom] it is a region with its phrase. Pictures and words become vectors
by an open_clip model (extra `clip`), the built-in one unless another is named.
"""

import argparse
import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from halu.errors import BadInput, HaluError, Unavailable
from halu.grounding import open_matcher
from halu.images import open_image

if TYPE_CHECKING:
    from halu.grounding.clip import ClipMatcher

BUILT_IN = "scenes"
SCENES = 128
"""Training scenes in the built-in index."""
NAME = r"[A-Za-z0-9][\w-]*"


@dataclass(frozen=True, slots=True)
class Found:
    """A caption that was found, and how near its picture is (cosine)."""

    caption: str
    score: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A captioned picture of an index; or a region, cut out already."""

    image: Image.Image
    caption: str
    region: bool = False


@dataclass(frozen=True)
class Index:
    """A retriever: vectors [n, D] by an open_clip model, captions, and which are regions [n].

    Attributes:
        clip: the model's weights as `halu.grounding` knows them; none: the built-in tiny-clip.
    """

    clip: str | None
    vectors: npt.NDArray[np.float32]
    captions: tuple[str, ...]
    regions: npt.NDArray[np.bool_]

    def search(self, image: Image.Image, k: int, *, regions: bool = False) -> list[Found]:
        """By cosine; of equal captions the best.

        Raises:
            BadInput: if the index has no such entries.
        """
        own = np.flatnonzero(self.regions == regions)
        if not len(own):
            kind = "regions" if regions else "whole pictures"
            raise BadInput(f"The index has no {kind}.", param="params.index")
        scores = self.vectors[own] @ _matcher(self.clip).vectors([image])[0]
        found: dict[str, Found] = {}
        for place in np.argsort(-scores, kind="stable"):
            caption = self.captions[own[place]]
            found.setdefault(caption, Found(caption, float(scores[place])))
            if len(found) == k:
                break
        return list(found.values())

    def alike(self, text: str, others: Sequence[str]) -> list[float]:
        """Cosines of the texts' vectors."""
        vectors = _matcher(self.clip).word_vectors([text, *others])
        return [float(score) for score in vectors[1:] @ vectors[0]]


def made(entries: Iterable[Entry], clip: str | None = None) -> Index:
    """An index of these entries, which are looked at once.

    Raises:
        BadInput: if there are none.
    """
    matcher = _matcher(clip)
    known = [(e.caption, e.region, matcher.vectors([e.image])[0]) for e in entries]
    if not known:
        raise BadInput("There are no captions.")
    captions, regions, vectors = zip(*known, strict=True)
    return Index(clip, np.stack(vectors), captions, np.array(regions))


def scenes(n: int) -> Iterator[Entry]:
    """Training scenes with captions, and their objects with phrases."""
    from halu.scenes import draw  # the atlas is large, and seldom asked for
    from halu.scenes.captions import describe
    from halu.scenes.grammar import one

    for seed in range(n):
        scene, rng = draw(seed), random.Random(f"halu.retrieval {seed}")
        image = Image.fromarray(scene.image)
        yield Entry(image, describe(scene, rng))
        for thing in scene.things:
            yield Entry(image.crop(thing.box), one(thing.name, thing.color), region=True)


def listed(file: Path) -> Iterator[Entry]:
    """A user's captions; pictures lie beside the list.

    Raises:
        BadInput: a line that cannot be read; its number is named.
    """
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, caption, box = open_image(file.parent / row["file"]), row["caption"], None
            if "box" in row:
                left, top, right, bottom = (int(edge) for edge in row["box"])
                box = (
                    max(left, 0),
                    max(top, 0),
                    min(right, image.width),
                    min(bottom, image.height),
                )
                image = image.crop(box)
            if not isinstance(caption, str) or not caption.strip() or not all(image.size):
                raise ValueError("no caption, or an empty box")
        except HaluError as error:
            raise BadInput(f"{file}, line {number}: {error.message}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{file}, line {number}: {error}.", hint='Write {"file": ..., "caption": ...}.'
            ) from None
        yield Entry(image, caption.strip(), region=box is not None)


def path(name: str) -> Path:
    """Where a user's index lies: under $HALU_CACHE, else the user's cache folder.

    Raises:
        BadInput: for a name that could be a path.
    """
    if not re.fullmatch(NAME, name):
        raise BadInput(f"{name!r} is no name of an index.", param="params.index")
    own = os.environ.get("HALU_CACHE")
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "halu"
    return (Path(own) if own else shared) / "retrieval" / f"{name}.npz"


def save(index: Index, name: str) -> Path:
    """Keeps an index in place of an earlier one of its name."""
    file = path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft.npz")
    np.savez(
        draft,
        clip=np.array(index.clip or ""),
        vectors=index.vectors,
        captions=np.array(index.captions),
        regions=index.regions,
    )
    draft.replace(file)
    return file


def load(name: str) -> Index:
    """An index by name, kept until its file changes; "scenes" is built in.

    Raises:
        Unavailable: if there is none of that name.
    """
    if name == BUILT_IN:
        return _built_in()
    file = path(name)
    if not file.is_file():
        raise Unavailable(
            f"There is no index {name!r}.",
            hint=f"Make it: python -m halu.retrieval {name} captions.jsonl",
            param="params.index",
        )
    return _read(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _built_in() -> Index:
    return made(scenes(SCENES))


@lru_cache(maxsize=4)
def _read(file: Path, changed: int) -> Index:
    with np.load(file, allow_pickle=False) as data:
        captions = tuple(str(caption) for caption in data["captions"])
        return Index(str(data["clip"]) or None, data["vectors"], captions, data["regions"])


def _matcher(clip: str | None) -> "ClipMatcher":
    matcher = open_matcher("clip", clip)
    from halu.grounding.clip import ClipMatcher

    assert isinstance(matcher, ClipMatcher)
    return matcher


def main() -> None:
    """Makes an index from a list of captions."""
    parser = argparse.ArgumentParser(description="Make an index of captioned pictures.")
    parser.add_argument("name", help="what the index will be called")
    parser.add_argument("captions", type=Path, help="JSON lines with file, caption, maybe box")
    parser.add_argument(
        "--clip", help="a folder, a hub id, MODEL:TAG or MODEL:FILE of open_clip; else built in"
    )
    asked = parser.parse_args()
    try:
        if asked.name == BUILT_IN:
            raise BadInput(f"{BUILT_IN!r} is the built-in index.")
        file = path(asked.name)
        index = made(listed(asked.captions), asked.clip)
        save(index, asked.name)
        print(f"{len(index.captions)} captions in {file}")
    except (HaluError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
