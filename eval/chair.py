"""CHAIR: which objects of a caption are not in the picture.

Rohrbach et al., EMNLP 2018, arXiv:1809.02156. CHAIR_i = hallucinated mentions / mentions and
CHAIR_s = captions with a hallucinated mention / captions, both over the whole set; recall =
distinct true objects named / true objects; length = mean pieces of a caption. Shorter captions
lower CHAIR by themselves, so recall and length are always shown beside it. The figures depend on
the rules that read the captions, whose name goes with every score.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.errors import BadInput
from halu.eval import world
from halu.eval.benchmark import (
    Counts,
    Mark,
    Metric,
    Sample,
    Score,
    benchmarks,
    chosen,
    ratio,
    summed,
)
from halu.eval.lexicon import words_rules
from halu.eval.objects import Rules, read_caption

COUNTS = ("captions", "captions_wrong", "mentions", "mentions_wrong", "truth", "found", "pieces")
METRICS = (
    Metric("chair_s", "lower", "captions with an object that is not there"),
    Metric("chair_i", "lower", "named objects that are not there"),
    Metric("recall", "higher", "objects of the picture that are named"),
    Metric("length", "neither", "words and marks in a caption", unit="number"),
)


def score_caption(text: str, truth: Collection[str], rules: Rules) -> Score:
    """Score one caption against the names of the objects that are there.

    `value` is 1 minus the caption's own CHAIR_i, 1 when it names nothing, None without any word.
    """
    caption = read_caption(text, rules)
    marks = tuple(Mark(m.start, m.stop, m.name, m.name not in truth) for m in caption.mentions)
    wrong = sum(mark.wrong for mark in marks)
    named = tuple(dict.fromkeys(mark.name for mark in marks))
    counts = {
        "captions": 1,
        "captions_wrong": int(wrong > 0),
        "mentions": len(marks),
        "mentions_wrong": wrong,
        "truth": len(set(truth)),
        "found": sum(name in truth for name in named),
        "pieces": caption.length,
    }
    spoken = any(letter.isalpha() for letter in text)
    value = 1 - wrong / len(marks) if marks else 1.0
    return Score(named, value if spoken else None, counts, marks)


def rates(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """Compute CHAIR_s, CHAIR_i, recall and length from added-up counts."""
    total = dict(zip(COUNTS, np.moveaxis(np.asarray(counts, np.float64), -1, 0), strict=True))
    return {
        "chair_s": ratio(total["captions_wrong"], total["captions"]),
        "chair_i": ratio(total["mentions_wrong"], total["mentions"]),
        "recall": ratio(total["found"], total["truth"]),
        "length": ratio(total["pieces"], total["captions"]),
    }


def score_captions(
    captions: Mapping[int, str], truth: Mapping[int, Collection[str]], rules: Rules
) -> dict[int, Score]:
    """Score the captions of a file, by image id.

    Raises:
        BadInput: for an image without truth; the original takes it for an empty picture, in which
            every object is a hallucination.
    """
    if unknown := [image for image in captions if image not in truth]:
        raise BadInput(f"{len(unknown)} images have no annotations, such as {unknown[0]}.")
    return {image: score_caption(text, truth[image], rules) for image, text in captions.items()}


@dataclass(frozen=True, slots=True)
class ChairScenes:
    """CHAIR on the built-in world: held-out scenes, truth from the drawing itself."""

    name: str = "chair-scenes"
    about: str = "Captions of drawn scenes: which objects are made up (CHAIR, arXiv:1809.02156)"
    splits: tuple[str, ...] = ("test",)
    version: int = 1
    rules: str = "chair-words"
    builtin: bool = True
    judged: bool = False
    suffix: str = ""
    max_new_tokens: int = 128
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS
    prompt: str = "Please describe this image in detail."

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """One caption a scene; the single split is called "test"."""
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

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up; an image has one caption."""
        return summed(self.counts, counts)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the four metrics."""
        return rates(counts)


benchmarks.register("chair-scenes")(ChairScenes())
