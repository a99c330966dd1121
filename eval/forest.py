"""Two dot plots of results: differences from greedy, and levels on every split."""

from collections.abc import Sequence

from halu.eval import words
from halu.eval.benchmark import Metric
from halu.eval.dotplot import DotPlot, Line, dotplot
from halu.eval.summary import Result


def forest(results: Sequence[Result], metrics: Sequence[Metric]) -> DotPlot | None:
    """Lay out differences, in percentage points, of shares of which more or less is better."""
    lines = [
        _line(metric.name, result.label, delta.delta, delta.ci, delta.verdict, metric)
        for metric in metrics
        if metric.better != "neither" and metric.unit == "share"
        for result in results
        if (delta := result.vs_greedy.get(metric.name))
    ]
    return dotplot([line for line in lines if line], around_zero=True)


def levels(results: Sequence[Result], metric: Metric) -> DotPlot | None:
    """Lay out one metric of all strategies, split by split; None with fewer than two splits."""
    splits = list(dict.fromkeys(result.split for result in results))
    if len(splits) < 2:
        return None
    lines = []
    for split in splits:
        for result in results:
            if result.split == split:
                figure, delta = result.metrics[metric.name], result.vs_greedy.get(metric.name)
                kind = delta.verdict if delta else "baseline"
                lines.append(_line(split, result.label, figure.value, figure.ci, kind, metric))
    return dotplot([line for line in lines if line], around_zero=False)


def _line(
    group: str,
    label: str,
    value: float | None,
    ends: tuple[float, float] | None,
    kind: str,
    metric: Metric,
) -> Line | None:
    if value is None or ends is None:
        return None
    scale = words.scale(metric)
    return Line(group, label, value * scale, (ends[0] * scale, ends[1] * scale), kind)
