"""What an MME folder holds: which of the fourteen tasks, questions as published, pictures."""

from pathlib import Path

from halu.eval import folder as files
from halu.eval.data_check import Finding, checks, digest, pictures, published
from halu.eval.mme import TASKS
from halu.eval.mme_files import places
from halu.eval.mme_questions import Line, read_questions, task_files, task_folders

_GET = (
    "Questions are in BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation,"
    " tools/eval_tool.zip; the authors give out the pictures there on request."
)


@checks.register("mme")
def check(folder: Path) -> list[Finding]:
    """Check every task: there, as published, with its pictures."""
    if not task_files(folder) and not task_folders(folder):
        return [Finding("missing", "MME's tasks, as folders or text files", _GET)]
    lines = read_questions(folder)
    told = []
    for task in TASKS:
        if task not in lines:
            told.append(Finding("missing", f"task {task}", _GET))
            continue
        told.append(_questions(task, lines[task]))
        names = dict.fromkeys(line.image for line in lines[task])
        found = [files.find_picture(folder, name, places(folder, task)) for name in names]
        told += pictures(found, task, _GET)
    return told


def content(lines: list[Line]) -> str:
    """Compute a digest of a task's questions that does not depend on their order or layout."""
    return digest(
        sorted((Path(line.image).stem, line.question.strip(), line.answer) for line in lines)
    )


def _questions(task: str, lines: list[Line]) -> Finding:
    what = f"task {task}: {len(lines)} questions"
    if content(lines) == published()["mme"][task]:
        return Finding("fine", f"{what}, as published")
    return Finding("wrong", f"{what}, not as published", f"The checksum differs. {_GET}")
