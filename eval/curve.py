"""Risk by position as SVG geometry: one small plot a strategy, greedy's line behind its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from halu.eval.dotplot import Mark, steps
from halu.eval.position import Positions, Risk

WIDTH, HEIGHT = 300.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 12.0, 26.0, 38.0


@dataclass(frozen=True, slots=True)
class Dot:
    """One bin of one strategy."""

    x: float
    y: float
    low: float
    high: float
    told: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A small plot; `base` are greedy's dots, none in its own plot."""

    label: str
    dots: tuple[Dot, ...]
    base: tuple[Dot, ...]
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]


def curves(found: Positions) -> list[Curve]:
    """Lay out every strategy on the same axes, without greedy's own plot if there are others."""
    (first, base), *others = found.risks.items()
    tops = [r.ci[1] if r.ci else r.share or 0.0 for risks in found.risks.values() for r in risks]
    top = max(0.05, *tops) * 1.05
    across = tuple(Mark(_x(n, found), name) for n, name in enumerate(found.bins))
    up = tuple(Mark(_y(n / 100, top), f"{n:g}") for n in steps(0, 100 * top, 5))
    behind = _dots(base, found, top)
    if not others:
        return [Curve(first, behind, (), across, up)]
    return [Curve(label, _dots(r, found, top), behind, across, up) for label, r in others]


def _dots(risks: Sequence[Risk], found: Positions, top: float) -> tuple[Dot, ...]:
    dots = []
    for n, risk in enumerate(risks):
        if risk.share is not None:
            low, high = risk.ci or (risk.share, risk.share)
            told = f"words {found.bins[n]}: {100 * risk.share:.1f} % of {risk.n} mentions"
            y, y_low, y_high = (_y(value, top) for value in (risk.share, low, high))
            dots.append(Dot(_x(n, found), y, y_low, y_high, told))
    return tuple(dots)


def _x(place: int, found: Positions) -> float:
    return _LEFT + (place + 0.5) * (WIDTH - _LEFT - _RIGHT) / len(found.bins)


def _y(share: float, top: float) -> float:
    return HEIGHT - _BOTTOM - share / top * (HEIGHT - _BOTTOM - _TOP)
