"""POPE answer files of other projects, joined with their questions.

Answers are joined on the question's id; where ids clash or differ between generations of the files,
on picture and object; files without either (POPE's own, PAI's) by order, and then what else a line
tells must agree. LLaVA's combined file numbers adversarial from 1, random from 10000001, popular
from 20000001; its question file has no labels, which then come from POPE's files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from halu.errors import BadInput
from halu.eval import yesno
from halu.eval.answers import Reply, answered_twice, read_replies
from halu.eval.benchmark import Sample, benchmarks
from halu.eval.pope import asked_object
from halu.eval.pope_annotations import Annotations, sorted_out
from halu.eval.pope_files import PopeFiles
from halu.eval.pope_join import join, narrowed
from halu.eval.pope_questions import (
    FIRST_RANDOM,
    Key,
    key_of,
    question_files,
    read_questions,
    split_of,
)
from halu.eval.records import read_entries
from halu.eval.score import Column, Given, Reading, scorers

_NEEDS = "--questions with a question file such as coco_pope_random.json, or a folder of them"


@dataclass(frozen=True, slots=True)
class PopeScorer:
    """Scores POPE answers under any of the six rules in use."""

    rules: tuple[str, ...] = tuple(yesno.RULES)
    needs: str = _NEEDS

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read and join; PAI's files and a run's rows carry their labels and need no questions."""
        replies = read_replies(given.answers, given.rows)
        annotations = sorted_out(given.annotations)
        asked = narrowed(_questions(given, annotations), replies)
        questions = asked or _labelled(replies)
        annotations.refuse_unused(questions)
        pope = benchmarks.get("pope")
        assert isinstance(pope, PopeFiles)
        _refuse_older(questions, replies)
        joined = join(questions, replies, given.partial) if asked else _told(questions, replies)
        warnings = list(pope.doubts(questions))
        if len(joined) < len(questions):
            warnings.append(f"{len(questions) - len(joined)} questions have no answer.")
        columns = {rule: Column(replace(pope, rules=rule), joined) for rule in rules}
        return Reading(columns, tuple(warnings))


def _refuse_older(questions: Sequence[Sample], replies: Sequence[Reply]) -> None:
    """Raise BadInput for first-generation answers whose lines do not show that they are."""
    blind = not any(reply.prompt or reply.image for reply in replies)
    if blind and len(replies) == FIRST_RANDOM < len(questions):
        raise BadInput(
            "2,910 answers are of POPE's first generation, whose ids mean other questions.",
            hint="Give that generation's coco_pope_random.json with --questions.",
            param="--questions",
        )


def _questions(given: Given, annotations: Annotations) -> list[Sample]:
    """Read the questions with every label that the files give."""
    if given.questions is not None and given.questions.is_dir():
        annotations = annotations.beside(given.questions)
        asked = list(question_files(given.questions).values())
        if not asked:
            raise BadInput(f"No POPE questions in {given.questions}.", param="--questions")
    else:
        asked = list(annotations.first if given.questions is None else [given.questions])
    found: list[Sample] = []
    for file in asked:
        for split, samples in _read(file, annotations.first).items():
            found += annotations.add(samples, split)
    return found


def _read(file: Path, labelled: Sequence[Path]) -> dict[str, list[Sample]]:
    entries = read_entries(file)
    if not entries:
        raise BadInput(f"{file} holds no questions.", param="--questions")
    if "label" in entries[0].fields:
        split = split_of(file) or file.stem
        return {split: read_questions(file, split)}
    return _unlabelled(file, labelled)


def _unlabelled(file: Path, labelled: Sequence[Path]) -> dict[str, list[Sample]]:
    """Read LLaVA's question file: the split stands in each line, the label in POPE's files."""
    known = _labels(labelled)
    found: dict[str, list[Sample]] = {}
    for entry in read_entries(file):
        kind, text = entry.first("category") or "", entry.text("text")
        key = (entry.text("image"), asked_object(text) or "")
        if (kind, key) not in known:
            raise BadInput(
                f"{entry.where}: the question has no label.",
                hint="Give POPE's files of all its splits with --annotations.",
            )
        split = f"coco/{kind}"
        sample = Sample(
            f"{split}/{entry.text('question_id')}",
            split,
            f"coco/{key[0]}",
            text,
            known[kind, key],
            key[1],
        )
        found.setdefault(split, []).append(sample)
    return found


def _labels(files: Iterable[Path]) -> dict[tuple[str, Key], str]:
    return {
        (sample.split.rpartition("/")[2], key_of(sample)): str(sample.label)
        for file in files
        for sample in read_questions(file, split_of(file) or file.stem)
    }


def _told(questions: Sequence[Sample], replies: Sequence[Reply]) -> list[tuple[Sample, str]]:
    """Pair questions with the answers that they were told with."""
    names = {id(reply): sample.id for sample, reply in zip(questions, replies, strict=True)}
    if twice := answered_twice(replies, lambda reply: names[id(reply)]):
        raise twice
    return [(sample, reply.text) for sample, reply in zip(questions, replies, strict=True)]


def _labelled(replies: Sequence[Reply]) -> list[Sample]:
    """Make the questions of a file that carries its labels."""
    labels = {"yes": "yes", "1": "yes", "no": "no", "0": "no"}
    found: list[Sample] = []
    for number, reply in enumerate(replies, 1):
        label = labels.get((reply.label or "").strip().lower())
        if label is None:
            raise BadInput(
                f"{reply.where}: the answer has no label.", hint=f"Give {_NEEDS}.", param="answers"
            )
        prompt, split = reply.prompt or "", reply.split or "answers"
        image = reply.image or f"picture {(number - 1) // 6 + 1}"
        found.append(
            Sample(
                f"{split}/{reply.id or number}",
                split,
                image,
                prompt,
                label,
                asked_object(prompt),
            )
        )
    return found


scorers.register("pope", aliases=("pope-scenes",))(PopeScorer())
