"""All samples of a run for the page's browser: a small index, and the texts in packed chunks.

A sample is one question (and repeat) with every strategy's answer beside the others. The index is
read when the page opens; a chunk only when one of its samples comes into view. Both are JSON,
gzipped, in base64. `report.js` reads what this writes.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halu.eval.benchmark import Mark
from halu.eval.changes import compare
from halu.eval.plan import Manifest
from halu.eval.store import Row
from halu.types import Finding

CHUNK = 256
"""Samples packed together."""

STATES = "abcdefghi"
"""A letter an answer: right, wrong or unreadable, three times: as good as greedy's, better, worse.
No answer is "-"."""


@dataclass(frozen=True, slots=True)
class Group:
    """One model, benchmark and split, and its samples in order: per strategy a row or None."""

    model: str
    benchmark: str
    split: str
    rules: str
    arms: tuple[str, ...]
    samples: tuple[tuple[Row | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """What is embedded in the page."""

    index: str
    chunks: tuple[str, ...]
    samples: int


def grouped(record: Manifest, rows: Sequence[Row]) -> list[Group]:
    """Lay rows side by side. Nothing is left out, whether or not every strategy has answered."""
    found: dict[tuple[str, str, str], dict[tuple[str, int], dict[str, Row]]] = {}
    for row in rows:
        group = found.setdefault((row.model, row.benchmark, row.split), {})
        group.setdefault((row.id, row.repeat), {})[row.arm] = row
    arms = tuple(arm.label for arm in record.strategies)
    rules = {suite.name: suite.rules for suite in record.benchmarks}
    order = [
        (source.label, suite.name, split)
        for source in record.models
        for suite in record.benchmarks
        for split in suite.splits
    ]
    return [
        Group(
            *key,
            rules=rules[key[1]],
            arms=arms,
            samples=tuple(tuple(map(answers.get, arms)) for answers in found[key].values()),
        )
        for key in order
        if key in found
    ]


def packed(
    groups: Sequence[Group], pictures: Mapping[str, int], suffixes: Mapping[str, str]
) -> Packed:
    """Pack everything.

    Args:
        groups: see `grouped`.
        pictures: number on the page of every embedded picture, by digest.
        suffixes: what follows every question of a benchmark, which is left off.
    """
    everything = [
        _sample(sample, pictures, suffixes[group.benchmark])
        for group in groups
        for sample in group.samples
    ]
    chunks = [everything[at : at + CHUNK] for at in range(0, len(everything), CHUNK)]
    index = {"chunk": CHUNK, "groups": [_entry(group) for group in groups]}
    return Packed(_pack(index), tuple(map(_pack, chunks)), len(everything))


def state(base: Row | None, row: Row | None) -> str:
    """Tell an answer's letter of `STATES`. A caption is right if it makes nothing up."""
    if row is None:
        return "-"
    kind = 2 if row.value is None else 0 if row.value == 1 else 1
    change = "same" if base is None else compare(base, row)
    return STATES[3 * ("same", "better", "worse").index(change) + kind]


def _entry(group: Group) -> dict[str, Any]:
    first = [next(row for row in sample if row) for sample in group.samples]
    names = sorted({row.category for row in first if row.category is not None})
    places = {name: place for place, name in enumerate(names)}
    return {
        "model": group.model,
        "benchmark": group.benchmark,
        "split": group.split,
        "rules": group.rules,
        "arms": group.arms,
        "count": len(group.samples),
        "states": "".join(state(sample[0], row) for sample in group.samples for row in sample),
        "categories": names,
        "category": [places.get(row.category or "", -1) for row in first] if names else [],
    }


def _sample(
    sample: Sequence[Row | None], pictures: Mapping[str, int], suffix: str
) -> dict[str, Any]:
    row = next(row for row in sample if row)
    told: dict[str, Any] = {
        "id": row.id,
        "image": row.image_id,
        "question": row.prompt.removesuffix(suffix) if suffix else row.prompt,
        "label": row.label,
        "answers": [None if each is None else _answer(each) for each in sample],
    }
    if row.picture is not None and row.picture in pictures:
        told["picture"] = pictures[row.picture]
    return told | ({"repeat": row.repeat} if row.repeat else {})


def _answer(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {"text": row.answer, "read": row.parsed, "value": row.value}
    if row.marks:
        told["marks"] = list(_marks(row))
    if row.findings:
        told["doubts"] = list(_doubts(row))
    if "found" in row.counts and not isinstance(row.label, str):
        told["missed"] = sorted(set(row.label) - {mark.name for mark in row.marks})
    if row.finish_reason == "length":
        told["cut"] = True
    return told


def _marks(row: Row) -> Iterator[list[object]]:
    """List marks in order, in the UTF-16 units that a browser counts in."""
    for mark in sorted(row.marks, key=lambda mark: mark.start):
        yield [*_place(row, mark), mark.name, int(mark.wrong), mark.word]


def _doubts(row: Row) -> Iterator[list[object]]:
    """List findings in order, likewise."""
    for one in sorted(row.findings, key=lambda one: (one.start, one.stop)):
        yield [*_place(row, one), one.detector, round(one.score, 3), one.reason]


def _place(row: Row, where: Mark | Finding) -> tuple[int, int]:
    return _units(row.answer[: where.start]), _units(row.answer[: where.stop])


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _pack(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(text, mtime=0)).decode()
