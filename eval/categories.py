"""Figures by what is asked about or named: every object's own share of right answers or of wrong
mentions.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from halu.eval.paired import Table
from halu.eval.store import Row

SHOWN = 40
"""Categories on the page: the most frequent."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A strategy's share in one category, of `n` answers or mentions; None of none."""

    share: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Category:
    """One line of the table, a cell for each strategy."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Categories:
    """Figures by category. `captions`: shares are of wrong mentions, and less is better."""

    captions: bool
    labels: tuple[str, ...]
    rows: tuple[Category, ...]
    total: int


def categories(tables: Sequence[Table], shown: int = SHOWN) -> Categories | None:
    """Count over all splits of one benchmark and model; None where nothing has a category.

    An answer is right if its value is 1; one that nobody can read is not.
    """
    labels = tuple(dict.fromkeys(label for table in tables for label in table.arms))
    answers = {
        label: [row for table in tables for row in table.arms.get(label, ())] for label in labels
    }
    captions = any(row.marks for rows in answers.values() for row in rows)
    count = _mentions if captions else _answers
    counted = {label: count(rows) for label, rows in answers.items()}
    often = Counter[str]()
    for each in counted.values():
        often.update({name: n for name, (_, n) in each.items()})
    if not often:
        return None
    names = [name for name, _ in often.most_common(shown)]
    lines = [
        Category(name, tuple(_cell(counted[label], name) for label in labels)) for name in names
    ]
    return Categories(captions, labels, tuple(lines), len(often))


def _answers(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """(right, asked) by category."""
    asked = Counter(row.category for row in rows if row.category is not None)
    right = Counter(row.category for row in rows if row.value == 1)
    return {name: (right[name], n) for name, n in asked.items()}


def _mentions(rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """(wrong, named) by object."""
    named = Counter(mark.name for row in rows for mark in row.marks)
    wrong = Counter(mark.name for row in rows for mark in row.marks if mark.wrong)
    return {name: (wrong[name], n) for name, n in named.items()}


def _cell(counted: Mapping[str, tuple[int, int]], name: str) -> Cell:
    part, n = counted.get(name, (0, 0))
    return Cell(part / n if n else None, n)
