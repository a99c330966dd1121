"""What calibrations look at: pictures alone, captions whose objects are known, yes/no questions.

The built-in world gives all three, from scenes that no benchmark uses; users give a folder of
pictures, a COCO instances file beside it, or POPE's official files.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from halu.errors import BadInput
from halu.images import open_image
from halu.scenes import Scene, draw
from halu.scenes.questions import POPE_OBJECTS, pope_items

Tell = Callable[[int, int], None]
"""Told how many of how many are done."""

FIRST = 5_000_000
"""First seed of the held-out scenes that calibrations use; benchmarks begin at 0."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


@dataclass(frozen=True, slots=True)
class Known:
    """A picture, and the names of the objects in it."""

    picture: Image.Image
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class YesNoQuestion:
    """A yes/no question about a picture, and whether yes is true."""

    picture: Image.Image
    text: str
    yes: bool


def files(folder: Path, n: int) -> list[Path]:
    """The first `n` pictures of a folder by name.

    Raises:
        BadInput: if there are none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:n]
    if not found:
        raise BadInput(f"There are no pictures in {folder}.", param="images")
    return found


def pictures(folder: Path | None, n: int) -> list[Image.Image]:
    """Pictures of a folder, or of the built-in world."""
    if folder is not None:
        return [open_image(path) for path in files(folder, n)]
    return [known.picture for known in scenes(n)]


def scenes(n: int) -> list[Known]:
    """Scenes of the built-in world and what is in them."""
    return [Known(_picture(scene), frozenset(scene.names)) for scene in drawn(n)]


def drawn(n: int) -> list[Scene]:
    """Held-out scenes that no benchmark uses."""
    return [draw(FIRST + number, "val") for number in range(n)]


def annotated(folder: Path, instances: Path, n: int) -> list[Known]:
    """Pictures of a folder with the objects that a COCO instances file gives.

    Raises:
        BadInput: if the file is not COCO's, or annotates none of the pictures.
    """
    from halu.eval.chair_truth import coco_truth
    from halu.eval.lexicon import words_rules

    truth = coco_truth([instances], [], words_rules())
    found: list[Known] = []
    for path in files(folder, 10**9):
        digits = path.stem.rpartition("_")[2]
        if digits.isdigit() and int(digits) in truth and len(found) < n:
            found.append(Known(open_image(path), truth[int(digits)]))
    if not found:
        raise BadInput(f"{instances} annotates no picture of {folder}.", param="annotations")
    return found


def questions(data: Path | None, n: int) -> list[YesNoQuestion]:
    """Yes/no questions with their truth: POPE's official files in `data`, or built-in ones."""
    from halu.eval.benchmark import benchmarks

    if data is None:
        return _of_scenes(n)
    source = benchmarks.get("pope")
    samples = source.samples(data, None, 0, None)
    some = samples[:: max(1, len(samples) // n)][:n]
    return [
        YesNoQuestion(
            source.picture(s.image or "", data), s.prompt + source.suffix, s.label == "yes"
        )
        for s in some
    ]


def _of_scenes(n: int) -> list[YesNoQuestion]:
    """Two adversarial questions about each scene."""
    from halu.eval.benchmark import benchmarks

    suffix = benchmarks.get("pope-scenes").suffix
    shown = drawn(-(-n // 2))
    items = pope_items(shown, "adversarial", random.Random("calibration"))
    found = [
        YesNoQuestion(
            _picture(shown[place // (2 * POPE_OBJECTS)]), item.text + suffix, item.label == "yes"
        )
        for place, item in enumerate(items)
        if place % (2 * POPE_OBJECTS) < 2
    ]
    return found[:n]


def _picture(scene: Scene) -> Image.Image:
    return Image.fromarray(scene.image)
