"""POPE on the built-in world: the same definitions, asked of held-out scenes.

Popular and adversarial objects come from the frequencies of the training scenes. Results say how
strategies compare here; they are not claims about any other model.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from PIL import Image

from halu.eval import world
from halu.eval.benchmark import Sample, benchmarks, chosen
from halu.eval.pope import Pope, asked_object
from halu.scenes.questions import POPE_OBJECTS, pope_items
from halu.scenes.statistics import Kind


class PopeScenes(Pope):
    """Six questions about each scene, half of them answered yes; splits as in POPE."""

    __slots__ = ()

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of each split in turn; all splits ask about the same scenes."""
        wanted = chosen(self.splits, splits)
        each = 2 * POPE_OBJECTS
        count = world.SCENES if limit is None else -(-limit // each)
        images = world.images(count, seed)
        scenes = [world.truth(image) for image in images]
        found: list[Sample] = []
        for kind in get_args(Kind):
            if kind in wanted:
                items = pope_items(scenes, kind, random.Random(f"pope {kind} {seed}"))
                found += [
                    Sample(
                        f"{kind}/{item.question_id}",
                        kind,
                        images[place // each],
                        item.text,
                        item.label,
                        asked_object(item.text),
                    )
                    for place, item in enumerate(items[:limit])
                ]
        return found

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Draw the scene again."""
        return world.picture(image)


benchmarks.register("pope-scenes")(
    PopeScenes(
        "pope-scenes",
        "Is there a dog in the image? Asked of drawn scenes (POPE, arXiv:2305.10355)",
        builtin=True,
    )
)
