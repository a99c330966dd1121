"""MME's question and result files, in the layouts in which they are found.

| what | where |
|---|---|
| a line a question | `existence.txt`: picture TAB question TAB answer, a result also TAB response |
| a file a picture | `existence/NAME.txt` beside `existence/NAME.jpg`: question TAB answer |
| the same, apart | `artwork/questions_answers_YN/NAME.txt` and `artwork/images/NAME.jpg` |

Tasks number their own pictures alike ("0001.png"), so that a picture's id begins with its task.
Those of the hallucination subset are named after COCO's: a name that occurs in several of these
tasks is one picture, which is resampled as a whole.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput
from halu.eval.benchmark import Sample
from halu.eval.mme import HALLUCINATION, TASKS
from halu.eval.records import read_text

_DEPTHS = ("", "*/", "*/*/")
_PICTURES = (".jpg", ".png", ".jpeg")


@dataclass(frozen=True, slots=True)
class Line:
    """A question about a picture, its answer, and in a result file the model's response."""

    image: str
    question: str
    answer: str
    response: str | None
    where: str


def task_files(folder: Path) -> dict[str, Path]:
    """Find `TASK.txt` files in a folder or up to two below.

    Raises:
        BadInput: if a task has two.
    """
    found: dict[str, Path] = {}
    for task in TASKS:
        there = [path for depth in _DEPTHS for path in sorted(folder.glob(f"{depth}{task}.txt"))]
        if len(there) > 1:
            raise BadInput(f"Two files are task {task}: {there[0]} and {there[1]}.")
        if there:
            found[task] = there[0]
    return found


def task_folders(folder: Path) -> dict[str, Path]:
    """Find the tasks' folders in a folder or up to two below."""
    found = {}
    for task in TASKS:
        there = [path for depth in _DEPTHS for path in sorted(folder.glob(depth + task))]
        if folders := [path for path in there if path.is_dir()]:
            found[task] = folders[0]
    return found


def read_lines(path: Path, *, results: bool) -> list[Line]:
    """Read a file with a line a question.

    Raises:
        BadInput: naming the line, if it lacks a column or its answer is neither yes nor no.
    """
    columns, found = 4 if results else 3, []
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if text.strip():
            parts = text.rstrip("\r").split("\t", 3)
            where = f"{path}:{number}"
            if len(parts) < columns:
                raise BadInput(f"{where}: {len(parts)} columns, not {columns}, with tabs between.")
            answer = _answer(parts[2], where)
            found.append(Line(parts[0], parts[1], answer, (*parts, None)[3], where))
    return found


def read_questions(folder: Path) -> dict[str, list[Line]]:
    """Read the questions of every task that is there, in MME's order of tasks.

    Raises:
        BadInput: if there are none, or a line is malformed.
    """
    files, folders = task_files(folder), task_folders(folder)
    found = {}
    for task in TASKS:
        if task in files:
            found[task] = read_lines(files[task], results=False)
        elif task in folders and (lines := list(_pictures_of(folders[task]))):
            found[task] = lines
    if not found:
        raise BadInput(
            f"No MME questions in {folder}.",
            hint="Looked for folders or text files of the tasks, such as existence or count.txt.",
            param="data",
        )
    return found


def samples_of(lines: Mapping[str, list[Line]]) -> list[Sample]:
    """Make the samples of every task; the questions about one picture are neighbours.

    Raises:
        BadInput: if a question occurs twice.
    """
    found: dict[str, Sample] = {}
    for task, own in lines.items():
        pictures: dict[str, list[Line]] = {}
        for line in own:
            pictures.setdefault(line.image, []).append(line)
        for image, asked in pictures.items():
            if len({line.question for line in asked}) < len(asked):
                raise BadInput(f"{asked[-1].where}: a question about {image} occurs twice.")
            for number, line in enumerate(asked, 1):
                name = f"{task}/{image}/{number}"
                found[name] = Sample(
                    name,
                    task,
                    f"{task}/{image}",
                    line.question,
                    line.answer,
                    cluster=image if task in HALLUCINATION else None,
                )
    return list(found.values())


def _pictures_of(folder: Path) -> Iterator[Line]:
    apart = folder / "questions_answers_YN"
    pictures = folder / "images" if apart.is_dir() else folder
    for path in sorted((apart if apart.is_dir() else folder).glob("*.txt")):
        names = (f"{path.stem}{ending}" for ending in _PICTURES)
        image = next((name for name in names if (pictures / name).is_file()), f"{path.stem}.jpg")
        for number, text in enumerate(read_text(path).split("\n"), 1):
            if text.strip():
                question, tab, answer = text.rstrip("\r").partition("\t")
                where = f"{path}:{number}"
                if not tab:
                    raise BadInput(f"{where}: no tab between question and answer.")
                yield Line(image, question, _answer(answer, where), None, where)


def _answer(text: str, where: str) -> str:
    answer = text.strip().lower()
    if answer not in ("yes", "no"):
        raise BadInput(f"{where}: answer {text!r} is neither Yes nor No.")
    return answer
