"""The rows of a run, side by side: within a model, benchmark and split, every strategy on the same
samples.

Only samples that every strategy has answered are kept, so that all figures of a table are
comparable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halu.errors import BadInput
from halu.eval.benchmark import Benchmark, benchmarks, rules_of, under
from halu.eval.plan import Manifest, Suite
from halu.eval.store import Row


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one model, benchmark and split: per strategy, in the order of `ids`, and of an
    id's repeats.
    """

    model: str
    benchmark: Benchmark
    split: str
    baseline: str
    ids: tuple[str, ...]
    arms: Mapping[str, tuple[Row, ...]]

    def counts(self) -> NDArray[np.float64]:
        """Add up counts by image: [strategies, images, k]."""
        return np.array([tallies(self.benchmark, rows) for rows in self.arms.values()])


Place = tuple[str, int]
"""A sample's id and which of its repeats."""


def group(record: Manifest, rows: Sequence[Row]) -> list[Table]:
    """Sort rows into tables: models, benchmarks, splits and strategies in the run's order.

    Raises:
        BadInput: if two strategies were asked different questions under one id.
    """
    found: dict[tuple[str, str, str], dict[str, dict[Place, Row]]] = {}
    for row in rows:
        arms = found.setdefault((row.model, row.benchmark, row.split), {})
        arms.setdefault(row.arm, {})[row.id, row.repeat] = row
    tables = []
    for source in record.models:
        for suite in record.benchmarks:
            for split in suite.splits:
                arms = found.get((source.label, suite.name, split), {})
                ordered = [arms[a.label] for a in record.strategies if a.label in arms]
                if ordered:
                    benchmark = as_read(suite)
                    tables.append(_table(source.label, benchmark, split, record.baseline, ordered))
    return [table for table in tables if table.ids]


def as_read(suite: Suite) -> Benchmark:
    """The benchmark by the rule that a run used; a judge's name in it says nothing here."""
    benchmark = benchmarks.get(suite.name)
    known = suite.rules in rules_of(benchmark)
    return under(benchmark, suite.rules) if known else benchmark


def _table(
    model: str,
    benchmark: Benchmark,
    split: str,
    baseline: str,
    arms: list[dict[Place, Row]],
) -> Table:
    """Keep the answers that every strategy has."""
    places = [place for place in arms[0] if all(place in answers for answers in arms)]
    for place in places:
        asked = {(a[place].prompt, a[place].image_id, a[place].picture) for a in arms}
        if len(asked) > 1:
            raise BadInput(f"Not every strategy was asked the same as {benchmark.name} {place[0]}.")
    ids = tuple(dict.fromkeys(number for number, _ in places))
    rows = [tuple(answers[place] for place in places) for answers in arms]
    kept = {answers[0].arm: answers for answers in rows if answers}
    return Table(model, benchmark, split, baseline, ids, kept)


def tallies(benchmark: Benchmark, rows: Sequence[Row]) -> list[list[float]]:
    """List the counts of each image in turn, its repeats added up; an answer without an image
    stands alone.
    """
    images: dict[str, dict[int, list[Mapping[str, int]]]] = {}
    for row in rows:
        repeats = images.setdefault(row.unit, {})
        repeats.setdefault(row.repeat, []).append(row.counts)
    return [
        [sum(column) for column in zip(*map(benchmark.tally, repeats.values()), strict=True)]
        for repeats in images.values()
    ]


def by_repeat(benchmark: Benchmark, rows: Sequence[Row]) -> NDArray[np.float64]:
    """Add up counts of whole repeats: [repeats, k]. A repeat that lacks answers is left out."""
    repeats: dict[int, list[Row]] = {}
    for row in rows:
        repeats.setdefault(row.repeat, []).append(row)
    whole = max(map(len, repeats.values()))
    return np.array(
        [
            np.sum(tallies(benchmark, some), axis=0)
            for some in repeats.values()
            if len(some) == whole
        ]
    )
