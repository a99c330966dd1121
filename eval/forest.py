"""A forest plot as SVG geometry: each strategy's difference from greedy with its interval, and
zero.

Only numbers; `report.html` draws them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halu.eval.benchmark import Metric
from halu.eval.summary import Result, Verdict

PLOT, MARGIN, LINE, GAP = 500.0, 24.0, 22.0, 10.0
"""Width of the plot itself, what is left free beside it, and the heights of a line and a gap."""

NAMES, LETTER = 96.0, 7.2
"""Where the strategies' names begin, and how wide a letter is at most on average."""

_STEPS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True, slots=True)
class Bar:
    """One difference: where its dot and its ends are."""

    metric: str
    label: str
    y: float
    x: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of the axis, in percentage points."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Forest:
    """The plot of one table."""

    width: float
    height: float
    zero: float
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


def forest(results: Sequence[Result], metrics: Sequence[Metric]) -> Forest | None:
    """Lay the plot out, for metrics of which more or less is better; None with nothing to show."""
    shown = [
        (metric, result.label, delta)
        for metric in metrics
        if metric.better != "neither" and metric.unit == "share"
        for result in results
        if (delta := result.vs_greedy.get(metric.name)) and delta.ci and delta.delta is not None
    ]
    if not shown:
        return None
    reach = max(max(abs(end) for end in delta.ci or ()) for _, _, delta in shown) * 1.08 or 0.01
    left = NAMES + LETTER * max(len(label) for _, label, _ in shown) + MARGIN
    middle, scale = left + PLOT / 2, PLOT / 2 / reach
    bars: list[Bar] = []
    y = GAP
    for metric, label, delta in shown:
        assert delta.ci is not None
        assert delta.delta is not None
        first = not bars or bars[-1].metric != metric.name
        y += LINE + (GAP if first and bars else 0)
        x, low, high = (middle + scale * value for value in (delta.delta, *delta.ci))
        bars.append(Bar(metric.name, label, y, x, low, high, delta.verdict))
    return Forest(
        left + PLOT + MARGIN, y + LINE + 16, middle, tuple(bars), _ticks(reach, middle, scale)
    )


def _ticks(reach: float, middle: float, scale: float) -> tuple[Tick, ...]:
    """Round numbers of percentage points on both sides, at most three a side."""
    step = next((step for step in _STEPS if reach * 100 / step < 4), _STEPS[-1]) / 100
    count = int(reach / step)
    return tuple(
        Tick(middle + scale * step * place, f"{step * place * 100:+.3g}" if place else "0")
        for place in range(-count, count + 1)
    )
