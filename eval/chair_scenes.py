"""CHAIR on the built-in world: captions of held-out scenes, truth from the drawing itself.

Results say how strategies compare here; they are not claims about any other model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from halu.eval import world
from halu.eval.benchmark import Sample, Score, benchmarks, chosen
from halu.eval.chair import Chair, score_caption
from halu.eval.lexicon import words_rules


@dataclass(frozen=True, slots=True)
class ChairScenes(Chair):
    """One caption a scene; the single split is called "test"."""

    name: str = "chair-scenes"
    about: str = "Captions of drawn scenes: which objects are made up (CHAIR, arXiv:1809.02156)"
    splits: tuple[str, ...] = ("test",)
    version: int = 2
    rules: str = "chair-words"
    builtin: bool = True
    max_new_tokens: int = 128

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the scenes, at most `limit`."""
        chosen(self.splits, splits)
        count = world.SCENES if limit is None else limit
        return [
            Sample(image, "test", image, self.prompt, tuple(sorted(world.truth(image).names)))
            for image in world.images(count, seed)
        ]

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Draw the scene again."""
        return world.picture(image)

    def score(self, sample: Sample, text: str) -> Score:
        """Score a caption against the objects of its scene."""
        return score_caption(text, sample.label, words_rules())


benchmarks.register("chair-scenes")(ChairScenes())
