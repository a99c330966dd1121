"""Where everything goes: which things, signs and distractors, how large, one in front of another.

A layout is decided on a canvas of 112 pixels, whatever the size drawn, so that a seed gives the
same scene at every size. Positions and lengths are shares of the side.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from halu.scenes import atlas
from halu.scenes.lettering import sign
from halu.scenes.scene import NAMES
from halu.scenes.themes import COLORS, NONSENSE_WORDS, REAL_WORDS, TINTED, Theme

CANVAS = 112
# What must stay visible. Truth counts a thing from 0.5; the margin is for other sizes.
CLEAR, PARTLY = 0.9, 0.62
DISTRACTOR = 0.35
TRIES, CLEAR_TRIES = 16, 11
# Letters make a mirrored one wrong.
NEVER_MIRRORED = frozenset({"stop sign", "clock"})


@dataclass(frozen=True, slots=True)
class Placed:
    """Something on the picture: `what` is a sprite's variant or a sign's word.

    `x`, `y`: its centre; `length`: its longer side.
    """

    name: str
    kind: str
    what: atlas.Variant | str
    x: float
    y: float
    length: float

    def stamp(self, size: int) -> Image.Image:
        """Its picture, RGBA, for a canvas of `size` pixels a side."""
        return _stamp(self.what, max(4, round(self.length * size)))

    def corner(self, size: int) -> tuple[int, int]:
        """Where the stamp's upper left pixel goes; may lie outside."""
        stamp = self.stamp(size)
        return round(self.x * size - stamp.width / 2), round(self.y * size - stamp.height / 2)


@lru_cache(maxsize=256)
def _stamp(what: atlas.Variant | str, length: int) -> Image.Image:
    if isinstance(what, str):
        return sign(what, length)
    image = atlas.picture(what)
    scale = length / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


class Canvas:
    """Who owns each pixel so far, and how much of each of the placed ones still shows."""

    def __init__(self) -> None:
        self.placed: list[Placed] = []
        self.least: list[float] = []
        self.total: list[int] = []
        self.shown: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.owner = np.full((CANVAS, CANVAS), -1, np.int16)

    def put(self, item: Placed, own: float, others: float, least: float) -> bool:
        """Put it in front if `own` of it lies inside and all others keep what they need.

        A thing keeps `others` (a share), or its own `least` where that is lower.
        """
        x, y = item.corner(CANVAS)
        mask = np.asarray(item.stamp(CANVAS).getchannel("A")) > 127
        total = int(mask.sum())
        mask = mask[max(0, -y) : CANVAS - y, max(0, -x) : CANVAS - x]
        x, y = max(0, x), max(0, y)
        inside = int(mask.sum())
        if inside < own * total or inside < 12:
            return False
        view = self.owner[y : y + mask.shape[0], x : x + mask.shape[1]]
        lost = np.bincount(view[mask] + 1, minlength=len(self.placed) + 1)[1:]
        need = np.minimum(self.least, others) * self.total
        if (lost > 0).any() and ((self.shown - lost)[lost > 0] < need[lost > 0]).any():
            return False
        view[mask] = len(self.placed)
        self.shown = np.append(self.shown - lost, inside)
        self.placed.append(item)
        self.least.append(least)
        self.total.append(total)
        return True


def layout(theme: Theme, rng: random.Random, unseen: bool) -> list[Placed]:
    """Things and clutter from back to front; at least three different categories.

    `unseen`: with distractors of the test split's own.
    """
    while True:
        canvas = Canvas()
        names = _choose(theme, rng)
        kinds = ["unseen"] * rng.randint(1, 2) if unseen else []
        kinds += ["train"] * rng.choice((0, 0, 1, 1, 2))
        order: list[tuple[str, str]] = [(name, "thing") for name in names]
        for kind in kinds:
            clutter = rng.choice(atlas.distractors(kind)), kind
            order.insert(rng.randrange(len(order) + 1), clutter)
        for name, kind in order:
            _place(canvas, name, kind, len(names), rng)
        if rng.random() < 0.22:
            _hang(canvas, rng)
        kinds_there = {item.name for item in canvas.placed if item.kind == "thing"}
        clutter_there = any(item.kind == "unseen" for item in canvas.placed)
        if len(kinds_there) >= 3 and clutter_there == unseen:
            return canvas.placed


def _choose(theme: Theme, rng: random.Random) -> list[str]:
    """3 to 8 names: mostly the theme's, some from anywhere, sometimes one two or three times."""
    count = rng.choice((3, 4, 4, 5, 5, 6, 6, 7, 8))
    chosen: list[str] = []
    if count > 3 and rng.random() < 0.4:
        chosen += [_draw(theme, rng)] * min(rng.choice((2, 2, 3)), count - 2)
    while len(chosen) < count:
        name = rng.choice(NAMES) if rng.random() < 0.16 else _draw(theme, rng)
        if name not in chosen:
            chosen.append(name)
    rng.shuffle(chosen)
    return chosen


def _draw(theme: Theme, rng: random.Random) -> str:
    return rng.choices(list(theme.weights), list(theme.weights.values()))[0]


def _place(canvas: Canvas, name: str, kind: str, crowd: int, rng: random.Random) -> None:
    entry = rng.choice(atlas.by_name()[name])
    variant = atlas.Variant(
        entry.index,
        rng.choice(list(COLORS)) if name in TINTED else None,
        rng.random() < 0.5 and name not in NEVER_MIRRORED,
        rng.choice((0, 0, 0, -9, 9)),
    )
    length = _length(variant, crowd, rng)
    least = PARTLY if kind == "thing" else DISTRACTOR
    others = PARTLY if rng.random() < 0.25 else CLEAR
    for number in range(TRIES):
        margin = length * 0.42
        x, y = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
        item = Placed(name, kind, variant, x, y, length)
        own = 0.85 if kind == "thing" else 0.5
        if canvas.put(item, own, others if number < CLEAR_TRIES else PARTLY, least):
            return


def _length(variant: atlas.Variant, crowd: int, rng: random.Random) -> float:
    """The longer side. One in five is small; a slender one is never so, or it would vanish."""
    width, height = atlas.picture(variant).size
    slender = min(width, height) < 0.5 * max(width, height)
    if rng.random() < 0.2 and not slender:
        return rng.uniform(0.15, 0.18)
    return rng.uniform(0.25 if slender else 0.18, 0.40 if crowd < 7 else 0.33)


def _hang(canvas: Canvas, rng: random.Random) -> None:
    """A sign with a word, in front of everything, hiding little."""
    word = rng.choice(REAL_WORDS if rng.random() < 0.6 else NONSENSE_WORDS)
    length = rng.uniform(0.30, 0.42)
    for _ in range(TRIES):
        x = rng.uniform(length / 2, 1 - length / 2)
        y = rng.uniform(0.12, 0.88)
        if canvas.put(Placed(word, "print", word, x, y, length), 0.999, CLEAR, 1.0):
            return
