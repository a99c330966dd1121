"""The sprites that ship with halu: read from the atlas once, recoloured and turned on demand.

Three drawing styles (Twemoji, Noto, Fluent); `tools/make_atlas.py` packed them. Knows nothing of
scenes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from halu.scenes.themes import COLORS

SOLID = [255 * (a > 40) for a in range(256)]
FOLDER = Path(__file__).resolve().parent
# (name, style) whose main hue is not the object's own: the coffee in a cup, a bus's windows.
WHOLE = frozenset(
    {("cup", "twemoji"), ("cup", "noto"), ("cup", "fluent"), ("bus", "fluent"), ("bottle", "noto")}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell. `kind`: "thing", "train" or "unseen" (distractors); `index`: its place."""

    kind: str
    name: str
    style: str
    code: str
    index: int


@dataclass(frozen=True, slots=True)
class Variant:
    """A sprite as a scene wants it: recoloured, mirrored, turned by `angle` degrees."""

    index: int
    color: str | None
    mirrored: bool
    angle: int


@lru_cache(maxsize=1)
def entries() -> tuple[Entry, ...]:
    """All sprites, in the atlas's order."""
    table = json.loads((FOLDER / "atlas.json").read_text())
    return tuple(
        Entry(kind, name, style, code, index)
        for index, (kind, name, style, code) in enumerate(table["sprites"])
    )


@lru_cache(maxsize=1)
def by_name() -> dict[str, tuple[Entry, ...]]:
    """Object or distractor name -> its sprites."""
    found: dict[str, list[Entry]] = {}
    for entry in entries():
        found.setdefault(entry.name, []).append(entry)
    return {name: tuple(group) for name, group in found.items()}


@lru_cache(maxsize=3)
def distractors(kind: str) -> tuple[str, ...]:
    """Names of the "train" or "unseen" distractors."""
    return tuple(dict.fromkeys(entry.name for entry in entries() if entry.kind == kind))


@lru_cache(maxsize=6000)
def picture(variant: Variant) -> Image.Image:
    """The sprite, RGBA, trimmed to what is opaque. Shared: not to be written to."""
    image = _painted(variant.index, variant.color)
    if variant.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if variant.angle:
        image = image.rotate(variant.angle, Image.Resampling.BILINEAR, expand=True)
    return image.crop(image.getchannel("A").point(SOLID).getbbox())


@lru_cache(maxsize=1024)
def _painted(index: int, color: str | None) -> Image.Image:
    if color is None:
        return sprite(index)
    entry = entries()[index]
    return recolored(sprite(index), color, (entry.name, entry.style) in WHOLE)


def sprite(index: int) -> Image.Image:
    """The cell as packed, RGBA."""
    sheet, cell, columns = _sheet()
    x, y = index % columns * cell, index // columns * cell
    return sheet.crop((x, y, x + cell, y + cell))


@lru_cache(maxsize=1)
def _sheet() -> tuple[Image.Image, int, int]:
    table = json.loads((FOLDER / "atlas.json").read_text())
    with Image.open(FOLDER / "atlas.webp") as image:
        return image.convert("RGBA"), int(table["cell"]), int(table["columns"])


def recolored(image: Image.Image, color: str, whole: bool = False) -> Image.Image:
    """`image` with its main hue replaced by `color`; dark parts, glass and trim stay.

    A picture without a main hue, or `whole`, takes the colour everywhere but in its darks.
    """
    pixels = np.asarray(image, np.float32) / 255
    rgb, opaque = pixels[..., :3], pixels[..., 3] > 0.5
    body = opaque & (rgb.max(-1) > 0.24) if whole else _body(image, opaque)
    value = rgb.max(-1)
    level = float(np.median(value[body])) or 1.0
    ratio = (value / level)[..., None]
    target = np.asarray(COLORS[color], np.float32) / 255
    shade = target * np.minimum(ratio, 1.0) ** 0.8
    lit = np.clip(ratio - 1.0, 0.0, 0.6)
    painted = np.where(body[..., None], shade + (1 - shade) * lit, rgb)
    result = np.concatenate([painted, pixels[..., 3:]], -1)
    return Image.fromarray((result.clip(0, 1) * 255).astype(np.uint8))


def _body(image: Image.Image, opaque: np.ndarray) -> np.ndarray:
    """Where the paint goes, [H, W] bool."""
    hue, saturation, value = (
        np.asarray(band, np.float32) for band in image.convert("RGB").convert("HSV").split()
    )
    vivid = opaque & (saturation > 70) & (value > 50)
    if vivid.sum() > 0.15 * opaque.sum():
        counts, _ = np.histogram(hue[vivid], bins=32, range=(0, 256), weights=saturation[vivid])
        smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
        main = (int(smooth.argmax()) + 0.5) * 8
        apart = np.abs((hue - main + 128) % 256 - 128)
        body: np.ndarray = vivid & (apart < 26)
        if body.sum() > 0.3 * opaque.sum():
            return body
    return opaque & (value > 60)


@lru_cache(maxsize=6000)
def brightness(variant: Variant) -> float:
    """The mean brightness of its opaque part, 0 to 255."""
    image = picture(variant)
    grey = np.asarray(image.convert("L"), np.float32)
    opaque = np.asarray(image.getchannel("A")) > 127
    return float(grey[opaque].mean())
