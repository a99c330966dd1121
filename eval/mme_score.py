"""MME results of other projects: the official folder of task files, or LLaVA's answer file.

Result files carry question and answer, so nothing else is needed; with MME's own questions a
missing answer is noticed. An answer file of JSON lines (`question_id` "color/000000338560.jpg") is
joined on task, picture and question, whatever the prompt ended in: LLaVA replaces "Please answer
yes or no.", before which some questions have two blanks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput
from halu.eval.answers import Reply, read_replies, refuse_gaps
from halu.eval.benchmark import Sample
from halu.eval.mme import TASKS
from halu.eval.mme_files import MmeFiles
from halu.eval.mme_questions import Line, read_lines, read_questions, samples_of, task_files
from halu.eval.score import Column, Given, Reading, scorers

Key = tuple[str, str, str]
"""Task, file name of the picture, question without its request for a short answer."""

_NEEDS = "nothing for a folder of result files; --questions with MME's folder for an answer file"
_REQUEST = re.compile(r"please answer yes or no\.?|answer the question using .*", re.I | re.S)
_PICTURES = {"existence": 30, "count": 30, "position": 30, "color": 30, "posters": 147}
_PICTURES |= {"celebrity": 170, "scene": 200, "landmark": 200, "artwork": 200, "OCR": 20}
_PICTURES |= {"commonsense_reasoning": 70, "numerical_calculation": 20}
_PICTURES |= {"text_translation": 20, "code_reasoning": 20}


@dataclass(frozen=True, slots=True)
class MmeScorer:
    """Scores MME answers by the official rule."""

    rules: tuple[str, ...] = ("mme",)
    needs: str = _NEEDS

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read responses, and the questions from where they are told."""
        results = _results(given.answers)
        asked = None if given.questions is None else _questions(given.questions)
        if asked is None:
            if results is None:
                raise BadInput("An MME answer file needs its questions.", hint=f"Give {_NEEDS}.")
            asked = results
        samples = samples_of(asked)
        said = _replied(given.answers) if results is None else _responses(results)
        if foreign := said.keys() - {_key(sample) for sample in samples}:
            task, image, question = min(foreign)
            raise BadInput(f"MME has no question {question!r} about {image} in the task {task}.")
        answers = [(s, said[_key(s)]) for s in samples if _key(s) in said]
        refuse_gaps([s.id for s in samples if _key(s) not in said], len(samples), given.partial)
        _refuse_singles(samples, given.partial)
        return Reading({rule: Column(MmeFiles(), answers) for rule in rules}, _warnings(samples))


def _results(path: Path) -> dict[str, list[Line]] | None:
    """Read a folder of result files, or a single one; None if it is another kind of file."""
    if not path.is_dir():
        single = path.stem in TASKS and path.suffix == ".txt"
        return {path.stem: read_lines(path, results=True)} if single else None
    files = task_files(path)
    if not files:
        raise BadInput(
            f"No MME results in {path}.",
            hint="Looked for text files of the tasks, such as existence.txt.",
            param="answers",
        )
    return {task: read_lines(path, results=True) for task, path in files.items()}


def _questions(path: Path) -> dict[str, list[Line]]:
    if path.is_dir():
        return read_questions(path)
    if path.stem not in TASKS:
        raise BadInput(f"{path} is not the text file of an MME task.", param="--questions")
    return {path.stem: read_lines(path, results=False)}


def _responses(results: Mapping[str, list[Line]]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for task, lines in results.items():
        for line in lines:
            _put(found, (task, line.image, _bare(line.question)), line.response or "", line.where)
    return found


def _replied(path: Path) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for reply in read_replies(path):
        _put(found, _key_of(reply), reply.text, reply.where)
    return found


def _key_of(reply: Reply) -> Key:
    task, slash, image = (reply.id or reply.image or "").rpartition("/")
    task = task.rpartition("/")[2] if slash else reply.split or ""
    if task not in TASKS or not image or reply.prompt is None:
        raise BadInput(
            f"{reply.where}: the line does not tell task, picture and question.",
            hint="LLaVA's form has question_id 'TASK/PICTURE' and prompt.",
        )
    return task, image, _bare(reply.prompt)


def _put(found: dict[Key, str], key: Key, text: str, where: str) -> None:
    if key in found:
        raise BadInput(f"{where}: the question about {key[1]} in {key[0]} has an answer already.")
    found[key] = text


def _key(sample: Sample) -> Key:
    task, _, image = (sample.image or "").partition("/")
    return task, image, _bare(sample.prompt)


def _bare(question: str) -> str:
    return " ".join(_REQUEST.sub("", question).split()).lower()


def _refuse_singles(samples: Sequence[Sample], partial: bool) -> None:
    """acc+ needs both questions of a picture."""
    asked: dict[str, int] = {}
    for sample in samples:
        asked[sample.image or ""] = asked.get(sample.image or "", 0) + 1
    refuse_gaps(
        [f"the second of {image}" for image, n in asked.items() if n < 2], len(asked), partial
    )


def _warnings(samples: Sequence[Sample]) -> tuple[str, ...]:
    found = []
    for task, full in _PICTURES.items():
        pictures = {sample.image for sample in samples if sample.split == task}
        if pictures and len(pictures) != full:
            found.append(f"The task {task} has {len(pictures)} pictures; MME's has {full}.")
    return tuple(found)


scorers.register("mme", aliases=("mme-scenes",))(MmeScorer())
