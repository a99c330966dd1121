"""Scoring answer files of other projects under one published rule, or several side by side.

This file knows no benchmark. A benchmark becomes scorable by one object in a file of its own (that
of POPE is in `pope_score`), which is imported with the rest of `halu.eval`:

    class AmberScorer:
        rules = ("amber",)                       # published names; the first is the default
        needs = "--annotations annotations.json" # what a user must give besides the answers

        def read(self, given: Given, rules: Sequence[str]) -> Reading:
            ...                                  # read and join; raise BadInput, never guess
            return Reading({"amber": Column(benchmark, [(sample, answer), ...])}, warnings)

    scorers.register("amber")(AmberScorer())

A `Column` is a rule at work: a `Benchmark` that scores by that rule, and each sample with its
answer. The benchmark's own `score`, `tally`, `rates` and, if it has them, `totals` do the rest, so
that an imported file gets the figures that a run would get. `halu.eval.answers` reads the files.
Nothing is scored before everything has been read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from halu.errors import BadInput, Unknown
from halu.eval.benchmark import Benchmark, Metric, Sample, Score, totals_of
from halu.eval.own_rows import Chosen
from halu.eval.scored import Figures, Scored
from halu.registry import Registry

ALL = "all"


@dataclass(frozen=True, slots=True)
class Given:
    """What the user names.

    `tables` is a folder with word tables that halu does not ship, `rows` tells which rows are meant
    where the answers are those of a run.
    """

    answers: Path
    questions: Path | None = None
    annotations: tuple[Path, ...] = ()
    tables: Path | None = None
    partial: bool = False
    rows: Chosen | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """Samples with their answers, and the benchmark that scores them by one rule."""

    benchmark: Benchmark
    answers: Sequence[tuple[Sample, str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer file, read and joined: a column for every rule, and what the user should know."""

    columns: Mapping[str, Column]
    warnings: tuple[str, ...] = ()


class Scorer(Protocol):
    """How the answer files of one benchmark are read.

    It may also have `published`, the rules meant by "all" where those are not all of `rules`, and
    `options`, which a rule's name may carry after a colon.
    """

    @property
    def rules(self) -> tuple[str, ...]:
        """Rules by name; the first is the default."""

    @property
    def needs(self) -> str:
        """What has to be given besides the answers, in a line."""

    def read(self, given: Given, rules: Sequence[str]) -> Reading:
        """Read files and join answers with questions, for each of these rules.

        Raises:
            BadInput: one clear line, for whatever does not fit.
        """


scorers: Registry[Scorer] = Registry("benchmark", "halu.eval", "halu.scorers")


def score(name: str, given: Given, rules: str | None = None) -> Scored:
    """Score an answer file.

    Args:
        name: a benchmark of `scorers`.
        given: the files.
        rules: a rule's name, several with commas between, or "all"; None is the default rule.

    Raises:
        Unknown: for a benchmark or rule that does not exist.
        BadInput: if files are missing, malformed or do not fit together.
    """
    scorer = scorers.get(name)
    wanted = asked(scorer, rules)
    _refuse_missing(given)
    reading = scorer.read(given, wanted)
    scores = {rule: _scores(column) for rule, column in reading.columns.items()}
    answers = _by_answer(scores.values())
    splits = dict.fromkeys(sample.split for rows in scores.values() for sample, _ in rows)
    figures = {rule: _by_split(reading.columns[rule], scores[rule]) for rule in scores}
    return Scored(
        name,
        n=len(answers),
        unreadable=sum(all(score.value is None for score in read) for read in answers),
        rules={
            rule: _together(reading.columns[rule], scores[rule], figures[rule]) for rule in scores
        },
        splits={
            split: {rule: own[split] for rule, own in figures.items() if split in own}
            for split in splits
        },
        metrics=_metrics(column.benchmark for column in reading.columns.values()),
        warnings=reading.warnings + tuple(_disagreement(answers)) + tuple(_constant(scores)),
    )


