"""From rows to figures: metrics with intervals, each strategy against greedy, and what it cost.

Everything is computed again from the counts in the rows. Within a benchmark and split all
strategies are compared on the same samples: those that every one of them has answered.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from halu.eval.benchmark import Metric
from halu.eval.paired import Table, group
from halu.eval.plan import BASELINE, Manifest
from halu.eval.statistics import bootstrap_p, holm, interval, mcnemar, resample
from halu.eval.store import Row
from halu.types import Record

ALPHA = 0.05
FEW = 30
"""Images below which a percentile interval of a share covers clearly less than it says."""

Verdict = Literal["better", "worse", "higher", "lower", "no difference"]


class Figure(Record):
    """A metric's value and 95 % interval; None where undefined."""

    value: float | None
    ci: tuple[float, float] | None


class Delta(Record):
    """A metric minus greedy's on the same samples.

    `p` is of a single comparison, `p_holm` adjusted for the number of strategies compared; the
    verdict goes by `p_holm`.
    """

    delta: float | None
    ci: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    test: Literal["mcnemar", "bootstrap"]
    verdict: Verdict


class Cost(Record):
    """Time and memory, without each process's first batch."""

    tokens_per_second: float | None
    seconds_per_sample: float | None
    forwards_per_token: float | None
    peak_memory_mb: float | None


class Result(Record):
    """One strategy on one split of one benchmark with one model. `label` tells apart two uses of a
    strategy.
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


class Summary(Record):
    """`summary.json`."""

    run: dict[str, Any]
    notes: tuple[str, ...]
    results: tuple[Result, ...]


def summarise(record: Manifest, rows: Sequence[Row], resamples_seed: int = 0) -> Summary:
    """Compute every figure of a run. The same rows give the same summary."""
    tables = group(record, rows)
    results = [result for table in tables for result in _results(table, resamples_seed)]
    answers = len(record.models) * len(record.strategies) * record.repeats
    wanted = sum(suite.samples for suite in record.benchmarks) * answers
    notes = list(_notes(tables))
    if len(rows) < wanted:
        notes.insert(0, f"Unfinished: {len(rows)} of {wanted} answers are there.")
    run = record.model_dump(mode="json") | {
        "model": ", ".join(source.label for source in record.models),
        "answers": len(rows),
        "complete": len(rows) == wanted,
    }
    return Summary(run=run, notes=tuple(notes), results=tuple(results))


def _results(table: Table, seed: int) -> list[Result]:
    counts = table.counts()
    values = table.benchmark.rates(counts.sum(axis=1))
    resamples = resample(counts, seed=seed)
    if counts.shape[1] < 2:  # one image says nothing about spread
        resamples = np.zeros_like(resamples)
    spread = table.benchmark.rates(resamples)
    compared = {
        metric.name: _against_greedy(table, metric, values[metric.name], spread[metric.name])
        for metric in table.benchmark.metrics
    }
    return [
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
            metrics={
                metric.name: Figure(
                    value=_number(values[metric.name][place]), ci=_ends(spread[metric.name][place])
                )
                for metric in table.benchmark.metrics
            },
            vs_greedy={name: deltas[label] for name, deltas in compared.items() if label in deltas},
            cost=_cost(rows),
        )
        for place, (label, rows) in enumerate(table.arms.items())
    ]


def _against_greedy(
    table: Table, metric: Metric, values: NDArray[np.float64], spread: NDArray[np.float64]
) -> dict[str, Delta]:
    """Every strategy but greedy, with p values adjusted for how many there are."""
    labels = list(table.arms)
    if labels[0] != BASELINE:
        return {}
    others = range(1, len(labels))
    p = [_p(table, metric, labels[i], spread[i] - spread[0]) for i in others]
    found = {}
    for i, single, adjusted in zip(others, p, holm(p), strict=True):
        delta = _number(values[i] - values[0])
        found[labels[i]] = Delta(
            delta=delta,
            ci=_ends(spread[i] - spread[0]),
            p=single,
            p_holm=adjusted,
            test="mcnemar" if metric.hits else "bootstrap",
            verdict=_verdict(metric, delta, adjusted),
        )
    return found


def _p(table: Table, metric: Metric, label: str, differences: NDArray[np.float64]) -> float | None:
    if not metric.hits:
        return bootstrap_p(differences)
    first, second = (
        np.array([any(row.counts.get(hit) for hit in metric.hits) for row in table.arms[name]])
        for name in (BASELINE, label)
    )
    return mcnemar(first, second)


def _verdict(metric: Metric, delta: float | None, p: float | None) -> Verdict:
    if delta is None or p is None or p >= ALPHA or delta == 0:
        return "no difference"
    if metric.better == "neither":
        return "higher" if delta > 0 else "lower"
    return "better" if (delta > 0) == (metric.better == "higher") else "worse"


def _cost(rows: Sequence[Row]) -> Cost:
    timed = [row for row in rows if not row.cached]
    warm = [row for row in timed if not row.cold] or timed
    tokens, seconds = sum(row.tokens for row in warm), sum(row.seconds for row in warm)
    forwards = sum(row.forwards for row in warm)
    peaks = [row.memory_mb for row in rows if row.memory_mb is not None]
    return Cost(
        tokens_per_second=tokens / seconds if seconds else None,
        seconds_per_sample=seconds / len(warm) if warm else None,
        forwards_per_token=forwards / tokens if tokens else None,
        peak_memory_mb=max(peaks, default=None),
    )


def _notes(tables: Sequence[Table]) -> Iterator[str]:
    """Say what makes figures worth less than they look."""
    few = {t.benchmark.name: n for t in tables if (n := t.counts().shape[1]) < FEW}
    for name, images in few.items():
        yield f"{name}: {images} pictures are few; intervals are too narrow below about {FEW}."
    for table in tables:
        where = f"{table.benchmark.name}, {table.split}"
        for label, rows in table.arms.items():
            if len(rows) > 10 and len({row.answer for row in rows}) == 1:
                yield f"{where}: {label} always gives the same answer."
            cut = sum(row.finish_reason == "length" for row in rows)
            if cut > 0.1 * len(rows):
                yield f"{where}: {cut} of {len(rows)} answers of {label} hit the token limit."


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _ends(values: NDArray[np.float64]) -> tuple[float, float] | None:
    found = interval(values)
    return None if found is None else (found.low, found.high)
