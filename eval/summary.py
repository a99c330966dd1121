"""From rows to figures: metrics with intervals, each strategy against greedy, and what it cost.

Everything is computed again from the counts in the rows. Within a benchmark and split all
strategies are compared on the same samples: those that every one of them has answered.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from halu.eval.against import Delta, ends, judged, number, single
from halu.eval.benchmark import Metric
from halu.eval.cost import Cost, cost, front
from halu.eval.equal_length import EqualLength, equal_length
from halu.eval.notes import notes
from halu.eval.paired import Table, by_repeat, group
from halu.eval.plan import Manifest
from halu.eval.statistics import Array, resample
from halu.eval.store import Row
from halu.eval.totals import TotalResult, totals
from halu.types import Record


class Figure(Record):
    """A metric's value and 95 % interval; None where undefined.

    `seed_sd` is its standard deviation over repeats with other seeds. The interval is about which
    pictures were asked about, the deviation about luck in decoding: neither contains the other.
    """

    value: float | None
    ci: tuple[float, float] | None
    seed_sd: float | None = None


class Result(Record):
    """One strategy on one split of one benchmark with one model.

    `label` tells apart two uses of a strategy. `pareto` says that no strategy of the table is both
    cheaper and as good, or as cheap and better, in `quality`; None where no time was taken.
    """

    model: str
    benchmark: str
    split: str
    strategy: str
    label: str
    params: dict[str, Any]
    n: int
    images: int
    unreadable: int
    metrics: dict[str, Figure]
    vs_greedy: dict[str, Delta]
    cost: Cost
    pareto: bool | None = None
    at_equal_length: EqualLength | None = None


class Summary(Record):
    """`summary.json`. `findings` counts what each detector found in all answers."""

    run: dict[str, Any]
    notes: tuple[str, ...]
    results: tuple[Result, ...]
    totals: tuple[TotalResult, ...] = ()
    findings: dict[str, int] = {}


def summarise(
    record: Manifest, rows: Sequence[Row], tables: Sequence[Table] | None = None, seed: int = 0
) -> Summary:
    """Compute every figure of a run. The same rows give the same summary.

    Args:
        record: the run.
        rows: its answers.
        tables: the rows as `group` sorts them, if the caller has them.
        seed: of the resamples.
    """
    tables = group(record, rows) if tables is None else tables
    counts = [table.counts() for table in tables]
    results = [
        result
        for table, each in zip(tables, counts, strict=True)
        for result in _results(table, each, seed)
    ]
    answers = len(record.models) * len(record.strategies) * record.repeats
    wanted = sum(suite.samples for suite in record.benchmarks) * answers
    told = list(notes(tables))
    if len(rows) < wanted:
        told.insert(0, f"Unfinished: {len(rows)} of {wanted} answers are there.")
    run = record.model_dump(mode="json") | {
        "model": ", ".join(source.label for source in record.models),
        "answers": len(rows),
        "complete": len(rows) == wanted,
    }
    return Summary(
        run=run,
        notes=tuple(told),
        results=tuple(results),
        totals=tuple(totals(tables, counts, seed)),
        findings=_findings(record, rows),
    )


def defined(results: Sequence[Result], metrics: Sequence[Metric]) -> list[Metric]:
    """List the metrics that some strategy has a value of; a split may ask for none of its kind."""
    return [m for m in metrics if any(r.metrics[m.name].value is not None for r in results)]


def quality(results: Sequence[Result], metrics: Sequence[Metric]) -> Metric:
    """Choose the metric that stands for quality: the first that can be better and is defined."""
    known = [m for m in defined(results, metrics) if m.better != "neither"]
    return known[0] if known else metrics[0]


def _findings(record: Manifest, rows: Sequence[Row]) -> dict[str, int]:
    """By detector: those of the run, also where they found nothing, then what strategies tell."""
    told = Counter(one.detector for row in rows for one in row.findings)
    return {name: told[name] for name in [*record.detectors, *sorted(told)]}


def _results(table: Table, counts: Array, seed: int) -> list[Result]:
    values = table.benchmark.rates(counts.sum(axis=1))
    spread = table.benchmark.rates(resample(counts, seed=seed))
    compared = {
        metric.name: _against_greedy(
            table, counts, metric, values[metric.name], spread[metric.name]
        )
        for metric in table.benchmark.metrics
    }
    alike = equal_length(table, seed) if table.baseline in table.arms else {}
    greedy = table.arms.get(table.baseline, ())
    found = [
        Result(
            model=table.model,
            benchmark=table.benchmark.name,
            split=table.split,
            strategy=rows[0].strategy,
            label=label,
            params=rows[0].params,
            n=len(table.ids),
            images=counts.shape[1],
            unreadable=sum(row.value is None for row in rows),
            metrics=_figures(table, rows, place, counts.shape[1], values, spread),
            vs_greedy={name: deltas[label] for name, deltas in compared.items() if label in deltas},
            cost=cost(rows, greedy),
            at_equal_length=alike.get(label),
        )
        for place, (label, rows) in enumerate(table.arms.items())
    ]
    return _with_front(found, quality(found, table.benchmark.metrics))


def _figures(
    table: Table,
    rows: Sequence[Row],
    place: int,
    images: int,
    values: dict[str, Array],
    spread: dict[str, Array],
) -> dict[str, Figure]:
    repeats = by_repeat(table.benchmark, rows)
    each = table.benchmark.rates(repeats) if len(repeats) > 1 else {}
    return {
        m.name: Figure(
            value=number(values[m.name][place]),
            ci=ends(spread[m.name][place], images),
            seed_sd=number(float(np.std(each[m.name], ddof=1))) if each else None,
        )
        for m in table.benchmark.metrics
    }


def _against_greedy(
    table: Table, counts: Array, metric: Metric, values: Array, spread: Array
) -> dict[str, Delta]:
    """Every strategy but greedy, with p values adjusted for how many there are."""
    labels = list(table.arms)
    if labels[0] != table.baseline:
        return {}
    others = range(1, len(labels))
    hits = [table.benchmark.counts.index(name) for name in metric.hits]
    right = counts[..., hits].sum(axis=-1).astype(np.int64)  # [strategies, images]
    singles = [
        single(
            values[[0, i]],
            spread[[0, i]],
            counts.shape[1],
            right[i] - right[0] if hits else None,
        )
        for i in others
    ]
    return dict(zip(labels[1:], judged(metric, singles), strict=True))


def _with_front(results: list[Result], metric: Metric) -> list[Result]:
    """Mark the strategies on the Pareto front of time and quality."""
    sign = 1 if metric.better == "higher" else -1
    places, costs, qualities = [], [], []
    for place, result in enumerate(results):
        time, value = result.cost.time_vs_greedy, result.metrics[metric.name].value
        if time is not None and value is not None:
            places.append(place)
            costs.append(time)
            qualities.append(sign * value)
    best = {places[i] for i in front(costs, qualities)}
    return [
        result.model_copy(update={"pareto": place in best if place in places else None})
        for place, result in enumerate(results)
    ]
