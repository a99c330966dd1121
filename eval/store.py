"""The folder of a run: `run.json`, `rows.jsonl` with one line a sample and strategy, and the list
of picture ids of each benchmark, which published runs so often lack.

Nothing in it is ever overwritten by another run. Lines are appended and flushed one by one, so a
killed run keeps all but a torn last line, which a resumed run cuts off.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, NamedTuple

from pydantic import ValidationError

from halu.errors import BadInput
from halu.eval.benchmark import Mark
from halu.eval.durable import cut_torn_line, lock, replace_text
from halu.eval.plan import FORMAT, Manifest, differences
from halu.types import Finding, Record

RUN, ROWS, SUMMARY, PAGE = "run.json", "rows.jsonl", "summary.json", "report.html"
MARKDOWN, CSV = "report.md", "report.csv"
IMAGES, JUDGED = "images", "judge"
_OURS = frozenset({"run.json.partial", ROWS, IMAGES, JUDGED})
"""What a run killed at its start may have left."""


class Row(Record):
    """One answer, scored. `arm` tells apart two uses of one strategy; `params` are all of them.

    `cluster` is what is resampled where that is more than one picture. `repeat` counts answers to
    one question with different seeds. `picture` is the start of SHA-256 over the pixels. `cold`
    marks the first batch of a process, whose time includes starting up; the time of a `cached`
    answer says nothing.
    """

    model: str
    id: str
    benchmark: str
    split: str
    category: str | None = None
    image_id: str | None
    cluster: str | None = None
    picture: str | None = None
    arm: str
    repeat: int = 0
    strategy: str
    params: dict[str, Any]
    prompt: str
    answer: str
    parsed: str | tuple[str, ...]
    label: str | tuple[str, ...]
    value: float | None
    counts: dict[str, int]
    marks: tuple[Mark, ...] = ()
    findings: tuple[Finding, ...] = ()
    tokens: int
    finish_reason: Literal["stop", "length"]
    forwards: int
    seconds: float
    memory_mb: float | None = None
    cold: bool = False
    cached: bool = False

    @property
    def unit(self) -> str:
        """What statistics resample as a whole; an answer without a picture stands alone."""
        return self.cluster or self.image_id or f"no image: {self.id}"


class Key(NamedTuple):
    """What may occur only once in a run."""

    model: str
    benchmark: str
    id: str
    arm: str
    repeat: int


class Store:
    """An open run: knows which rows are `done`, appends more. Creates nothing before the first."""

    def __init__(self, folder: Path, record: Manifest, images: Mapping[str, list[str]]) -> None:
        self.folder = folder
        self.record = record
        self.images = images
        self.done: set[Key] = set()
        self._file: BinaryIO | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        record: Manifest,
        resume: bool,
        images: Mapping[str, list[str]] | None = None,
    ) -> "Store":
        """Check the folder, cut off a torn last line, and read which rows it holds.

        `images` are picture ids by benchmark.

        Raises:
            BadInput: if it holds another run or other files, or the run differs from `record`.
        """
        if not (folder / RUN).exists():
            _refuse_foreign(folder)
            return cls(folder, record, images or {})
        then = read_manifest(folder)
        if not resume:
            raise BadInput(
                f"{folder} already holds a run (of {then.models[0].label!r}).",
                hint="Use --resume to continue it, or name another folder.",
                param="out",
            )
        if changed := differences(then, record):
            raise BadInput(
                f"The run in {folder} cannot be continued: {'; '.join(changed)}.",
                hint="Start in another folder.",
                param="out",
            )
        store = cls(folder, record, images or {})
        store._start(begun=True)
        try:
            store.done = _done(folder / ROWS)
        except BadInput:
            store.close()
            raise
        return store

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows, one flushed line each."""
        file = self._file or self._start()
        for row in rows:
            file.write(row.model_dump_json().encode() + b"\n")
            file.flush()
            self.done.add(key_of(row))

    def _start(self, begun: bool = False) -> BinaryIO:
        """Lock the folder, then write the record, unless the run has `begun` before.

        Raises:
            BadInput: if another process is writing, or began a run here since the folder was seen.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / ROWS).open("ab")
        lock(self._file, self.folder)
        if not begun:
            if (self.folder / RUN).exists():
                self.close()
                raise BadInput(f"Another run has begun in {self.folder}.", param="out")
            self._list_images()
            replace_text(self.folder / RUN, self.record.model_dump_json(indent=1) + "\n")
        cut_torn_line(self.folder / ROWS)
        return self._file

    def _list_images(self) -> None:
        for name, ids in self.images.items():
            path = self.folder / IMAGES / f"{name}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(f"{one}\n" for one in ids), "utf-8")

    def close(self) -> None:
        """Let another process continue the run."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def read_manifest(folder: Path) -> Manifest:
    """Read `run.json`.

    Raises:
        BadInput: if there is none, it is damaged, or a newer halu wrote it.
    """
    try:
        found = json.loads((folder / RUN).read_text("utf-8"))
        _check_format(folder, found)
        return Manifest.model_validate(found)
    except FileNotFoundError as error:
        raise BadInput(f"{folder} holds no run: there is no {RUN}.", param="out") from error
    except (OSError, ValidationError, ValueError) as error:
        raise BadInput(f"{folder / RUN} is damaged.", param="out") from error


def read_rows(folder: Path) -> list[Row]:
    """Read every complete row; a torn last line is left alone.

    Raises:
        BadInput: naming the line, if one is malformed or repeats a row.
    """
    rows: list[Row] = []
    seen: set[Key] = set()
    for number, line in _lines(folder / ROWS):
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            raise BadInput(f"{folder / ROWS}:{number}: not a row of a run.") from error
        key = key_of(row)
        if key in seen:
            raise BadInput(f"{folder / ROWS}:{number}: {row.arm} answered {row.id} before.")
        seen.add(key)
        rows.append(row)
    return rows


def key_of(row: Row) -> Key:
    """Tell which of a run's answers a row is."""
    return Key(row.model, row.benchmark, row.id, row.arm, row.repeat)


def _check_format(folder: Path, found: object) -> None:
    """Raise BadInput for the record of another format; anything else is pydantic's to judge."""
    number = found.get("format") if isinstance(found, dict) else None
    if isinstance(number, int) and number > FORMAT:
        raise BadInput(f"{folder} was written by a newer halu.", hint="Update halu to read it.")
    if isinstance(number, int) and number < FORMAT:
        raise BadInput(f"{folder} was written by an older halu.", hint="Run it anew.")


def _lines(path: Path) -> list[tuple[int, bytes]]:
    if not path.exists():
        return []
    return list(enumerate(path.read_bytes().split(b"\n")[:-1], 1))


def _done(path: Path) -> set[Key]:
    done: set[Key] = set()
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            done.add(Key(*(row[name] for name in Key._fields)))
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}:{number}: not a row of a run.") from error
    return done


def _refuse_foreign(folder: Path) -> None:
    """Raise BadInput unless the folder is new, empty, or was left by a run killed at its start."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is not a folder.", param="out")
    others = (
        sorted(p.name for p in folder.iterdir() if p.name not in _OURS) if folder.exists() else []
    )
    if others:
        raise BadInput(
            f"{folder} holds other files, such as {others[0]}.",
            hint="Name a new or an empty folder.",
            param="out",
        )
