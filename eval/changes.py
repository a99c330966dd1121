"""Which answers a strategy changed against greedy's, for the better and for the worse."""

from dataclasses import dataclass
from typing import Literal

from halu.eval.paired import Table
from halu.eval.store import Row

Change = Literal["better", "worse", "same"]


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


def compare(base: Row, row: Row) -> Change:
    """Whether an answer is better than greedy's; an unreadable one is as good as a wrong one."""
    before, after = base.value or 0.0, row.value or 0.0
    return "same" if before == after else "better" if after > before else "worse"
