"""The truth of drawn scenes as JSON lines, without pixels: a cache must not be able to run code."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from halu.scenes import Print, Scene, Thing


def blank(scene: Scene, side: int) -> Scene:
    """Drop the pixels; what is left has arrays of that side, which take no memory."""
    return _scene(_row(scene), side)


def write(path: Path, scenes: Iterable[Scene]) -> None:
    """One line a scene; the file appears whole or not at all."""
    partial = path.with_suffix(".part")
    with partial.open("w") as file:
        for scene in scenes:
            file.write(json.dumps(_row(scene)) + "\n")
    partial.replace(path)


def read(path: Path, sides: Iterable[int]) -> list[Scene]:
    """The scenes of a file, each with the side it was drawn at."""
    with path.open() as file:
        return [_scene(json.loads(line), side) for line, side in zip(file, sides, strict=True)]


def _row(scene: Scene) -> list[object]:
    things = [[t.name, t.box, t.color, t.style, t.visible] for t in scene.things]
    prints = [[p.text, p.box, p.real] for p in scene.prints]
    return [scene.seed, scene.split, scene.theme, things, prints, scene.distractors]


def _scene(row: list[Any], side: int) -> Scene:
    seed, split, theme, things, prints, distractors = row
    return Scene(
        seed=seed,
        split=split,
        theme=theme,
        image=np.broadcast_to(np.uint8(0), (side, side, 3)),
        things=tuple(Thing(name, tuple(box), *rest) for name, box, *rest in things),
        prints=tuple(Print(text, tuple(box), real) for text, box, real in prints),
        distractors=tuple(distractors),
        owner=np.broadcast_to(np.int16(-1), (side, side)),
    )