def asked(scorer: Scorer, rules: str | None) -> list[str]:
    """List the rules meant by names with commas between, "all" among them, or None (the first).

    Raises:
        Unknown: for a rule that does not exist, or an option that it does not have.
    """
    if rules is None:
        return [scorer.rules[0]]
    names: list[str] = []
    for name in map(str.strip, rules.split(",")):
        base, colon, option = name.partition(":")
        meant = getattr(scorer, "published", scorer.rules) if base == ALL else (base,)
        names += [f"{rule}{colon}{option}" for rule in meant]
    known = [*scorer.rules]
    known += [f"{rule}:{option}" for rule in known for option in getattr(scorer, "options", ())]
    for name in names:
        if name not in known:
            raise Unknown("rule", name, [*known, ALL], param="--rules")
    return list(dict.fromkeys(names))


def _refuse_missing(given: Given) -> None:
    """Raise BadInput for a path that leads nowhere, whether or not the scorer would look there."""
    named = (
        ("answers", (given.answers,)),
        ("--questions", (given.questions,)),
        ("--annotations", given.annotations),
        ("--tables", (given.tables,)),
    )
    for param, paths in named:
        for path in paths:
            if path is not None and not path.exists():
                raise BadInput(f"{path} cannot be read: there is nothing there.", param=param)


def _metrics(columns: Iterable[Benchmark]) -> dict[str, Metric]:
    """Tell what each figure is; a total is in the unit of the metric that it is made of."""
    found: dict[str, Metric] = {}
    for benchmark in columns:
        own = {metric.name: metric for metric in benchmark.metrics}
        found |= own | {t.name: replace(own[t.metric], name=t.name) for t in totals_of(benchmark)}
    return found


_Rows = list[tuple[Sample, Score]]


def _scores(column: Column) -> _Rows:
    return [(sample, column.benchmark.score(sample, text)) for sample, text in column.answers]


def _by_answer(columns: Iterable[_Rows]) -> list[list[Score]]:
    """Bring together, by the sample's id, what the rules that count an answer make of it."""
    found: dict[str, list[Score]] = {}
    for rows in columns:
        for sample, score in rows:
            found.setdefault(sample.id, []).append(score)
    return list(found.values())


def _by_split(column: Column, rows: _Rows) -> dict[str, Figures]:
    splits: dict[str, _Rows] = {}
    for sample, score in rows:
        splits.setdefault(sample.split, []).append((sample, score))
    return {name: _figures(column.benchmark, some) for name, some in splits.items()}


def _figures(benchmark: Benchmark, rows: _Rows) -> Figures:
    total = np.sum(_tallied(benchmark, rows), axis=0)
    return Figures(
        {name: float(value) for name, value in benchmark.rates(total).items()},
        {name: int(number) for name, number in zip(benchmark.counts, total, strict=True)},
        n=len(rows),
        unreadable=sum(score.value is None for _, score in rows),
    )


def _tallied(benchmark: Benchmark, rows: _Rows) -> list[list[float]]:
    """Tally picture by picture: what belongs together is found by picture, not by order."""
    pictures: dict[tuple[str, str | None], list[Mapping[str, int]]] = {}
    for sample, score in rows:
        pictures.setdefault((sample.split, sample.cluster or sample.image), []).append(score.counts)
    return [benchmark.tally(counts) for counts in pictures.values()]


def _together(column: Column, rows: _Rows, splits: dict[str, Figures]) -> Figures:
    if len(splits) == 1:
        return next(iter(splits.values()))
    pooled = _figures(column.benchmark, rows)
    by_split = {name: figures.metrics for name, figures in splits.items()}
    for total in totals_of(column.benchmark):
        pooled.metrics.update(total.of(by_split))
    return pooled


def _disagreement(answers: Iterable[Sequence[Score]]) -> Iterable[str]:
    """Warn when an answer is read in different ways: then the rule is part of the figure."""
    differing = sum(len({score.parsed for score in read}) > 1 for read in answers)
    if differing:
        yield f"The rules read {differing} answers differently: name the rule with the figure."


def _constant(scores: Mapping[str, _Rows]) -> Iterable[str]:
    """Warn when a yes/no file says one thing throughout, which some scores reward."""
    for rule, rows in scores.items():
        said = {score.parsed for _, score in rows}
        labels = {sample.label for sample, _ in rows}
        if len(rows) > 1 and labels == {"yes", "no"} and len(said) == 1:
            yield f"Every answer is read as {next(iter(said))!r} by the rule {rule!r}."
