"""CHAIR: which objects of a caption are not in the picture.

Rohrbach et al., EMNLP 2018, arXiv:1809.02156. CHAIR_i = hallucinated mentions / mentions and
CHAIR_s = captions with a hallucinated mention / captions, both over the whole set; recall =
distinct true objects named / true objects; precision (PAI, VISTA) = distinct true objects named /
distinct objects named, which is not 1 - CHAIR_i; length = mean pieces of a caption. Shorter
captions lower CHAIR by themselves, so recall and length are always shown beside it. The figures
depend on the rules that read the captions, whose name goes with every score.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.eval.benchmark import Counts, Mark, Metric, Sample, Score, ratio, summed
from halu.eval.objects import Rules, read_caption

COUNTS = (
    "captions",
    "captions_wrong",
    "mentions",
    "mentions_wrong",
    "truth",
    "found",
    "named",
    "pieces",
)
METRICS = (
    Metric("chair_s", "lower", "captions with an object that is not there"),
    Metric("chair_i", "lower", "named objects that are not there"),
    Metric("recall", "higher", "objects of the picture that are named"),
    Metric("precision", "higher", "distinct named objects that are there"),
    Metric("length", "neither", "words and marks in a caption", unit="number"),
)


def score_caption(text: str, truth: Collection[str], rules: Rules) -> Score:
    """Score one caption against the names of the objects that are there.

    `value` is 1 minus the caption's own CHAIR_i, 1 when it names nothing, None without any word.
    """
    caption = read_caption(text, rules)
    marks = tuple(
        Mark(m.start, m.stop, m.name, m.name not in truth, m.word) for m in caption.mentions
    )
    wrong = sum(mark.wrong for mark in marks)
    named = tuple(dict.fromkeys(mark.name for mark in marks))
    counts = {
        "captions": 1,
        "captions_wrong": int(wrong > 0),
        "mentions": len(marks),
        "mentions_wrong": wrong,
        "truth": len(set(truth)),
        "found": sum(name in truth for name in named),
        "named": len(named),
        "pieces": caption.length,
    }
    spoken = any(letter.isalpha() for letter in text)
    value = 1 - wrong / len(marks) if marks else 1.0
    return Score(named, value if spoken else None, counts, marks)


def rates(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """Compute CHAIR_s, CHAIR_i, recall, precision and length from added-up counts."""
    total = dict(zip(COUNTS, np.moveaxis(np.asarray(counts, np.float64), -1, 0), strict=True))
    return {
        "chair_s": ratio(total["captions_wrong"], total["captions"]),
        "chair_i": ratio(total["mentions_wrong"], total["mentions"]),
        "recall": ratio(total["found"], total["truth"]),
        "precision": ratio(total["found"], total["named"]),
        "length": ratio(total["pieces"], total["captions"]),
    }


@dataclass(frozen=True, slots=True)
class Chair(ABC):
    """CHAIR's scoring; where pictures and truth come from is up to the subclass."""

    name: str
    about: str
    splits: tuple[str, ...]
    rules: str
    builtin: bool
    max_new_tokens: int
    version: int = 1
    judged: bool = False
    suffix: str = ""
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS
    prompt: str = "Please describe this image in detail."

    @abstractmethod
    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the pictures to describe, at most `limit`."""

    @abstractmethod
    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Load or draw the picture of that id."""

    @abstractmethod
    def score(self, sample: Sample, text: str) -> Score:
        """Score a caption by this benchmark's rules."""

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up; an image has one caption."""
        return summed(self.counts, counts)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the five metrics."""
        return rates(counts)
