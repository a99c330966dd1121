"""Quality against cost as SVG geometry: every strategy a point, the Pareto front a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from halu.eval import words
from halu.eval.benchmark import Metric
from halu.eval.dotplot import Mark, steps
from halu.eval.summary import Result

WIDTH, HEIGHT = 360.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 14.0, 16.0, 40.0

_APART = 13.0
"""Between the base lines of two labels."""

_MANY = 9
"""Above so many strategies only front and plain decoding are labelled; others have a tip."""


@dataclass(frozen=True, slots=True)
class Point:
    """A strategy: x is its time, y its quality, low and high the ends of its interval."""

    label: str
    x: float
    y: float
    low: float
    high: float
    kind: str
    front: bool
    label_y: float | None
    flip: bool
    told: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """The plot of one table. `front` are the corners of the Pareto front, as SVG points."""

    metric: Metric
    points: tuple[Point, ...]
    front: str
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]


def scatter(results: Sequence[Result], metric: Metric) -> Scatter | None:
    """Lay out the strategies with known time; None with fewer than two."""
    shown = [r for r in results if r.pareto is not None and r.cost.time_vs_greedy]
    if len(shown) < 2:
        return None
    x = _across([math.log2(r.cost.time_vs_greedy or 1.0) for r in shown])
    y = _up([end for r in shown for end in _ends(r, metric)])
    labelled = _label_heights(shown, metric, y)
    points = [_point(r, metric, x, y, labelled.get(r.label)) for r in shown]
    front = sorted((p for p in points if p.front), key=lambda p: p.x)
    return Scatter(
        metric=metric,
        points=tuple(points),
        front=" ".join(_stairs(front)),
        across=tuple(Mark(x.at(math.log2(t)), f"{t:g}×") for t in _times(x)),
        up=tuple(Mark(y.at(n), f"{n:g}") for n in steps(y.low, y.high, 6)),
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def _across(logs: Sequence[float]) -> _Axis:
    low, high = min(-0.25, *logs), max(0.5, *logs)
    return _Axis(low - 0.15, high + 0.15, LEFT, WIDTH - RIGHT)


def _up(values: Sequence[float]) -> _Axis:
    room = 0.06 * (max(values) - min(values)) or 1.0
    return _Axis(min(values) - room, max(values) + room, HEIGHT - BOTTOM, TOP)


def _times(axis: _Axis) -> list[float]:
    """List the round multiples on the axis, of which at most six are kept."""
    found = [t for n in range(-4, 8) for t in (2.0**n, 1.5 * 2.0**n)]
    found = [t for t in found if axis.low <= math.log2(t) <= axis.high]
    return found if len(found) <= 6 else [t for t in found if math.log2(t).is_integer()]


def _ends(result: Result, metric: Metric) -> tuple[float, float, float]:
    """The quality and both ends of its interval, as they are written."""
    figure, scale = result.metrics[metric.name], words.scale(metric)
    value = figure.value or 0.0
    low, high = figure.ci or (value, value)
    return value * scale, low * scale, high * scale


def _point(result: Result, metric: Metric, x: _Axis, y: _Axis, label_y: float | None) -> Point:
    time = result.cost.time_vs_greedy or 1.0
    value, low, high = (y.at(end) for end in _ends(result, metric))
    delta = result.vs_greedy.get(metric.name)
    at = x.at(math.log2(time))
    written = words.figure(result.metrics[metric.name].value, metric)
    return Point(
        label=result.label,
        x=at,
        y=value,
        low=low,
        high=high,
        kind=delta.verdict if delta else "baseline",
        front=bool(result.pareto),
        label_y=label_y,
        flip=at > WIDTH * 0.62,
        told=f"{result.label}: {metric.name} {written}, {words.amount(time, 2)} × plain time",
    )


def _label_heights(results: Sequence[Result], metric: Metric, y: _Axis) -> dict[str, float]:
    """Heights at which labels stand without touching one another."""
    few = len(results) <= _MANY
    named = [r for r in results if few or r.pareto or not r.vs_greedy]
    heights: dict[str, float] = {}
    last = -math.inf
    for result in sorted(named, key=lambda r: y.at(_ends(r, metric)[0])):
        last = max(last + _APART, y.at(_ends(result, metric)[0]) - 5)
        heights[result.label] = last
    return heights


def _stairs(front: Sequence[Point]) -> list[str]:
    """Corners of the line: what a given time buys at best."""
    corners = [f"{front[0].x:.1f},{front[0].y:.1f}"] if front else []
    for before, after in pairwise(front):
        corners += [f"{after.x:.1f},{before.y:.1f}", f"{after.x:.1f},{after.y:.1f}"]
    if front:
        corners.append(f"{WIDTH - RIGHT:.1f},{front[-1].y:.1f}")
    return corners
