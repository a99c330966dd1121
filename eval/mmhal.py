"""MMHal-Bench: 96 questions of eight types, each answer rated from 0 to 6 by a judge model.

Sun et al., ACL Findings 2024, arXiv:2309.14525. The judge, which does not see the picture, is given
the objects on it, the question, a human's answer and the model's. score = mean rating;
hallucination rate = share of ratings below 3. A rating is read as the official script does: the
reply, lower-cased, holds "rating: N" for exactly one N, else the answer counts as 0.

The data folder holds what the authors publish: `response_template.json` (an array of objects with
`image_src`, `image_content`, `question`, `gt_answer`, `question_type`), the pictures under the last
part of their `image_src`, and `eval_gpt4.py`, from which the judge's instructions are read. Ours:
temperature 0, and a reply without one rating has no value besides counting as 0.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.benchmark import Counts, Metric, Sample, Score, benchmarks, ratio
from halu.eval.judge import Judge
from halu.eval.rated import Rated
from halu.eval.records import Entry, read_entries
from halu.eval.wording import texts

QUESTIONS, SCRIPT = "response_template.json", "eval_gpt4.py"
COUNTS = ("answers", "ratings", "hallucinated")
METRICS = (
    Metric("score", "higher", "mean rating by the judge, from 0 to 6", unit="number"),
    Metric("hallucination_rate", "lower", "answers rated below 3"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """What the judge is told besides the answer, and its instructions."""

    text: str
    contents: str
    reference: str
    instructions: str

    def to_judge(self, answer: str) -> str:
        """Fill the instructions in."""
        return self.instructions.format(self.contents, self.text, self.reference, answer)


@dataclass(frozen=True, slots=True)
class Mmhal(Rated):
    """The 96 questions; `category` of a sample is its question type."""

    hint: ClassVar[str] = f"It must hold MMHal-Bench's {QUESTIONS}, {SCRIPT} and the pictures."
    places: ClassVar[tuple[str, ...]] = ("", "images", "image", "test_data/images")

    name: str = "mmhal"
    about: str = "Open questions rated by a judge model (MMHal-Bench, arXiv:2309.14525)"
    rules: str = "mmhal"
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS

    def questions(self, folder: Path) -> list[Sample]:
        """Read the template of responses, and what the judge is told from the script."""
        instructions = official_instructions(files.file(folder, SCRIPT))
        entries = read_entries(files.file(folder, QUESTIONS))
        return [read_question(entry, place, instructions) for place, entry in enumerate(entries)]

    def ask(self, judge: Judge, sample: Sample, text: str) -> str:
        """Tell the judge the picture's contents, the question, and both answers."""
        assert isinstance(sample.detail, Question)
        return judge.ask(sample.detail.to_judge(text))

    def read(self, reply: str) -> Score:
        """Read the rating."""
        return rated(reply)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute mean rating and hallucination rate."""
        answers, ratings, hallucinated = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
        return {
            "score": ratio(ratings, answers),
            "hallucination_rate": ratio(hallucinated, answers),
        }


def official_instructions(script: Path) -> str:
    """Read the judge's instructions, which have four places to fill.

    Raises:
        BadInput: if the script holds no such text.
    """
    (template,) = texts(script, "template")
    try:
        template.format("", "", "", "")
    except (IndexError, KeyError, ValueError) as error:
        raise BadInput(f"{script}: 'template' does not have four places.", param="data") from error
    return template


def read_question(entry: Entry, place: int, instructions: str) -> Sample:
    """Read one object of the official file; its id is its place, as the file has no other."""
    contents = entry.fields.get("image_content")
    if not isinstance(contents, list) or not all(isinstance(name, str) for name in contents):
        raise BadInput(f"{entry.where}: 'image_content' is missing or not a list of texts.")
    question = Question(
        entry.text("question"), ", ".join(contents), entry.text("gt_answer"), instructions
    )
    return Sample(
        id=str(place),
        split="test",
        image=PurePosixPath(entry.text("image_src")).name,
        prompt=question.text,
        label=question.reference,
        category=entry.text("question_type"),
        detail=question,
    )


def rated(reply: str) -> Score:
    """Read the judge's reply; none or two ratings count 0 and have no value."""
    said = reply.lower()
    ratings = [rating for rating in range(7) if f"rating: {rating}" in said]
    clear = len(ratings) == 1
    rating = ratings[0] if clear else 0
    return Score(
        parsed=(f"rating {rating}" if clear else "no rating",),
        value=rating / 6 if clear else None,
        counts={"answers": 1, "ratings": rating, "hallucinated": int(rating < 3)},
    )


benchmarks.register("mmhal")(Mmhal())
