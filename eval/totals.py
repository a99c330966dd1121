"""Published figures over several splits, such as POPE's mean F1 and MME's perception, with
intervals.

The splits of a benchmark often ask about the same pictures, so their counts are resampled together,
picture by picture.
"""

from collections.abc import Sequence

import numpy as np

from halu.eval.against import Delta, ends, judged, number, single
from halu.eval.benchmark import Metric, Total, totals_of
from halu.eval.paired import Table
from halu.eval.statistics import Array, resample
from halu.types import Record


class TotalResult(Record):
    """One published total of one strategy; `metric` is what it sums up."""

    model: str
    benchmark: str
    label: str
    name: str
    metric: str
    value: float | None
    ci: tuple[float, float] | None
    vs_greedy: Delta | None


def totals(tables: Sequence[Table], counts: Sequence[Array], seed: int = 0) -> list[TotalResult]:
    """Compute the totals of every model and benchmark; `counts` are the tables' own."""
    found = []
    for model, name in dict.fromkeys((table.model, table.benchmark.name) for table in tables):
        own = [
            (table, each)
            for table, each in zip(tables, counts, strict=True)
            if (table.model, table.benchmark.name) == (model, name)
        ]
        known = totals_of(own[0][0].benchmark)
        if known and len({tuple(table.arms) for table, _ in own}) == 1:
            found += _of_benchmark(known, [t for t, _ in own], [each for _, each in own], seed)
    return found


def figure(total: Total, metrics: Sequence[Metric]) -> Metric:
    """Describe a total as a metric: it reads like the metric that it sums up."""
    base = next(metric for metric in metrics if metric.name == total.metric)
    return Metric(total.name, base.better, total.meaning, base.unit)


def _of_benchmark(
    known: Sequence[Total], tables: Sequence[Table], counts: Sequence[Array], seed: int
) -> list[TotalResult]:
    first = tables[0]
    joint = _joint(tables, counts)
    values = _by_split(tables, joint.sum(axis=1))
    spread = _by_split(tables, resample(joint, seed=seed))
    found = []
    for total in known:
        metric = figure(total, first.benchmark.metrics)
        around = total.of(spread)
        for name, value in total.of(values).items():
            found += _of_arms(
                first, name, total.metric, metric, value, around[name], joint.shape[1]
            )
    return found


def _of_arms(
    table: Table, name: str, of: str, metric: Metric, value: Array, around: Array, images: int
) -> list[TotalResult]:
    labels = list(table.arms)
    compared: dict[str, Delta] = {}
    if labels[0] == table.baseline:
        singles = [single(value[[0, i]], around[[0, i]], images) for i in range(1, len(labels))]
        compared = dict(zip(labels[1:], judged(metric, singles), strict=True))
    return [
        TotalResult(
            model=table.model,
            benchmark=table.benchmark.name,
            label=label,
            name=name,
            metric=of,
            value=number(value[place]),
            ci=ends(around[place], images),
            vs_greedy=compared.get(label),
        )
        for place, label in enumerate(labels)
    ]


def _joint(tables: Sequence[Table], counts: Sequence[Array]) -> Array:
    """Lay the splits' counts side by side: [strategies, pictures of any split, splits, k]."""
    units = [list(dict.fromkeys(r.unit for r in next(iter(t.arms.values())))) for t in tables]
    places = {unit: n for n, unit in enumerate(dict.fromkeys(u for own in units for u in own))}
    strategies, _, width = counts[0].shape
    joint = np.zeros((strategies, len(places), len(tables), width))
    for split, (own, each) in enumerate(zip(units, counts, strict=True)):
        joint[:, [places[unit] for unit in own], split] = each
    return joint.reshape(strategies, len(places), -1)


def _by_split(tables: Sequence[Table], joint: Array) -> dict[str, dict[str, Array]]:
    """Compute every split's metrics from counts that lie side by side on the last axis."""
    parts = np.split(joint, len(tables), axis=-1)
    return {
        table.split: table.benchmark.rates(part) for table, part in zip(tables, parts, strict=True)
    }
