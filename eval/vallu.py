"""VaLLu: open questions that need seeing and thinking, each answer rated by a judge with eyes.

Ghosh et al. (VDGD), ICLR 2025, arXiv:2405.15683. The judge sees the picture, the question and the
answer, and rates helpfulness, clarity, correctness, depth and engagement from 1 to 5; it also lists
hallucinated phrases, which nothing is computed from. Each metric is a mean rating. An answer whose
rating cannot be read is left out, as the official script does.

Read in the authors' repository: the judge's script `evaluate_gpt.py` (its two texts around question
and answer, and the reply's JSON) and the layout of their question files, JSON lines with `id`,
`image`, `conversations` (the first `value` is the question, with "<image>" in it) and in some
`task`. Not found published: `vallu_benchmark.jsonl` itself, which is taken to have that layout, and
which of the ratings the paper's tables show; correctness, which the script names its file after,
comes first. Ours: temperature 0 (there 0.7), and a reply is parsed, never evaluated.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.benchmark import Counts, Metric, Sample, Score, benchmarks, ratio
from halu.eval.judge import Judge
from halu.eval.rated import Rated
from halu.eval.records import Entry, read_entries
from halu.eval.wording import texts

QUESTIONS = ("vallu_benchmark.jsonl", "vallu.jsonl")
SCRIPT = "evaluate_gpt.py"
ASPECTS = ("correctness", "helpfulness", "clarity", "depth", "engagement")
COUNTS = ("answers", *ASPECTS)
METRICS = tuple(
    Metric(aspect, "higher", f"mean rating of {aspect} by the judge, from 1 to 5", unit="number")
    for aspect in ASPECTS
)


@dataclass(frozen=True, slots=True)
class Question:
    """What the judge is told besides the answer: its instructions, and where the picture lies."""

    text: str
    instructions: tuple[str, str]
    folder: Path

    def to_judge(self, answer: str) -> str:
        """Put question and answer between the two texts."""
        before, after = self.instructions
        return f"{before}{self.text}\n\n##Output: {answer}{after}"


@dataclass(frozen=True, slots=True)
class Vallu(Rated):
    """The questions of a VaLLu file; `category` of a sample is its task, if told."""

    hint: ClassVar[str] = (
        f"It must hold {QUESTIONS[0]}, its pictures and {SCRIPT} of the VDGD repository."
    )
    places: ClassVar[tuple[str, ...]] = ("", "images", "datasets", "datasets/images")

    name: str = "vallu"
    about: str = "Open questions to see and think about, rated by a judge (VDGD, arXiv:2405.15683)"
    rules: str = "vallu"
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS

    def questions(self, folder: Path) -> list[Sample]:
        """Read the question file, and what the judge is told from the script."""
        before, after = texts(files.file(folder, SCRIPT), "prompt_abstract_1", "prompt_abstract_2")
        found: dict[str, Sample] = {}
        for entry in read_entries(files.file(folder, *QUESTIONS)):
            sample = read_question(entry, (before, after), folder)
            if sample.id in found:
                raise BadInput(f"{entry.where}: question id {sample.id} occurs twice.")
            found[sample.id] = sample
        return list(found.values())

    def ask(self, judge: Judge, sample: Sample, text: str) -> str:
        """Show the judge the picture, the question and the answer."""
        question = sample.detail
        assert isinstance(question, Question)
        assert sample.image is not None
        picture = self.picture(sample.image, question.folder)
        return judge.ask(question.to_judge(text), picture)

    def read(self, reply: str) -> Score:
        """Read the five ratings."""
        return rated(reply)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the mean rating of each aspect."""
        answers, *sums = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
        return {aspect: ratio(total, answers) for aspect, total in zip(ASPECTS, sums, strict=True)}


def read_question(entry: Entry, instructions: tuple[str, str], folder: Path) -> Sample:
    """Read one line; the picture's path may begin outside the folder ("../AMBER/image/1.jpg")."""
    turns = entry.fields.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    text = first.get("value") if isinstance(first, dict) else None
    if not isinstance(text, str):
        raise BadInput(f"{entry.where}: 'conversations' does not begin with a question.")
    text = re.sub(r"\n?<image>\n?", "", text).strip()
    parts = [part for part in PurePosixPath(entry.text("image")).parts if part not in ("..", "/")]
    task = entry.fields.get("task")
    return Sample(
        id=entry.text("id"),
        split="test",
        image="/".join(parts),
        prompt=text,
        label="",
        category=task if isinstance(task, str) else None,
        detail=Question(text, instructions, folder),
    )


def rated(reply: str) -> Score:
    """Read the five ratings; if one cannot be read the answer is left out."""
    told = _object(reply)
    ratings = [_rating(told.get(aspect)) for aspect in ASPECTS]
    whole = [rating for rating in ratings if rating is not None]
    if len(whole) < len(ASPECTS):
        return Score(("no rating",), None, {})
    counts = {"answers": 1, **dict(zip(ASPECTS, whole, strict=True))}
    return Score((f"correctness {whole[0]}",), (whole[0] - 1) / 4, counts)


def _object(reply: str) -> dict[str, Any]:
    """Find the reply's object, in JSON or, as the instructions show it, in Python's quotes."""
    text = reply[reply.find("{") : reply.rfind("}") + 1]
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _rating(aspect: object) -> int | None:
    score = aspect.get("score") if isinstance(aspect, dict) else aspect
    found = re.fullmatch(r"\[?([1-5])(?:\.0)?\]?", str(score).strip())
    return int(found[1]) if found else None


benchmarks.register("vallu")(Vallu())
