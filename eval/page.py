"""The page of a run: one file that fetches nothing, so it opens from a disk and can be sent.

Style and script are inlined and the script is allowed by its hash alone; pictures are data, samples
lie packed in elements that no browser runs. The template only lays out what is computed here.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from halu.eval import curve, equal_length, scatter, words
from halu.eval.against import ALPHA, Delta
from halu.eval.benchmark import Benchmark, Metric
from halu.eval.categories import Categories, categories
from halu.eval.changes import Tally, changes
from halu.eval.dotplot import DotPlot
from halu.eval.forest import forest, levels
from halu.eval.paired import Table
from halu.eval.plan import Manifest, Suite
from halu.eval.position import positions
from halu.eval.samples import Packed
from halu.eval.statistics import RESAMPLES
from halu.eval.summary import Result, Summary, defined, quality
from halu.eval.totals import TotalResult


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of one split."""

    split: str
    results: tuple[Result, ...]
    main: Metric
    metrics: tuple[Metric, ...]
    undefined: tuple[Metric, ...]
    forest: DotPlot | None
    scatter: scatter.Scatter | None
    curves: tuple[curve.Curve, ...]
    changed: tuple[Tally, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Figures over several splits: the metric that each reads like, and every strategy's own."""

    metrics: Mapping[str, Metric]
    lines: Mapping[str, Mapping[str, TotalResult]]


@dataclass(frozen=True, slots=True)
class Chapter:
    """What it shows of one benchmark answered by one model."""

    model: str
    benchmark: Benchmark
    suite: Suite
    sections: tuple[Section, ...]
    levels: DotPlot | None
    categories: Categories | None
    totals: Totals | None


@dataclass(frozen=True, slots=True)
class Glance:
    """A strategy across all splits of a model: the main metric's difference, and its time."""

    model: str
    label: str
    deltas: tuple[Delta | None, ...]
    time: float | None


def page(
    record: Manifest,
    summary: Summary,
    tables: Sequence[Table],
    packed: Packed,
    pictures: Iterable[bytes],
) -> str:
    """Fill the template; `pictures` are JPEGs in the order that `packed` counts them in."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(words=words, alpha=ALPHA, resamples=RESAMPLES)
    environment.globals.update(scatter_plot=scatter, curve_plot=curve)
    environment.globals.update(cut_metrics=equal_length.METRICS)
    chapters = _chapters(record, summary, tables)
    script = _source("report.js")
    return environment.from_string(_source("report.html")).render(
        run=record,
        summary=summary,
        chapters=chapters,
        glance=_glance(record, chapters),
        packed=packed,
        pictures=(base64.b64encode(jpeg).decode() for jpeg in pictures),
        style=_source("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _source(name: str) -> str:
    return files("halu.eval").joinpath(name).read_text("utf-8")


def _chapters(record: Manifest, summary: Summary, tables: Sequence[Table]) -> list[Chapter]:
    keys = dict.fromkeys((table.model, table.benchmark.name) for table in tables)
    chapters = []
    for model, name in keys:
        own = [table for table in tables if (table.model, table.benchmark.name) == (model, name)]
        results = [r for r in summary.results if (r.model, r.benchmark) == (model, name)]
        benchmark = own[0].benchmark
        totals = [t for t in summary.totals if (t.model, t.benchmark) == (model, name)]
        chapters.append(
            Chapter(
                model=model,
                benchmark=benchmark,
                suite=next(suite for suite in record.benchmarks if suite.name == name),
                sections=tuple(_section(table, results) for table in own),
                levels=levels(results, quality(results, benchmark.metrics)),
                categories=categories(own),
                totals=_totals(totals, benchmark),
            )
        )
    return chapters


def _totals(results: Sequence[TotalResult], benchmark: Benchmark) -> Totals | None:
    if not results:
        return None
    reads_like = {metric.name: metric for metric in benchmark.metrics}
    names = {result.name: reads_like[result.metric] for result in results}
    labels = dict.fromkeys(result.label for result in results)
    return Totals(
        names, {label: {r.name: r for r in results if r.label == label} for label in labels}
    )


def _section(table: Table, results: Sequence[Result]) -> Section:
    own = [result for result in results if result.split == table.split]
    metrics = table.benchmark.metrics
    main, shown = quality(own, metrics), defined(own, metrics)
    risks = positions(table)
    return Section(
        split=table.split,
        results=tuple(own),
        main=main,
        metrics=tuple(shown),
        undefined=tuple(metric for metric in metrics if metric not in shown),
        forest=forest(own, metrics),
        scatter=scatter.scatter(own, main),
        curves=tuple(curve.curves(risks)) if risks else (),
        changed=tuple(changes(table)),
    )


def _glance(record: Manifest, chapters: Sequence[Chapter]) -> list[list[Glance]]:
    """Make one table a model: a line for each strategy but greedy."""
    found = []
    for model in dict.fromkeys(chapter.model for chapter in chapters):
        own = [(c, s) for c in chapters if c.model == model for s in c.sections]
        lines = [_line(arm.label, model, own) for arm in record.strategies[1:]]
        found.append(lines)
    return [lines for lines in found if lines]


def _line(label: str, model: str, sections: Sequence[tuple[Chapter, Section]]) -> Glance:
    own = [next((r for r in s.results if r.label == label), None) for _, s in sections]
    deltas = tuple(
        result.vs_greedy.get(section.main.name) if result else None
        for result, (_, section) in zip(own, sections, strict=True)
    )
    return Glance(model, label, deltas, _time(own, [s.results[0] for _, s in sections]))


def _time(own: Sequence[Result | None], plain: Sequence[Result]) -> float | None:
    """Time relative to plain decoding over the splits that have both; cached answers have none."""
    both = [
        (result.n * seconds, result.n * seconds / times)
        for result in own
        if result
        and (seconds := result.cost.seconds_per_sample)
        and (times := result.cost.time_vs_greedy)
    ]
    return sum(spent for spent, _ in both) / sum(base for _, base in both) if both else None
