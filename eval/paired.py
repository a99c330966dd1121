"""The rows of a run, side by side: within a benchmark and split, every strategy on the same
samples.

Only samples that every strategy has answered are kept, so that all figures of a table are
comparable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halu.errors import BadInput
from halu.eval.benchmark import Benchmark, benchmarks
from halu.eval.plan import Manifest
from halu.eval.store import Row


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one benchmark and split: per strategy, in the order of `ids`."""

    benchmark: Benchmark
    split: str
    ids: tuple[str, ...]
    arms: Mapping[str, tuple[Row, ...]]

    def counts(self) -> NDArray[np.float64]:
        """Add up counts by image: [strategies, images, k]."""
        return np.array([tallies(self.benchmark, rows) for rows in self.arms.values()])


def group(record: Manifest, rows: Sequence[Row]) -> list[Table]:
    """Sort rows into tables, benchmarks, splits and strategies in the run's order.

    Raises:
        BadInput: if two strategies were asked different questions under one id.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        found.setdefault((row.benchmark, row.split), {}).setdefault(row.arm, {})[row.id] = row
    tables = []
    for suite in record.benchmarks:
        for split in suite.splits:
            arms = found.get((suite.name, split), {})
            ordered = [arms[a.label] for a in record.strategies if a.label in arms]
            if ordered:
                ids = tuple(i for i in ordered[0] if all(i in answers for answers in ordered))
                tables.append(_table(benchmarks.get(suite.name), split, ids, ordered))
    return [table for table in tables if table.ids]


def _table(
    benchmark: Benchmark, split: str, ids: tuple[str, ...], arms: list[dict[str, Row]]
) -> Table:
    for number in ids:
        if len({(answers[number].prompt, answers[number].image_id) for answers in arms}) > 1:
            raise BadInput(f"Not every strategy was asked the same as {benchmark.name} {number}.")
    rows = [tuple(answers[number] for number in ids) for answers in arms]
    return Table(benchmark, split, ids, {answers[0].arm: answers for answers in rows if answers})


def tallies(benchmark: Benchmark, rows: Sequence[Row]) -> list[list[float]]:
    """List the counts of each image in turn; an answer without an image stands alone."""
    images: dict[str, list[Mapping[str, int]]] = {}
    for row in rows:
        images.setdefault(row.image_id or f"no image: {row.id}", []).append(row.counts)
    return [benchmark.tally(counts) for counts in images.values()]
