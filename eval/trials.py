"""The folder of a search: what is searched (`tuning.json`) and the points that were tried
(`trials.jsonl`), so that a stopped search goes on.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pydantic import Field, ValidationError

from halu.errors import BadInput
from halu.eval.durable import cut_torn_line, lock, replace_text
from halu.types import Record

TRIALS, TUNING = "trials.jsonl", "tuning.json"


class Trial(Record):
    """A point of the search and the metric there; None where it is undefined."""

    params: dict[str, Any]
    value: float | None


class Tuning(Record):
    """`tuning.json`: what was searched, how, and what was chosen."""

    strategy: str
    model: str
    benchmark: str
    metric: str
    better: str
    ranges: dict[str, str]
    fixed: dict[str, Any]
    samples: int = Field(description="Questions on which every point was measured.")
    seed: int
    trials: tuple[Trial, ...] = ()
    chosen: dict[str, Any] = Field(default_factory=dict)


@dataclass(slots=True)
class Trials:
    """An open folder, which no other process writes to.

    Attributes:
        folder: where it is.
        lines: the open file of trials.
        done: trials that are there.
    """

    folder: Path
    lines: TextIO
    done: list[Trial] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        """Keep one more."""
        self.lines.write(trial.model_dump_json() + "\n")
        self.lines.flush()
        self.done.append(trial)

    def end(self, record: Tuning) -> None:
        """Keep what was chosen."""
        replace_text(self.folder / TUNING, _text(record))


@contextmanager
def opened_trials(folder: Path, record: Tuning, resume: bool) -> Iterator[Trials]:
    """Open a new folder, or with `resume` one that holds the same search.

    Raises:
        BadInput: if it holds something else, is damaged, or another process writes to it.
    """
    _check(folder, record, resume)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TRIALS).open("a", encoding="utf-8") as lines:
        lock(lines, folder)
        if not (folder / TUNING).exists():
            replace_text(folder / TUNING, _text(record))
        yield Trials(folder, lines, _read(folder / TRIALS))


def _check(folder: Path, record: Tuning, resume: bool) -> None:
    if (folder / TUNING).exists() and resume:
        try:
            then = Tuning.model_validate_json((folder / TUNING).read_text("utf-8"))
        except ValidationError:
            raise BadInput(f"{folder / TUNING} is not a record of a search.", param="out") from None
        if then.model_copy(update={"trials": (), "chosen": {}}) != record:
            raise BadInput(f"{folder} holds another search.", param="out")
    elif folder.exists() and any(map(_matters, folder.iterdir())):
        raise BadInput(
            f"{folder} is not empty.",
            hint="Use --resume to continue a search, or name another folder.",
            param="out",
        )


def _matters(file: Path) -> bool:
    """Whether it is more than what a search that was killed at its start leaves."""
    return file.name != TRIALS or file.stat().st_size > 0


def _text(record: Tuning) -> str:
    return record.model_dump_json(indent=1) + "\n"


def _read(file: Path) -> list[Trial]:
    """Whole lines; a torn last one is cut off."""
    cut_torn_line(file)
    lines = file.read_text("utf-8").split("\n")[:-1]
    try:
        return [Trial.model_validate(json.loads(line)) for line in lines]
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {type(error).__name__}.", param="out") from None
