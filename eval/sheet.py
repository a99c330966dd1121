"""`report.csv`: one line a strategy and metric, for spreadsheets and plots of one's own.

Shares are between 0 and 1 as in `summary.json`; an empty cell is a figure that is not defined.
"""

import csv
import io
import json
from collections.abc import Iterator

from halu.eval.against import Delta
from halu.eval.summary import Result, Summary

COLUMNS = (
    *("model", "benchmark", "split", "strategy", "label", "params", "n", "images", "unreadable"),
    *("metric", "at", "value", "low", "high", "seed_sd"),
    *("delta", "delta_low", "delta_high", "p", "p_holm", "test", "verdict"),
    *("tokens_per_second", "seconds_per_sample", "forwards_per_token", "peak_memory_mb"),
    *("time_vs_greedy", "pareto"),
)
"""`at` is empty; or "equal length", where captions are cut to the words that greedy's has too; or
"several splits", for published totals."""


def sheet(summary: Summary) -> str:
    """Write all results as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for result in summary.results:
        for line in _lines(result):
            writer.writerow(_facts(result) | line)
    for total in summary.totals:
        facts = total.model_dump(include={"model", "benchmark", "label", "value"})
        told = {"metric": total.name, "at": "several splits"}
        writer.writerow(facts | told | _ends("", total.ci) | _delta(total.vs_greedy))
    return file.getvalue()


def _lines(result: Result) -> Iterator[dict[str, object]]:
    for name, figure in result.metrics.items():
        told = {"metric": name, "value": figure.value, "seed_sd": figure.seed_sd}
        yield told | _ends("", figure.ci) | _delta(result.vs_greedy.get(name))
    if result.at_equal_length:
        for name, cut in result.at_equal_length.metrics.items():
            told = {"metric": name, "at": "equal length", "value": cut.value}
            yield told | _ends("", cut.ci) | _delta(cut.vs_greedy)


def _facts(result: Result) -> dict[str, object]:
    names = ("model", "benchmark", "split", "strategy", "label", "n", "images", "unreadable")
    facts: dict[str, object] = {name: getattr(result, name) for name in names}
    facts |= {"params": json.dumps(result.params), "pareto": result.pareto}
    return facts | result.cost.model_dump()


def _delta(delta: Delta | None) -> dict[str, object]:
    if delta is None:
        return {}
    told = delta.model_dump(include={"delta", "p", "p_holm", "test", "verdict"})
    return told | _ends("delta_", delta.ci)


def _ends(prefix: str, ci: tuple[float, float] | None) -> dict[str, object]:
    low, high = ci or (None, None)
    return {f"{prefix}low": low, f"{prefix}high": high}
