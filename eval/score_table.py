"""The figures of an answer file as tables for a terminal: a row for each split and rule."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from halu.eval import words
from halu.eval.fitting import fitting
from halu.eval.scored import Figures, Scored

ALL = "all"


@dataclass(frozen=True, slots=True)
class _Row:
    split: str
    rule: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[Figures], str]


def tables(scored: Scored, width: int | None) -> list[Table]:
    """Lay the figures out in tables of at most `width` columns; None is as wide as need be.

    Several splits are followed by all answers together. Metrics that are undefined everywhere,
    such as those by RePOPE's labels without its files, are left out.
    """
    rows = _rows(scored)

    def build(columns: Sequence[_Column]) -> Table:
        return _table(rows, columns)

    return fitting(_columns(scored, rows), build, width)


def _rows(scored: Scored) -> list[_Row]:
    parts = dict(scored.splits)
    if len(parts) > 1:
        parts[ALL] = scored.rules
    return [
        _Row(split, rule, figures)
        for split, rules in parts.items()
        for rule, figures in rules.items()
    ]


def _columns(scored: Scored, rows: Sequence[_Row]) -> list[_Column]:
    names = dict.fromkeys(
        name for row in rows for name, value in row.figures.metrics.items() if not math.isnan(value)
    )
    number = _Column("n", lambda figures: str(figures.n))
    return [number, *(_metric(scored, name) for name in names)]


def _metric(scored: Scored, name: str) -> _Column:
    metric = scored.metrics[name.rpartition("/")[2]]

    def cell(figures: Figures) -> str:
        if name not in figures.metrics:
            return ""
        value = figures.metrics[name]
        return words.figure(None if math.isnan(value) else value, metric)

    return _Column(f"{name}{words.ARROWS[metric.better]}", cell)


def _table(rows: Sequence[_Row], columns: Sequence[_Column]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("split", "rule"):
        table.add_column(heading, no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.split, row.rule, *(column.cell(row.figures) for column in columns))
    return table
