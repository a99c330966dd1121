"""MME's hallucination subset on the built-in world: existence, count, position and colour.

Results say how strategies compare here; they are not claims about any other model.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from PIL import Image

from halu.eval import world
from halu.eval.benchmark import Sample, benchmarks, chosen
from halu.eval.mme import Mme
from halu.scenes.questions import Task, image_name, mme_items


class MmeScenes(Mme):
    """Two questions a scene and task; a scene that allows none of a task is left out there."""

    __slots__ = ()

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of each task in turn."""
        wanted = chosen(self.splits, splits)
        count = world.SCENES if limit is None else limit  # some scenes allow no question
        images = world.images(count, seed)
        scenes = [world.truth(image) for image in images]
        ids = {image_name(scene): image for scene, image in zip(scenes, images, strict=True)}
        found: list[Sample] = []
        for task in get_args(Task):
            if task in wanted:
                items = mme_items(scenes, task, random.Random(f"mme {task} {seed}"))
                kept = items if limit is None else items[: limit + limit % 2]
                found += [
                    Sample(
                        f"{task}/{number}",
                        task,
                        ids[item.image],
                        item.question,
                        item.answer.rstrip(".").lower(),
                    )
                    for number, item in enumerate(kept, 1)
                ]
        return found

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Draw the scene again."""
        return world.picture(image)


benchmarks.register("mme-scenes")(
    MmeScenes(
        "mme-scenes",
        "Existence, count, position, color of drawn scenes (MME, arXiv:2306.13394)",
        builtin=True,
    )
)
