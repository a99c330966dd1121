"""Dots with intervals, one a line, as SVG geometry. Only numbers; `report.html` draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

PLOT, MARGIN, LINE, GAP = 440.0, 24.0, 22.0, 10.0
"""Width of the plot itself, what is left free beside it, and the heights of a line and a gap."""

LETTER = 7.2
"""How wide a letter is at most on average."""

_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One dot to be drawn, in the unit of the axis. `kind` is its class in the style sheet."""

    group: str
    label: str
    value: float
    ends: tuple[float, float]
    kind: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One dot drawn: where it and its ends are."""

    group: str
    label: str
    y: float
    x: float
    low: float
    high: float
    kind: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark of an axis: how far along, and what it says."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class DotPlot:
    """A plot; labels begin at `names`, and `zero` is where zero is if it is marked."""

    width: float
    height: float
    names: float
    zero: float | None
    bars: tuple[Bar, ...]
    ticks: tuple[Mark, ...]


def dotplot(lines: Sequence[Line], around_zero: bool) -> DotPlot | None:
    """Lay lines out under their groups; `around_zero` puts zero in the middle and signs on ticks.

    None with nothing to show.
    """
    if not lines:
        return None
    low = min(line.ends[0] for line in lines)
    high = max(line.ends[1] for line in lines)
    if around_zero:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    room = 0.04 * (high - low) or 1.0
    low, high = low - room, high + room
    names = 8 + LETTER * max(len(line.group) for line in lines) + 16
    left = names + LETTER * max(len(line.label) for line in lines) + MARGIN
    scale = PLOT / (high - low)
    bars: list[Bar] = []
    y = GAP
    for line in lines:
        first = not bars or bars[-1].group != line.group
        y += LINE + (GAP if first and bars else 0)
        x, start, stop = (left + scale * (at - low) for at in (line.value, *line.ends))
        bars.append(Bar(line.group, line.label, y, x, start, stop, line.kind))
    return DotPlot(
        width=left + PLOT + MARGIN,
        height=y + LINE + 16,
        names=names,
        zero=left - scale * low if around_zero else None,
        bars=tuple(bars),
        ticks=tuple(
            Mark(left + scale * (at - low), _written(at, around_zero)) for at in steps(low, high)
        ),
    )


def steps(low: float, high: float, most: int = 8) -> list[float]:
    """List round numbers between two ends, at most `most`."""
    step = next((step for step in _STEPS if (high - low) / step < most), _STEPS[-1])
    first, last = int(-(-low // step)), int(high // step)
    return [step * place for place in range(first, last + 1)]


def _written(at: float, signed: bool) -> str:
    if not at:
        return "0"
    text = f"{at:+.3g}" if signed else f"{at:.3g}"
    return text.replace("-", "−")
