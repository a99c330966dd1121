"""The results as tables for a terminal: one for each model, benchmark and split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from halu.eval import fitting, words
from halu.eval.against import Delta
from halu.eval.benchmark import Metric, benchmarks
from halu.eval.store import ROWS
from halu.eval.summary import Result, Summary, defined

CAPTION = "Under each figure: 95 % interval; then the difference from plain decoding and its p."
_COLOURS = {"better": "green", "worse": "red", "no difference": "dim"}


@dataclass(frozen=True, slots=True)
class _Column:
    heading: str
    cell: Callable[[Result], Text]


def show(summary: Summary) -> None:
    """Print every table, what detectors found, and what makes the figures worth less than they
    look.
    """
    fitting.show(lambda width: tables(summary, width) + _totals(summary))
    if summary.findings:
        print(_found(summary))
    for note in summary.notes:
        Console().print(f"Note: {note}", style="yellow", soft_wrap=True)


def _found(summary: Summary) -> str:
    told = ", ".join(f"{name} {count:,}" for name, count in summary.findings.items())
    answers = words.count(summary.run["answers"], "answer")
    return f"Findings in {answers}: {told}. The page marks them in its samples; they are in {ROWS}."


def tables(summary: Summary, width: int | None) -> list[Table]:
    """Lay out every model, benchmark and split, in as many tables as fit into `width` columns.

    None is as wide as need be. Intervals and differences stand under the figures.
    """
    order = dict.fromkeys((r.model, r.benchmark, r.split) for r in summary.results)
    found = []
    for key in order:
        results = [r for r in summary.results if (r.model, r.benchmark, r.split) == key]
        build = partial(_table, results, _title(results[0], summary))
        found += fitting.fitting(_columns(results), build, width)
    return found


def _title(first: Result, summary: Summary) -> str:
    several = len({result.model for result in summary.results}) > 1
    model = f"{first.model} · " if several else ""
    size = f"{words.count(first.n, 'sample')}, {words.count(first.images, 'picture')}"
    return f"{model}{first.benchmark} · {first.split} · {size}"


def _totals(summary: Summary) -> list[Table]:
    """The published figures over several splits, a table for each model and benchmark."""
    found: dict[tuple[str, str], Table] = {}
    for total in summary.totals:
        table = found.get((total.model, total.benchmark))
        if table is None:
            title = f"{total.model} · {total.benchmark} · over its splits"
            table = Table("strategy", "figure", title=title, title_justify="left")
            table.add_column("value", justify="right")
            table.add_column("from plain", justify="right")
            found[total.model, total.benchmark] = table
        metric = next(m for m in benchmarks.get(total.benchmark).metrics if m.name == total.metric)
        delta = total.vs_greedy
        table.add_row(
            total.label,
            total.name,
            words.written(total.value, total.ci, metric),
            "" if delta is None else f"{words.change(delta.delta, metric)} {delta.verdict}",
        )
    return list(found.values())


def _table(results: list[Result], title: str, columns: Sequence[_Column]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
        show_lines=True,
    )
    table.add_column("strategy", no_wrap=True)
    for column in columns:
        table.add_column(column.heading, justify="right")
    for result in results:
        table.add_row(result.label, *(column.cell(result) for column in columns))
    return table


def _columns(results: list[Result]) -> list[_Column]:
    metrics = defined(results, benchmarks.get(results[0].benchmark).metrics)
    found = [_metric_column(metric) for metric in metrics]
    if any(result.at_equal_length for result in results):
        found.append(_Column("chair_i at\nequal length↓", _at_equal_length))
    return [*found, *_COSTS]


def _metric_column(metric: Metric) -> _Column:
    def cell(result: Result) -> Text:
        figure = result.metrics[metric.name]
        text = _figure(figure.value, figure.ci, metric)
        if figure.seed_sd is not None:
            sd = words.figure(figure.seed_sd, metric)
            text.append(f"\nseeds ±{sd}", style="not bold dim")
        if delta := result.vs_greedy.get(metric.name):
            _append(text, delta, metric)
        return text

    return _Column(f"{metric.name}{words.ARROWS[metric.better]}", cell)


def _at_equal_length(result: Result) -> Text:
    if result.at_equal_length is None:
        return Text("")
    cut, metric = result.at_equal_length.metrics["chair_i"], Metric("chair_i", "lower", "")
    text = _figure(cut.value, cut.ci, metric)
    _append(text, cut.vs_greedy, metric)
    return text


def _figure(value: float | None, ci: tuple[float, float] | None, metric: Metric) -> Text:
    text = Text(words.figure(value, metric), style="bold")
    if ci:
        low, high = (words.figure(end, metric) for end in ci)
        text.append(f"\n{low}–{high}", style="not bold dim")
    return text


def _append(text: Text, delta: Delta, metric: Metric) -> None:
    verdict = "" if delta.verdict == "no difference" else f" {delta.verdict}"
    told = f"{words.change(delta.delta, metric)}{verdict}\n{words.probability(delta.p_holm)}"
    text.append(f"\n{told.rstrip()}", style=f"not bold {_COLOURS.get(delta.verdict, 'yellow')}")


def _time(result: Result) -> Text:
    time = result.cost.time_vs_greedy
    told = "–" if time is None else f"×{words.amount(time, 2)}"
    return Text(told + ("\nPareto" if result.pareto else ""))


def _memory(result: Result) -> Text:
    return Text(words.amount(result.cost.peak_memory_mb, 0))


_COSTS = (
    _Column("unread.", lambda result: Text(str(result.unreadable))),
    _Column("time", _time),
    _Column("fwd/tok", lambda result: Text(words.amount(result.cost.forwards_per_token, 2))),
    _Column("tok/s", lambda result: Text(words.amount(result.cost.tokens_per_second, 1))),
    _Column("s each", lambda result: Text(words.amount(result.cost.seconds_per_sample, 3))),
    _Column("MB", _memory),
)
