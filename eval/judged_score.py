"""What judges said about other projects' answers, as the authors' scripts save it.

MMHal-Bench's `eval_gpt4.py` writes an array of chat completions, one for each of the 96 questions,
in their order. VDGD's `evaluate_gpt.py` writes JSON lines with the parsed ratings under `score`.
Such files are counted without asking a judge again; which judge it was, they do not say reliably.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from halu.errors import BadInput
from halu.eval import mmhal, vallu
from halu.eval.answers import refuse_gaps
from halu.eval.benchmark import Sample, Score
from halu.eval.records import Entry, read_entries
from halu.eval.score import Column, Given, Reading, scorers

MMHAL_QUESTIONS = 96


class ToldMmhal(mmhal.Mmhal):
    """Reads the judge's reply itself."""

    __slots__ = ()

    def score(self, sample: Sample, text: str) -> Score:
        """Read a rating."""
        return self.read(text)


class ToldVallu(vallu.Vallu):
    """Reads the judge's reply itself."""

    __slots__ = ()

    def score(self, sample: Sample, text: str) -> Score:
        """Read the ratings."""
        return self.read(text)


@dataclass(frozen=True, slots=True)
class MmhalScorer:
    """Counts saved chat completions of the judge."""

    rules: tuple[str, ...] = ("mmhal",)
    needs: str = "nothing else; the file holds the judge's replies, as eval_gpt4.py saves them"

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read the replies; there have to be 96."""
        replies = [_completion(entry) for entry in read_entries(given.answers)]
        if not replies or len(replies) > MMHAL_QUESTIONS:
            raise BadInput(
                f"{given.answers} holds {len(replies)} replies for {MMHAL_QUESTIONS} questions."
            )
        missing = [str(number) for number in range(len(replies), MMHAL_QUESTIONS)]
        refuse_gaps(missing, MMHAL_QUESTIONS, given.partial)
        return Reading({rule: _column(ToldMmhal(), replies) for rule in rules})


@dataclass(frozen=True, slots=True)
class ValluScorer:
    """Counts saved ratings of the judge."""

    rules: tuple[str, ...] = ("vallu",)
    needs: str = "nothing else; the file holds the judge's ratings, as evaluate_gpt.py saves them"

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read the ratings; how many there should be, nothing says."""
        replies = [_ratings(entry) for entry in read_entries(given.answers)]
        if not replies:
            raise BadInput(f"{given.answers} holds no ratings.")
        return Reading({rule: _column(ToldVallu(), replies) for rule in rules})


def _column(benchmark: ToldMmhal | ToldVallu, replies: Sequence[str]) -> Column:
    samples = [Sample(str(n), "test", None, "", "") for n in range(len(replies))]
    return Column(benchmark, list(zip(samples, replies, strict=True)))


def _completion(entry: Entry) -> str:
    try:
        content = entry.fields["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    if not isinstance(content, str):
        raise BadInput(f"{entry.where}: not a chat completion of the judge.")
    return content


def _ratings(entry: Entry) -> str:
    told = entry.fields.get("score")
    if not isinstance(told, dict):
        raise BadInput(f"{entry.where}: 'score' is missing or holds no ratings.")
    return json.dumps(told)


scorers.register("mmhal")(MmhalScorer())
scorers.register("vallu")(ValluScorer())
