"""How a figure is written, on page and terminal: shares in percent, signs, "undefined"."""

from halu.eval.benchmark import Metric

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


def figure(value: float | None, metric: Metric) -> str:
    """Write a metric's value: 0.8731 as 87.3, a length of 31.25 as 31.2."""
    if value is None:
        return "undefined"
    return f"{value * scale(metric):.1f}"


def span(ends: tuple[float, float] | None, metric: Metric) -> str:
    """Write an interval: "85.0 to 89.1"."""
    return "" if ends is None else f"{figure(ends[0], metric)} to {figure(ends[1], metric)}"


def written(value: float | None, ends: tuple[float, float] | None, metric: Metric) -> str:
    """Write a value with its interval, if it has one: "87.3 (85.0 to 89.1)"."""
    return figure(value, metric) + (f" ({span(ends, metric)})" if ends else "")


def change(delta: float | None, metric: Metric) -> str:
    """Write a difference with its sign, a true minus: "+1.2", "−0.4", "±0.0"."""
    if delta is None:
        return "undefined"
    written = f"{abs(delta) * scale(metric):.1f}"
    sign = "±" if float(written) == 0 else "+" if delta > 0 else "−"
    return sign + written


def changes(ends: tuple[float, float] | None, metric: Metric) -> str:
    """Write the interval of a difference: "−0.3 to +2.6"."""
    return "" if ends is None else f"{change(ends[0], metric)} to {change(ends[1], metric)}"


def probability(p: float | None) -> str:
    """Write a p value: "p = 0.03", "p < 0.001"."""
    if p is None:
        return ""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def count(number: int, thing: str) -> str:
    """Write how many: "1 picture", "1,000 samples"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def amount(value: float | None, digits: int = 2) -> str:
    """Write a plain number; a dash where it is not known."""
    return "–" if value is None else f"{value:,.{digits}f}"


def unit(metric: Metric) -> str:
    """Name the unit of a difference; shares alone differ by percentage points."""
    if metric.unit == "share":
        return "percentage points"
    return metric.name if metric.better == "neither" else "points"


def scale(metric: Metric) -> float:
    """Tell by what a metric is multiplied where it is written: shares are in percent."""
    return 100.0 if metric.unit == "share" else 1.0
