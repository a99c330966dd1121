"""The built-in world as a source of pictures: held-out scenes by id, drawn again whenever needed.

A scene's id names its split and seed ("test-17"), so a report can show its picture long after the
run.
"""

from dataclasses import replace
from functools import lru_cache

from PIL import Image

from halu.errors import BadInput
from halu.scenes import Scene, draw
from halu.scenes.drawing import Split

SCENES = 500
"""Scenes of a full run, the number of pictures POPE and CHAIR papers use."""

HELD_OUT: dict[str, Split] = {"test": "test", "val": "val"}
_STRIDE = 100_000
_SMALL, _SHOWN = 112, 224


def images(count: int, seed: int, split: Split = "test") -> list[str]:
    """Ids of the first `count` held-out scenes of a run with `seed`; other seeds share none.
    Whatever is fitted is fitted on split "val".
    """
    if count > _STRIDE:
        raise BadInput(f"The built-in world has {_STRIDE} scenes a seed, not {count}.")
    return [f"{split}-{seed * _STRIDE + number}" for number in range(count)]


@lru_cache(maxsize=8192)
def truth(image: str) -> Scene:
    """Tell what the scene of an id shows, without its pixels."""
    full = scene(image, _SMALL)
    return replace(full, image=full.image[:0], owner=full.owner[:0])


def scene(image: str, size: int) -> Scene:
    """Draw the scene of an id; what it shows does not depend on the size."""
    split, _, number = image.partition("-")
    if split not in HELD_OUT or not number.isdigit():
        raise BadInput(f"{image!r} is not a held-out scene of the built-in world.")
    return draw(int(number), HELD_OUT[split], size)


@lru_cache(maxsize=256)
def picture(image: str) -> Image.Image:
    """Draw the picture of an id."""
    return Image.fromarray(scene(image, _SHOWN).image)
