"""A run's folder becomes `summary.json` and `report.html`; both can be made again at any time.

The page is one file: style inlined, pictures as data URIs, nothing fetched, so it opens from a disk
and can be sent to somebody.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from halu.eval import words
from halu.eval.benchmark import Benchmark
from halu.eval.forest import NAMES, Forest, forest
from halu.eval.gallery import Card, Tally, cards, changes
from halu.eval.paired import Table, group
from halu.eval.plan import Manifest, Suite
from halu.eval.statistics import RESAMPLES
from halu.eval.store import PAGE, SUMMARY, read_manifest, read_rows
from halu.eval.summary import ALPHA, Delta, Result, Summary, summarise


@dataclass(frozen=True, slots=True)
class Section:
    """What the page shows of one benchmark and split."""

    benchmark: Benchmark
    suite: Suite
    split: str
    results: tuple[Result, ...]
    plot: Forest | None
    changed: tuple[Tally, ...]
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Glance:
    """A strategy across all sections: the first metric's difference, and time against greedy."""

    label: str
    deltas: tuple[Delta | None, ...]
    time: float | None


def report(folder: Path) -> Summary:
    """Compute a run's results from its rows and write `summary.json` and `report.html`.

    Raises:
        BadInput: if the folder holds no run, or rows that cannot be read.
    """
    record, rows = read_manifest(folder), read_rows(folder)
    summary = summarise(record, rows)
    sections = [_section(table, record, summary) for table in group(record, rows)]
    _replace(folder / SUMMARY, summary.model_dump_json(indent=1) + "\n")
    _replace(folder / PAGE, page(record, summary, sections))
    return summary


def page(record: Manifest, summary: Summary, sections: list[Section]) -> str:
    """Fill the template."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(words=words, alpha=ALPHA, resamples=RESAMPLES, names_at=NAMES)
    source = files("halu.eval").joinpath("report.html").read_text("utf-8")
    return environment.from_string(source).render(
        run=record, summary=summary, sections=sections, glance=_glance(record, sections)
    )


def _glance(record: Manifest, sections: Sequence[Section]) -> list[Glance]:
    """Make one line for each strategy but greedy."""
    lines = []
    for arm in record.strategies[1:]:
        own = [next((r for r in s.results if r.label == arm.label), None) for s in sections]
        deltas = tuple(
            result.vs_greedy.get(section.benchmark.metrics[0].name) if result else None
            for section, result in zip(sections, own, strict=True)
        )
        spent = _seconds(result for result in own if result)
        base = _seconds(s.results[0] for s, r in zip(sections, own, strict=True) if r)
        lines.append(Glance(arm.label, deltas, spent / base if base else None))
    return lines


def _seconds(results: Iterable[Result]) -> float:
    return sum(result.n * (result.cost.seconds_per_sample or 0.0) for result in results)


def _section(table: Table, record: Manifest, summary: Summary) -> Section:
    name = table.benchmark.name
    key = (table.model, name, table.split)
    results = [r for r in summary.results if (r.model, r.benchmark, r.split) == key]
    suite = next(suite for suite in record.benchmarks if suite.name == name)
    data = None if record.data is None else Path(record.data)
    return Section(
        benchmark=table.benchmark,
        suite=suite,
        split=table.split,
        results=tuple(results),
        plot=forest(results, table.benchmark.metrics),
        changed=tuple(changes(table)),
        cards=tuple(cards(table, suite.suffix, data)),
    )


def _replace(path: Path, text: str) -> None:
    """Write beside it and rename, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
