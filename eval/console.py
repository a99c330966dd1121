"""The results as tables for a terminal: one for each benchmark and split."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from halu.eval import words
from halu.eval.benchmark import Metric, benchmarks
from halu.eval.summary import Delta, Result, Summary

CAPTION = "Under each figure: 95 % interval; then the difference from greedy and its p."
_COLOURS = {"better": "green", "worse": "red", "no difference": "dim"}


ROOMY = 120
"""Columns of a terminal that holds figures and costs side by side."""


def show(summary: Summary) -> None:
    """Print every benchmark and split; a narrow terminal gets the costs in tables of their own."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=ROOMY)
    for part in ((True, True),) if console.width >= ROOMY else ((True, False), (False, True)):
        for table in tables(summary, *part):
            console.print(table)


def tables(summary: Summary, figures: bool = True, costs: bool = True) -> list[Table]:
    """Lay out every benchmark and split; intervals and differences stand under the figures."""
    order = dict.fromkeys((result.benchmark, result.split) for result in summary.results)
    groups = [[r for r in summary.results if (r.benchmark, r.split) == key] for key in order]
    return [_table(results, figures, costs) for results in groups]


def _table(results: list[Result], figures: bool, costs: bool) -> Table:
    first = results[0]
    metrics = benchmarks.get(first.benchmark).metrics if figures else ()
    table = Table(
        title=f"{first.benchmark} · {first.split} · {first.n} samples, {first.images} pictures",
        title_justify="left",
        caption=CAPTION if figures else None,
        caption_justify="left",
        show_lines=True,
    )
    table.add_column("strategy", no_wrap=True)
    for metric in metrics:
        table.add_column(f"{metric.name}{words.ARROWS[metric.better]}", justify="right")
    for heading in ("unread.", "tok/s", "s each", "fwd/tok", "MB") if costs else ():
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            result.label,
            *(_cell(result, metric) for metric in metrics),
            *(_cost(result) if costs else ()),
        )
    return table


def _cell(result: Result, metric: Metric) -> Text:
    figure = result.metrics[metric.name]
    text = Text(words.figure(figure.value, metric), style="bold")
    if figure.ci:
        low, high = (words.figure(end, metric) for end in figure.ci)
        text.append(f"\n{low}–{high}", style="not bold dim")
    if delta := result.vs_greedy.get(metric.name):
        text.append(f"\n{_delta(delta, metric)}", style=f"not bold {_colour(delta)}")
    return text


def _delta(delta: Delta, metric: Metric) -> str:
    verdict = "" if delta.verdict == "no difference" else f" {delta.verdict}"
    p = words.probability(delta.p_holm)
    return f"{words.change(delta.delta, metric)}{verdict}\n{p}".rstrip()


def _colour(delta: Delta) -> str:
    return _COLOURS.get(delta.verdict, "yellow")


def _cost(result: Result) -> Iterator[str]:
    cost = result.cost
    yield str(result.unreadable)
    yield words.amount(cost.tokens_per_second, 1)
    yield words.amount(cost.seconds_per_sample, 3)
    yield words.amount(cost.forwards_per_token, 2)
    yield words.amount(cost.peak_memory_mb, 0)
