"""TextHalu-Bench answer files: `id` and an answer, or one answer a question in their order.

The authors' script asks and scores in one go and writes no answers, so there is no published form.
An id is the task and the line in its file, such as "spotting/1".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halu.errors import BadInput
from halu.eval.answers import Reply, answered_twice, read_replies, refuse_gaps
from halu.eval.benchmark import Sample
from halu.eval.score import Column, Given, Reading, scorers
from halu.eval.texthalu import FILES, TextHalu, read_questions

_NEEDS = "--questions with the folder of Spotting.json and Understanding.json"


@dataclass(frozen=True, slots=True)
class TextHaluScorer:
    """Scores answers to one task or to both."""

    rules: tuple[str, ...] = ("texthalu",)
    needs: str = _NEEDS

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read and join by id, or by order if no answer has one."""
        if given.questions is None or not given.questions.is_dir():
            raise BadInput("TextHalu-Bench answers need questions.", hint=f"Give {_NEEDS}.")
        asked = [sample for split in FILES for sample in read_questions(given.questions, split)]
        replies = read_replies(given.answers)
        by_id = _by_order(asked, replies) if replies[0].id is None else _by_id(asked, replies)
        tasks = {name.partition("/")[0] for name in by_id}
        expected = [sample for sample in asked if sample.split in tasks]
        missing = [sample.id for sample in expected if sample.id not in by_id]
        refuse_gaps(missing, len(expected), given.partial)
        answers = [(s, by_id[s.id]) for s in expected if s.id in by_id]
        return Reading({rule: Column(TextHalu(), answers) for rule in rules})


def _by_id(asked: Sequence[Sample], replies: Sequence[Reply]) -> dict[str, str]:
    known = {sample.id for sample in asked}
    for reply in replies:
        if reply.id not in known:
            raise BadInput(f"{reply.where}: there is no question {reply.id!r}.")
    if twice := answered_twice(replies, lambda reply: reply.id):
        raise twice
    return {str(reply.id): reply.text for reply in replies}


def _by_order(asked: Sequence[Sample], replies: Sequence[Reply]) -> dict[str, str]:
    if len(asked) != len(replies):
        raise BadInput(
            f"{len(replies)} answers without ids do not fit {len(asked)} questions.",
            hint="Give each answer an id such as spotting/1.",
            param="answers",
        )
    return {sample.id: reply.text for sample, reply in zip(asked, replies, strict=True)}


scorers.register("textualhalu")(TextHaluScorer())
