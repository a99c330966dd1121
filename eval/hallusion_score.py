"""HallusionBench result files: the authors' question file with `model_prediction` added.

The authors' script adds the judge's verdicts too ("1" correct, "0" incorrect, "2" unclear); they
are what the rule `official` counts. Such a file holds the questions itself; with --questions it is
checked against `HallusionBench.json`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halu.errors import BadInput
from halu.eval.answers import refuse_gaps, repeated
from halu.eval.benchmark import Sample
from halu.eval.hallusion import Verdict
from halu.eval.hallusion_files import HallusionFiles, counted, read_question, read_questions
from halu.eval.records import Entry, read_entries
from halu.eval.score import Column, Given, Reading, scorers

OFFICIAL = "official"
_ANSWERS = ("model_prediction", "prediction", "answer", "response", "text")
_VERDICT = "gpt4v_output_gpt_check"
_OTHER = {"yes": "no", "no": "yes"}
_VERDICTS: dict[str, Verdict] = {"1": "right", "0": "wrong", "2": "unclear"}


@dataclass(frozen=True, slots=True)
class Told(HallusionFiles):
    """Counts verdicts that a file tells instead of answers."""

    rules: str = OFFICIAL

    def verdict(self, sample: Sample, text: str) -> tuple[Verdict, str]:
        """Read a verdict's number; besides, the word that it takes the answer for."""
        said = _VERDICTS[text]
        words = {"right": str(sample.label), "wrong": _OTHER[str(sample.label)]}
        return said, words.get(said, "unclear")


@dataclass(frozen=True, slots=True)
class HallusionScorer:
    """Scores answers by their words, and verdicts as told."""

    rules: tuple[str, ...] = ("vlmevalkit", OFFICIAL)
    needs: str = "nothing else; --questions with HallusionBench.json finds missing answers"

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read the questions with their answers."""
        rows = [(read_question(entry), entry) for entry in read_entries(given.answers)]
        if not rows:
            raise BadInput(f"{given.answers} holds no answers.", param="answers")
        if twice := repeated(sample.id for sample, _ in rows):
            raise BadInput(f"{given.answers}: question {twice[0]} occurs twice.")
        _check(given, [sample.id for sample, _ in rows])
        return Reading({rule: _column(rule, rows) for rule in rules})


def _check(given: Given, answered: Sequence[str]) -> None:
    """Compare with the questions, if they are given; those without a figure may be left out."""
    if given.questions is None:
        return
    asked = read_questions(given.questions, with_figure=False)
    if unknown := sorted(set(answered) - {sample.id for sample in asked}):
        raise BadInput(f"{given.answers}: question {unknown[0]} is not in {given.questions}.")
    needed = [sample.id for sample in asked if sample.image is not None]
    missing = [name for name in needed if name not in set(answered)]
    refuse_gaps(missing, len(needed), given.partial)


def _column(rule: str, rows: Sequence[tuple[Sample, Entry]]) -> Column:
    if rule == OFFICIAL:
        told = [_verdict(entry) for _, entry in rows]
        return Column(Told(), list(zip(counted([sample for sample, _ in rows]), told, strict=True)))
    shown = [(sample, _answer(entry)) for sample, entry in rows if sample.image is not None]
    if not shown:
        raise BadInput(f"The rule {rule!r} counts questions with a figure, and none has one.")
    samples = counted([sample for sample, _ in shown])
    return Column(HallusionFiles(), list(zip(samples, [text for _, text in shown], strict=True)))


def _answer(entry: Entry) -> str:
    text = entry.first(*_ANSWERS)
    if text is None:
        raise BadInput(f"{entry.where}: no answer.", hint=f"Looked for {', '.join(_ANSWERS)}.")
    return text


def _verdict(entry: Entry) -> str:
    told = entry.first(_VERDICT)
    if told not in _VERDICTS:
        raise BadInput(
            f"{entry.where}: {_VERDICT!r} holds no verdict of 0, 1 or 2.",
            hint="Without verdicts, score by --rules vlmevalkit, or run a bench with a judge.",
        )
    return told


scorers.register("hallusionbench")(HallusionScorer())
