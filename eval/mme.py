"""MME: two yes/no questions about each picture, one true and one false, by task.

Fu et al., 2023, arXiv:2306.13394. acc = right answers / questions, acc+ = pictures with both right
/ pictures, score = their sum in percent, at most 200 a task. Always saying yes scores exactly 50.
Ours: a picture of which only one question is answered (a partial file, a run that was killed) is
left out of acc+, as whether both are right is not known.
An answer is yes if its first four characters hold "yes", else no if they hold "no" ("not", "none"
and "now" are no); anything else is wrong. Tasks are splits. The published totals
sum their scores: perception (ten tasks, at most 2,000), cognition (four, 800), and papers'
"hallucination subset" (existence, count, position and color, 800).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.eval.benchmark import Counts, Metric, Sample, Score, Total, ratio, summed
from halu.eval.yesno import YesNo, readable

HALLUCINATION = ("existence", "count", "position", "color")
PERCEPTION = (*HALLUCINATION, "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
TASKS = (*PERCEPTION, *COGNITION)
TOTALS = (
    Total("perception", "score", PERCEPTION, "sum", "sum of ten tasks, at most 2,000"),
    Total("cognition", "score", COGNITION, "sum", "sum of four tasks, at most 800"),
    Total("hallucination_subset", "score", HALLUCINATION, "sum", "papers' subset, at most 800"),
    Total("total", "score", TASKS, "sum", "perception and cognition, at most 2,800"),
)
_ANSWERS = ("questions", "right", "tp", "fp", "tn", "fn", "other")
COUNTS = (*_ANSWERS, "images", "both")
METRICS = (
    Metric("score", "higher", "acc and acc+ in percent, added; 50 is always yes", unit="number"),
    Metric("acc", "higher", "answers that are right", hits=("right",)),
    Metric("acc_plus", "higher", "pictures with both answers right"),
)


def read_mme(text: str) -> YesNo | None:
    """MME's own reading of an answer; None is "other"."""
    start = text.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def score_answer(text: str, label: str) -> Score:
    """Score one answer; `value` is None when a person finds neither yes nor no."""
    said = read_mme(text)
    right = said == label
    cell = (
        {"yes": "tp" if right else "fp", "no": "tn" if right else "fn"}[said] if said else "other"
    )
    return Score(
        parsed=said or "other",
        value=float(right) if said is not None or readable(text) else None,
        counts={"questions": 1, "right": int(right), cell: 1},
    )


def tally(counts: Iterable[Mapping[str, int]]) -> list[float]:
    """Add up the two answers about one picture; of one alone, whether both are right is open."""
    total = summed(_ANSWERS, counts)
    questions, right = total[:2]
    whole = questions > 1
    return [*total, float(whole), float(whole and right == questions)]


def rates(counts: Counts) -> dict[str, NDArray[np.float64]]:
    """Compute score, acc and acc+ from added-up counts."""
    total = dict(zip(COUNTS, np.moveaxis(np.asarray(counts, np.float64), -1, 0), strict=True))
    acc = ratio(total["right"], total["questions"])
    acc_plus = ratio(total["both"], total["images"])
    return {"score": 100 * (acc + acc_plus), "acc": acc, "acc_plus": acc_plus}


@dataclass(frozen=True, slots=True)
class Mme(ABC):
    """MME's scoring; where questions and pictures come from is up to the subclass."""

    name: str
    about: str
    builtin: bool
    splits: tuple[str, ...] = HALLUCINATION
    version: int = 2
    rules: str = "mme"
    judged: bool = False
    suffix: str = ""
    max_new_tokens: int = 16
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS
    totals: tuple[Total, ...] = TOTALS

    @abstractmethod
    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions, at most `limit` a split (an odd one rounded up), always in pairs."""

    @abstractmethod
    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Load or draw the picture of that id."""

    def score(self, sample: Sample, text: str) -> Score:
        """Read the answer as MME does."""
        return score_answer(text, str(sample.label))

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up the two answers about one picture."""
        return tally(counts)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the three metrics."""
        return rates(counts)
