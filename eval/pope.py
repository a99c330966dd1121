"""POPE: is there a dog in the image? Half of the answers are no.

Li et al., EMNLP 2023, arXiv:2305.10355. Absent objects are drawn at random, by popularity, or by
co-occurrence with what is there (adversarial). Yes is the positive class. Papers differ in which
average of the splits they call "the POPE score", so each has a name. Scoring is shared by the
official files (`pope_files`) and the built-in world (`pope_scenes`).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.eval import yesno
from halu.eval.benchmark import Counts, Metric, Sample, Score, Total, summed

KINDS = ("random", "popular", "adversarial")
METRICS = (
    Metric("accuracy", "higher", "answers that are right", hits=("tp", "tn")),
    Metric("f1", "higher", "harmonic mean of precision and recall of yes"),
    Metric("precision", "higher", "said yes and it is there"),
    Metric("recall", "higher", "there and said yes"),
    Metric("yes_ratio", "neither", "answers that are yes; half would be right"),
)
TOTALS = (
    Total("mean_f1", "f1", KINDS, "mean", "mean of the three splits, LLaVA's POPE score"),
    Total("mean_accuracy", "accuracy", KINDS, "mean", "mean of the three splits"),
)
_ASKED = re.compile(r"is there an? (.+?) in the iman?ge", re.IGNORECASE)


def asked_object(question: str) -> str | None:
    """Name the object that a question asks about; article and the files' "imange" do not matter."""
    found = _ASKED.search(question)
    return None if found is None else found[1].strip().lower()


def score_answer(text: str, label: yesno.YesNo, rule: str = "pope") -> Score:
    """Score one answer under a published rule of `yesno.RULES`.

    `value` is None when a person finds neither yes nor no, whatever the rule makes of it. What the
    rule alone cannot read is parsed as "neither", and its value is 0 if a person can.
    """
    said = yesno.RULES[rule].read(text, label)
    return Score(
        parsed=said or "neither",
        value=float(said == label) if yesno.readable(text) else None,
        counts={yesno.outcome(said, label): 1},
    )


@dataclass(frozen=True, slots=True)
class Pope(ABC):
    """POPE's scoring; where questions and pictures come from is up to the subclass."""

    name: str
    about: str
    builtin: bool
    splits: tuple[str, ...] = KINDS
    version: int = 1
    rules: str = "pope"
    judged: bool = False
    suffix: str = " Please answer this question with one word."
    max_new_tokens: int = 16
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = yesno.COUNTS
    totals: tuple[Total, ...] = TOTALS
    known_rules: tuple[str, ...] = tuple(yesno.RULES)

    @abstractmethod
    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions, at most `limit` a split."""

    @abstractmethod
    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Load or draw the picture of that id."""

    def score(self, sample: Sample, text: str) -> Score:
        """Read the answer under this benchmark's rule."""
        return score_answer(text, "yes" if sample.label == "yes" else "no", self.rules)

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up the answers about one picture."""
        return summed(self.counts, counts)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the five metrics."""
        return yesno.rates(counts, yesno.RULES[self.rules])
