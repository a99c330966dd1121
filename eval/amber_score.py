"""AMBER answer files: objects with `id` and `response`, descriptions and yes/no answers mixed.

The annotations alone are enough; with the query files beside them, answers about one picture are
known to belong together. Of the kinds of question that a file answers, it has to answer all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.amber import ANNOTATIONS, GENERATIVE, QUERIES, Amber, questions, read_truth
from halu.eval.amber_words import RULES, Words, read_words
from halu.eval.answers import Reply, read_replies, refuse_gaps
from halu.eval.benchmark import Sample
from halu.eval.records import Entry, read_entries
from halu.eval.score import Column, Given, Reading, scorers

_NEEDS = (
    "--annotations with AMBER's data folder; for descriptions also --tables with NLTK's archives"
)


@dataclass(frozen=True, slots=True)
class AmberScorer:
    """Scores AMBER answers, descriptions without word vectors."""

    rules: tuple[str, ...] = (RULES,)
    needs: str = _NEEDS

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read and join by id."""
        folder = _folder(given)
        truth = read_truth(files.file(folder, *ANNOTATIONS))
        replies = _by_id(read_replies(given.answers), truth)
        words = _words(given, folder, truth, replies)
        samples = questions(_asked(given, folder, truth), truth, words)
        answered = {sample.split for sample in samples if sample.id in replies}
        expected = [sample for sample in samples if sample.split in answered]
        missing = [sample.id for sample in expected if sample.id not in replies]
        refuse_gaps(missing, len(expected), given.partial)
        answers = [(s, replies[s.id].text) for s in expected if s.id in replies]
        return Reading({rule: Column(Amber(), answers) for rule in rules}, _warnings(expected))


def _folder(given: Given) -> Path:
    if not given.annotations:
        raise BadInput("AMBER answers need annotations.", hint=f"Give {_NEEDS}.")
    first = given.annotations[0]
    return first if first.is_dir() else first.parent


def _by_id(replies: Sequence[Reply], truth: dict[str, Entry]) -> dict[str, Reply]:
    found: dict[str, Reply] = {}
    for reply in replies:
        if reply.id is None:
            raise BadInput(f"{reply.where}: the answer has no id.")
        if reply.id not in truth:
            raise BadInput(f"{reply.where}: id {reply.id} is not in the annotations.")
        if reply.id in found:
            raise BadInput(f"{reply.where}: id {reply.id} occurs twice.")
        found[reply.id] = reply
    return found


def _words(
    given: Given, folder: Path, truth: dict[str, Entry], replies: dict[str, Reply]
) -> Words | None:
    if not any(truth[name].text("type") == GENERATIVE for name in replies):
        return None
    return read_words(folder, given.tables or folder)


def _asked(given: Given, folder: Path, truth: dict[str, Entry]) -> list[Entry]:
    """Read the queries if they are there; the annotations have the same ids."""
    if given.questions is not None:
        path = given.questions
        return read_entries(files.file(path, QUERIES) if path.is_dir() else path)
    there = sorted(path for depth in ("", "*/") for path in folder.glob(depth + QUERIES))
    return read_entries(there[0]) if there else list(truth.values())


def _warnings(samples: Sequence[Sample]) -> tuple[str, ...]:
    if any(sample.split == GENERATIVE for sample in samples):
        return ("Descriptions are scored without word vectors: some tenths off published figures.",)
    return ()


scorers.register("amber")(AmberScorer())
