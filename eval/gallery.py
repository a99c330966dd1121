"""Samples on which a strategy changed the answer, for the better and for the worse, with pictures.

Chosen by a rule and not by taste: strategies, and better and worse, take turns, in the samples'
order.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

from halu.errors import HaluError
from halu.eval.benchmark import Benchmark
from halu.eval.paired import Table
from halu.eval.store import Row

CARDS = 12
"""Cards shown of each split."""

_SIDE = 224

Change = Literal["better", "worse", "same"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an answer; `kind` says whether it names something that is there."""

    text: str
    kind: Literal["plain", "right", "wrong"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What one strategy answered. `change` is against greedy."""

    label: str
    spans: tuple[Span, ...]
    value: float | None
    parsed: str
    change: Change


@dataclass(frozen=True, slots=True)
class Card:
    """One sample with every strategy's answer. `picture` is a data URI; `caption` a long answer."""

    id: str
    picture: str | None
    question: str
    truth: str
    caption: bool
    answers: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many answers a strategy changed."""

    label: str
    better: int
    worse: int


def changes(table: Table) -> list[Tally]:
    """Count what each strategy changed against the first one, greedy."""
    first, *others = table.arms.items()
    found = []
    for label, rows in others:
        kinds = [compare(base, row) for base, row in zip(first[1], rows, strict=True)]
        found.append(Tally(label, kinds.count("better"), kinds.count("worse")))
    return found


def cards(table: Table, suffix: str, data: Path | None, limit: int = CARDS) -> list[Card]:
    """Choose up to `limit` samples and draw their cards; `suffix` is left off the questions."""
    by_id = list(zip(*table.arms.values(), strict=True))
    return [_card(table.benchmark, by_id[place], suffix, data) for place in _chosen(by_id)[:limit]]


def compare(base: Row, row: Row) -> Change:
    """Whether an answer is better than greedy's; an unreadable one is as good as a wrong one."""
    before, after = base.value or 0.0, row.value or 0.0
    return "same" if before == after else "better" if after > before else "worse"


def _chosen(by_id: Sequence[tuple[Row, ...]]) -> list[int]:
    """Places of the samples to show: each strategy's better and worse ones take turns."""
    strategies = len(by_id[0]) if by_id else 0
    queues = [
        [place for place, rows in enumerate(by_id) if compare(rows[0], rows[arm]) == kind]
        for arm in range(1, strategies)
        for kind in ("better", "worse")
    ]
    turns = chain.from_iterable(zip_longest(*queues))
    return list(dict.fromkeys(place for place in turns if place is not None))


def _card(benchmark: Benchmark, rows: Sequence[Row], suffix: str, data: Path | None) -> Card:
    base = rows[0]
    label = base.label if isinstance(base.label, str) else ", ".join(base.label)
    return Card(
        id=base.id,
        picture=_picture(benchmark, base.image_id, data),
        question=base.prompt.removesuffix(suffix),
        truth=label,
        caption=not isinstance(base.label, str),
        answers=tuple(_said(base, row) for row in rows),
    )


def _said(base: Row, row: Row) -> Said:
    parsed = row.parsed if isinstance(row.parsed, str) else ""
    return Said(row.arm, tuple(_spans(row)), row.value, parsed, compare(base, row))


def _spans(row: Row) -> Iterator[Span]:
    place = 0
    for mark in sorted(row.marks, key=lambda mark: mark.start):
        yield Span(row.answer[place : mark.start], "plain")
        kind: Literal["right", "wrong"] = "wrong" if mark.wrong else "right"
        yield Span(row.answer[mark.start : mark.stop], kind, mark.name)
        place = mark.stop
    yield Span(row.answer[place:], "plain")


def _picture(benchmark: Benchmark, image: str | None, data: Path | None) -> str | None:
    """Shrink to a JPEG as a data URI; None where the picture is gone (a moved data folder)."""
    if image is None:
        return None
    try:
        picture = benchmark.picture(image, data)
    except HaluError:
        return None
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
