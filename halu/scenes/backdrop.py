"""The ground that things stand on: a tinted gradient, blurred noise and a few flat shapes."""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from halu.scenes.themes import RGB, Theme

TILES = 12


def backdrop(theme: Theme, rng: random.Random, size: int) -> Image.Image:
    """An RGB picture of `size` pixels a side; `rng` is used alike at every size."""
    above, below = _jitter(theme.above, rng), _jitter(theme.below, rng)
    ramp = _ramp(size, rng.randrange(16))
    tile = _clouds(size, rng.randrange(TILES)) * rng.uniform(8.0, 26.0)
    pixels = np.asarray(above, np.float32) * (1 - ramp) + np.asarray(below, np.float32) * ramp
    if rng.random() < 0.5:
        tile = tile[::-1]
    image = Image.fromarray((pixels + tile).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randrange(6)):
        _shape(pen, rng, size, _jitter(rng.choice((above, below)), rng, 34))
    return image


def grain(size: int, number: int) -> npt.NDArray[np.float32]:
    """Fine noise over the finished picture, [S, S, 3], mean 0 and deviation 1."""
    return _grain(size, number % TILES)


def _jitter(color: RGB, rng: random.Random, spread: int = 28) -> RGB:
    red, green, blue = (min(250, max(6, part + rng.randint(-spread, spread))) for part in color)
    return red, green, blue


def _shape(pen: ImageDraw.ImageDraw, rng: random.Random, size: int, color: RGB) -> None:
    kind = rng.choice(("box", "box", "disc", "band", "wedge"))
    x, y = rng.uniform(-0.2, 0.9) * size, rng.uniform(-0.2, 0.9) * size
    wide, high = rng.uniform(0.15, 0.6) * size, rng.uniform(0.15, 0.6) * size
    if kind == "box":
        pen.rectangle((x, y, x + wide, y + high), fill=color)
    elif kind == "disc":
        pen.ellipse((x, y, x + wide, y + high), fill=color)
    elif kind == "band":
        pen.rectangle((0, y, size, y + high / 4), fill=color)
    else:
        pen.polygon([(x, y), (x + wide, y + high / 3), (x + wide / 3, y + high)], fill=color)


@lru_cache(maxsize=64)
def _ramp(size: int, number: int) -> npt.NDArray[np.float32]:
    """0 to 1 from top to bottom, tilted one of 16 ways, soft or with a horizon, [S, S, 1]."""
    tilt = (number % 4 - 1.5) * 0.35
    line = np.linspace(0, 1, size, dtype=np.float32)
    slope = math.cos(tilt) * line[:, None] + math.sin(tilt) * (line[None, :] - 0.5)
    steep, middle = ((1.0, 0.5), (3.0, 0.5), (24.0, 0.4), (24.0, 0.62))[number // 4]
    ramp = np.clip((slope - middle) * steep + 0.5, 0, 1)
    return ramp[..., None].astype(np.float32)


@lru_cache(maxsize=64)
def _clouds(size: int, number: int) -> npt.NDArray[np.float32]:
    """Noise of three scales, the same picture at any size, [S, S, 3]."""
    source = np.random.default_rng(1000 + number)
    total = np.zeros((size, size, 3), np.float32)
    for cells, weight in ((5, 0.6), (13, 0.5), (37, 0.4)):
        for band in range(3):
            small = Image.fromarray(source.standard_normal((cells, cells)).astype(np.float32))
            grown = small.resize((size, size), Image.Resampling.BICUBIC)
            total[..., band] += weight * np.asarray(grown)
    grey: npt.NDArray[np.float32] = total.mean(-1, keepdims=True)
    return 0.7 * grey + 0.3 * total


@lru_cache(maxsize=64)
def _grain(size: int, number: int) -> npt.NDArray[np.float32]:
    source = np.random.default_rng(2000 + number)
    return source.standard_normal((size, size, 3)).astype(np.float32)
