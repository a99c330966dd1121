"""`draw`: a picture of everyday objects with exact truth, the same for the same seed.

One scene takes about 3 ms of one core at 112 pixels.
"""

from __future__ import annotations

import random
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from halu.errors import BadInput
from halu.scenes import atlas
from halu.scenes.backdrop import backdrop, grain
from halu.scenes.layout import Placed, layout
from halu.scenes.scene import Box, Print, Scene, Thing
from halu.scenes.themes import REAL_WORDS, THEMES

Split = Literal["train", "val", "test"]
# Part of every seed: a change of the world is a new edition.
EDITION = 1
SMALLEST = 112
RIM = [a * 45 // 100 for a in range(256)]


def draw(seed: int, split: Split = "train", size: int = 224) -> Scene:
    """The scene of a seed. Splits never share a picture; `size` (pixels) only sharpens it.

    One scene in three of the test split has distractors that the other splits never have.
    BadInput for an unknown split or fewer than 112 pixels, where things shrink to nothing.
    """
    if split not in get_args(Split):
        raise BadInput(f"There is no split {split!r}.", hint="Use train, val or test.")
    if size < SMALLEST:
        raise BadInput(f"{size} pixels are too few.", hint=f"Use at least {SMALLEST}.")
    rng = random.Random(f"halu.scenes {EDITION} {split} {seed}")
    theme = rng.choice(THEMES)
    items = layout(theme, rng, unseen=split == "test" and seed % 3 == 0)
    image = backdrop(theme, rng, size)
    owner = np.full((size, size), -1, np.int16)
    for number, item in enumerate(items):
        _paste(image, owner, item, number, size)
    pixels = np.asarray(image, np.float32) * rng.uniform(0.82, 1.14)
    pixels = pixels + grain(size, rng.randrange(12)) * rng.uniform(1.0, 5.0)
    return _scene(seed, split, theme.name, pixels, items, owner)


def _paste(
    image: Image.Image, owner: npt.NDArray[np.int16], item: Placed, number: int, size: int
) -> None:
    stamp, (x, y) = item.stamp(size), item.corner(size)
    alpha = stamp.getchannel("A")
    if item.kind != "print":
        # A faint rim, or a grey fork on grey ground would be seen by nobody.
        rim = alpha.filter(ImageFilter.MaxFilter(3)).point(RIM)
        image.paste(_rim_color(item), (x, y), rim)
    image.paste(stamp, (x, y), alpha)
    mask = (np.asarray(alpha) > 127)[max(0, -y) : size - y, max(0, -x) : size - x]
    x, y = max(0, x), max(0, y)
    owner[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = number


def _rim_color(item: Placed) -> tuple[int, int, int]:
    assert isinstance(item.what, atlas.Variant)
    return (30, 30, 35) if atlas.brightness(item.what) > 105 else (240, 240, 240)


def _scene(
    seed: int,
    split: str,
    theme: str,
    pixels: npt.NDArray[np.float32],
    items: list[Placed],
    owner: npt.NDArray[np.int16],
) -> Scene:
    size = owner.shape[0]
    things: list[Thing] = []
    prints: list[Print] = []
    table = np.full(len(items) + 1, -1, np.int16)
    for number, item in enumerate(items):
        shown = owner == number
        if isinstance(item.what, str):
            prints.append(Print(item.what, _box(shown), item.what in REAL_WORDS))
        elif item.kind == "thing":
            table[number] = len(things)
            total = int((np.asarray(item.stamp(size).getchannel("A")) > 127).sum())
            share = int(shown.sum()) / total
            style = atlas.entries()[item.what.index].style
            things.append(Thing(item.name, _box(shown), item.what.color, style, share))
    return Scene(
        seed,
        split,
        theme,
        pixels.clip(0, 255).astype(np.uint8),
        tuple(things),
        tuple(prints),
        tuple(item.name for item in items if item.kind in ("train", "unseen")),
        table[owner],
    )


def _box(shown: npt.NDArray[np.bool_]) -> Box:
    columns, rows = np.flatnonzero(shown.any(0)), np.flatnonzero(shown.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
