"""A folder of test scenes with questions and truth in the formats of POPE, CHAIR and MME.

What lies in it:

    images/000000000000.png ...           the pictures
    truth.jsonl                           everything that is known of each
    pope/scenes_pope_{kind}.json          JSON lines: question_id, image, text, label
    chair/instances.json, captions.json   COCO's own layout, with COCO's category ids
    mme/{task}.txt                        image, question, answer, with tabs between
    text.jsonl                            the printed words

The image id is the seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from halu.errors import BadInput
from halu.scenes.captions import describe
from halu.scenes.coco import category_id
from halu.scenes.drawing import draw
from halu.scenes.questions import (
    MmeItem,
    Task,
    image_name,
    mme_items,
    pope_items,
    text_items,
)
from halu.scenes.scene import NAMES, Scene
from halu.scenes.statistics import Kind

SIZE = 224
CAPTIONS = 5


@dataclass(frozen=True, slots=True)
class Files:
    """What `write` wrote; `pope` by kind and `mme` by task."""

    folder: Path
    images: tuple[Path, ...]
    truth: Path
    pope: dict[str, Path]
    instances: Path
    captions: Path
    mme: dict[str, Path]
    text: Path


def write(folder: Path, n: int, seed: int, progress: Callable[[int], None] | None = None) -> Files:
    """The test scenes `seed` to `seed + n - 1`, about 25 ms and 0.1 MB each.

    `progress` is told how many are done. BadInput if n < 1, seed < 0 or the folder holds anything.
    """
    if n < 1:
        raise BadInput(f"{n} scenes were asked for.", hint="Ask for at least one.")
    if seed < 0:
        raise BadInput(f"The seed {seed} is negative.", hint="Use 0 or more.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is not an empty folder.", hint="Name a new one.")
    for part in ("images", "pope", "chair", "mme"):
        (folder / part).mkdir(parents=True)
    scenes, images = [], []
    for number in range(n):
        scene = draw(seed + number, "test", SIZE)
        images.append(folder / "images" / image_name(scene))
        Image.fromarray(scene.image).save(images[-1], compress_level=4)
        scenes.append(_without_pixels(scene))
        if progress is not None:
            progress(number + 1)
    return Files(
        folder,
        tuple(images),
        _lines(folder / "truth.jsonl", map(truth, scenes)),
        _pope(folder / "pope", scenes, seed),
        _json(folder / "chair" / "instances.json", instances(scenes)),
        _json(folder / "chair" / "captions.json", captions(scenes)),
        _mme(folder / "mme", scenes, seed),
        _lines(folder / "text.jsonl", map(asdict, text_items(scenes))),
    )


def truth(scene: Scene) -> dict[str, object]:
    """A scene's line in `truth.jsonl`."""
    return {
        "image": image_name(scene),
        "seed": scene.seed,
        "split": scene.split,
        "theme": scene.theme,
        "things": [asdict(thing) for thing in scene.things],
        "prints": [asdict(sign) for sign in scene.prints],
        "distractors": scene.distractors,
    }


def instances(scenes: Sequence[Scene]) -> dict[str, object]:
    """COCO's instances file; the image id is the seed, boxes are x, y, width, height."""
    annotations: list[dict[str, object]] = []
    for scene in scenes:
        for thing in scene.things:
            x0, y0, x1, y1 = thing.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": scene.seed,
                    "category_id": category_id(thing.name),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": category_id(name), "name": name} for name in NAMES]
    return {"images": _images(scenes), "annotations": annotations, "categories": categories}


def captions(scenes: Sequence[Scene]) -> dict[str, object]:
    """COCO's captions file: five honest captions an image."""
    annotations: list[dict[str, object]] = []
    for scene in scenes:
        rng = random.Random(f"captions {scene.split} {scene.seed}")
        for _ in range(CAPTIONS):
            caption = describe(scene, rng)
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": scene.seed, "caption": caption})
    return {"images": _images(scenes), "annotations": annotations}


def _images(scenes: Sequence[Scene]) -> list[dict[str, object]]:
    return [
        {"id": scene.seed, "file_name": image_name(scene), "width": SIZE, "height": SIZE}
        for scene in scenes
    ]


def _pope(folder: Path, scenes: Sequence[Scene], seed: int) -> dict[str, Path]:
    paths = {}
    for kind in get_args(Kind):
        items = pope_items(scenes, kind, random.Random(f"pope {kind} {seed}"))
        paths[kind] = _lines(folder / f"scenes_pope_{kind}.json", map(asdict, items))
    return paths


def _mme(folder: Path, scenes: Sequence[Scene], seed: int) -> dict[str, Path]:
    paths = {}
    for task in get_args(Task):
        items = mme_items(scenes, task, random.Random(f"mme {task} {seed}"))
        paths[task] = folder / f"{task}.txt"
        paths[task].write_text("".join(map(_mme_line, items)), encoding="utf-8")
    return paths


def _mme_line(item: MmeItem) -> str:
    return f"{item.image}\t{item.question}\t{item.answer}\n"


def _without_pixels(scene: Scene) -> Scene:
    """The truth alone, so that thousands fit in memory. The side stays readable."""
    return replace(
        scene,
        image=np.broadcast_to(np.uint8(0), scene.image.shape),
        owner=np.broadcast_to(np.int16(-1), scene.owner.shape),
    )


def _lines(path: Path, rows: Iterable[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _json(path: Path, table: dict[str, object]) -> Path:
    path.write_text(json.dumps(table), encoding="utf-8")
    return path
