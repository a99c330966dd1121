"""Rows of halu's own runs as an answer file: one benchmark, model, strategy and repeat of them all.

A row carries its question and its label, so that answers can be read again by another rule than the
one that the run was scored by, without the files that it was made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halu.errors import BadInput, Unknown
from halu.eval.records import Entry

_MARKS = ("benchmark", "arm", "repeat", "answer")
_KEPT = ("answer", "image_id", "prompt", "split")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which rows are meant. Without a name there must be one model or strategy alone.

    `strategy` is an arm's label as reports print it, such as "vcd" or "vcd(alpha=0.5)".
    """

    benchmark: str
    model: str | None = None
    strategy: str | None = None
    repeat: int = 0


def are_rows(entries: Sequence[Entry]) -> bool:
    """Tell a run's rows from answers of other projects, by their fields."""
    return bool(entries) and all(mark in entries[0].fields for mark in _MARKS)


def selected(entries: Sequence[Entry], chosen: Chosen) -> list[Entry]:
    """Pick the rows that are meant, with the fields that answer files have.

    Raises:
        Unknown: for a benchmark, model or strategy of which there are no rows.
        BadInput: if it is not told which of several is meant.
    """
    rows = _only(entries, "benchmark", chosen.benchmark, "benchmark")
    rows = _only(rows, "model", chosen.model, "--model")
    rows = _only(rows, "arm", chosen.strategy, "--strategy")
    rows = _only(rows, "repeat", str(chosen.repeat), "--repeat")
    return [_answer(row) for row in rows]


def _only(rows: Sequence[Entry], field: str, wanted: str | None, param: str) -> list[Entry]:
    """Keep the rows with this value of a field."""
    known = list(dict.fromkeys(row.text(field) for row in rows))
    what = param.removeprefix("--")
    if wanted is None and len(known) > 1:
        raise BadInput(
            f"The rows are of {len(known)} {field}s.".replace("arm", what),
            hint=f"Name one with {param}: {', '.join(known)}.",
            param=param,
        )
    if wanted is not None and wanted not in known:
        raise Unknown(f"{what} of these rows", wanted, known, param=param)
    return [row for row in rows if wanted in (None, row.text(field))]


def _answer(row: Entry) -> Entry:
    fields = {key: row.fields[key] for key in _KEPT if row.fields.get(key) is not None}
    label = row.fields.get("label")
    labelled = {"label": label} if isinstance(label, str) else {}
    return Entry({**fields, **labelled, "id": row.text("id").rpartition("/")[2]}, row.where)
