"""HallusionBench's scoring: yes/no questions on a figure, on its altered versions and without any.

Guan et al., CVPR 2024, arXiv:2310.14566. aAcc = questions answered right; fAcc = figures all of
whose questions are answered right; qAcc = questions answered right in all their variants (the same
question of the original and the altered figures). A variant without a figure counts as right if the
answer is unclear, and belongs to no figure. Where answers are read is up to the subclass:

| rules | answers | questions |
|---|---|---|
| `vlmevalkit` | one of the words yes and no, not both; else wrong | the 951 with a figure |
| `official` | a judge compares with the reference: correct, incorrect, unclear | all 1,129 |

The judge's verdicts are read as in the authors' script; how it is asked is worded here afresh.
All variants of a question are in one `cluster`, its set of figures; where they are counted apart,
or some are missing, qAcc is NaN.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halu.eval.benchmark import Counts, Metric, Sample, Score, ratio
from halu.eval.judge import Judge, no_judge
from halu.eval.yesno import read_vlmevalkit

Verdict = Literal["right", "wrong", "unclear"]

COUNTS = (
    *("questions", "right", "figures", "figures_right"),
    *("pairs", "pairs_right", "pairs_apart"),
)
METRICS = (
    Metric("a_acc", "higher", "questions answered right", hits=("right",)),
    Metric("q_acc", "higher", "questions answered right in all variants"),
    Metric("f_acc", "higher", "figures with all questions answered right"),
)
NO_FIGURE = -1

_TO_JUDGE = """\
Compare an answer with what is known to be true.

Question: {question}
Known to be true: {reference}
Answer: {answer}

Reply with one word: "correct" if the answer agrees with what is known to be true, "incorrect" if \
it contradicts it, "unclear" if it does not settle the question."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Which question of which figure a sample is; `variants`: of that question in the run."""

    figure: int
    question: int
    variants: int
    reference: str


@dataclass(frozen=True, slots=True)
class Hallusion(ABC):
    """The counting; how a verdict comes about is up to the subclass."""

    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS

    @abstractmethod
    def verdict(self, sample: Sample, text: str) -> tuple[Verdict, str | tuple[str, ...]]:
        """Judge one answer; besides, what was read in it."""

    def score(self, sample: Sample, text: str) -> Score:
        """Score one answer; an unclear one has no value unless it counts as right."""
        variant = sample.detail
        assert isinstance(variant, Variant)
        said, parsed = self.verdict(sample, text)
        right = said == "right" or (said == "unclear" and variant.figure == NO_FIGURE)
        counts = {
            "questions": 1,
            "right": int(right),
            "figure": variant.figure,
            "question": variant.question,
            "variants": variant.variants,
        }
        return Score(parsed, None if said == "unclear" and not right else float(right), counts)

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Count questions, figures and pairs of one set of figures."""
        rows = list(counts)
        figures = _all_right((row["figure"], row["right"]) for row in rows)
        figures.pop(NO_FIGURE, None)
        pairs = _all_right((row["question"], row["right"]) for row in rows)
        there = Counter(row["question"] for row in rows)
        wanted = {row["question"]: row["variants"] for row in rows}
        numbers = (
            len(rows),
            sum(row["right"] for row in rows),
            len(figures),
            sum(figures.values()),
            len(pairs),
            sum(pairs.values()),
            sum(there[question] != wanted[question] for question in pairs),
        )
        return [float(number) for number in numbers]

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the three accuracies."""
        total = dict(zip(COUNTS, np.moveaxis(np.asarray(counts, np.float64), -1, 0), strict=True))
        q_acc = ratio(total["pairs_right"], total["pairs"])
        return {
            "a_acc": ratio(total["right"], total["questions"]),
            "q_acc": np.where(total["pairs_apart"] > 0, np.nan, q_acc),
            "f_acc": ratio(total["figures_right"], total["figures"]),
        }


def read_words(sample: Sample, text: str) -> tuple[Verdict, str]:
    """Compare the word yes or no with the label; neither or both is unclear."""
    said = read_vlmevalkit(text, "yes")
    if said is None:
        return "unclear", "unclear"
    return "right" if said == sample.label else "wrong", said


def ask_judge(judge: Judge | None, name: str, sample: Sample, text: str) -> Verdict:
    """Have the judge compare an answer with the reference.

    Raises:
        BadInput: without a judge.
        Failed: if the judge does not answer.
    """
    if judge is None:
        raise no_judge(name)
    assert isinstance(sample.detail, Variant)
    asked = _TO_JUDGE.format(question=sample.prompt, reference=sample.detail.reference, answer=text)
    return read_verdict(judge.ask(asked))


def read_verdict(reply: str) -> Verdict:
    """Read the judge's reply as the authors' script does: by what it holds, "incorrect" first."""
    said = reply.lower()
    return "wrong" if "incorrect" in said else "right" if "correct" in said else "unclear"


def _all_right(rows: Iterable[tuple[int, int]]) -> dict[int, bool]:
    found: dict[int, bool] = {}
    for name, right in rows:
        found[name] = found.get(name, True) and bool(right)
    return found
