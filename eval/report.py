"""A run's folder becomes `summary.json` and `report.html`; both can be made again at any time.

The page is one file: style inlined, pictures as data URIs, nothing fetched, so it opens from a disk and can
be sent to somebody.
"""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from halu.eval import words
from halu.eval.benchmark import Benchmark
from halu.eval.forest import Forest, forest
from halu.eval.gallery import Card, Tally, cards, changes
from halu.eval.paired import Table, group
from halu.eval.plan import Manifest, Suite
from halu.eval.statistics import RESAMPLES
from halu.eval.store import PAGE, SUMMARY, read_manifest, read_rows
from halu.eval.summary import ALPHA, Result, Summary, summarise


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
    environment.globals.update(words=words, alpha=ALPHA, resamples=RESAMPLES)
    source = files("halu.eval").joinpath("report.html").read_text("utf-8")
    return environment.from_string(source).render(run=record, summary=summary, sections=sections)


def _section(table: Table, record: Manifest, summary: Summary) -> Section:
    name = table.benchmark.name
    results = [r for r in summary.results if (r.benchmark, r.split) == (name, table.split)]
    return Section(
        benchmark=table.benchmark,
        suite=next(suite for suite in record.benchmarks if suite.name == name),
        split=table.split,
        results=tuple(results),
        plot=forest(results, table.benchmark.metrics),
        changed=tuple(changes(table)),
        cards=tuple(cards(table, None if record.data is None else Path(record.data))),
    )


def _replace(path: Path, text: str) -> None:
    """Write beside it and rename, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)
