"""What a benchmark is: it lists samples, scores one answer, and turns counts into metrics.

It does not know which model or strategy answers, nor how answers are stored. A metric is a function
of counts that add up over the images of a resample, so every interval and every comparison can be
computed again from the counts kept in `rows.jsonl`, and the image is the unit that is resampled.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.errors import Unknown
from halu.registry import Registry

Counts = NDArray[np.float64]
"""Added-up counts, last axis in the order of `Benchmark.counts`; any leading axes."""

Value = TypeVar("Value", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one picture, which is also what statistics resample, as a whole.

    `category` is what the question is about, for figures by category: the object's name in POPE.
    `detail` is what the benchmark's own `score` needs beyond the label; rows do not keep it.
    `cluster` is what is tallied and resampled where that is more than one picture.
    """

    id: str
    split: str
    image: str | None
    prompt: str
    label: str | tuple[str, ...]
    category: str | None = None
    detail: object = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of the answer that names `name`; `wrong` when the picture does not hold it.

    `word` is what the rules reduced the stretch to before they looked it up ("tied" to "tie").
    """

    start: int
    stop: int
    name: str
    wrong: bool
    word: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """How one answer did: `value` from 0 to 1 (best); None is unreadable, which is not wrong.

    `counts` follow the published rule to the letter, also for an answer that a person would call
    unreadable, so that the metrics are the published ones.
    """

    parsed: str | tuple[str, ...]
    value: float | None
    counts: Mapping[str, int]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a benchmark and how to read it.

    `hits` names the counts that mean success; a metric that has them is a share of successes of
    single answers, for which McNemar's exact test applies; `tally` must add them up.
    """

    name: str
    better: Literal["higher", "lower", "neither"]
    meaning: str
    unit: Literal["share", "number"] = "share"
    hits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Total:
    """A published figure over several splits: their sum (MME's perception) or mean.

    `over` names splits by the part after the slash; each data set before the slash has its own.
    """

    name: str
    metric: str
    over: tuple[str, ...]
    how: Literal["sum", "mean"]
    meaning: str

    def of(self, splits: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
        """Compute it from the metrics of splits, for each data set that has all that it needs."""
        sets: dict[str, dict[str, Value]] = {}
        for split, metrics in splits.items():
            source, slash, kind = split.rpartition("/")
            if kind in self.over:
                sets.setdefault(source + slash, {})[kind] = metrics[self.metric]
        whole = {source: parts for source, parts in sets.items() if len(parts) == len(self.over)}
        share = len(self.over) if self.how == "mean" else 1
        several = len({split.rpartition("/")[0] for split in splits}) > 1
        return {
            f"{source if several else ''}{self.name}": reduce(add, parts.values()) / share
            for source, parts in whole.items()
        }


class Benchmark(Protocol):
    """A named, versioned set of questions with its published scoring.

    It may also have `totals`, figures over several splits (`totals_of`), `doubts`, what is not as
    published in the samples of a data folder (`doubts_of`), and `known_rules`, all by which it can
    score (`under`).
    """

    @property
    def name(self) -> str:
        """Registered name."""

    @property
    def about(self) -> str:
        """What it asks and where it comes from, in a line."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of its splits; of several data sets, the part after the slash."""

    @property
    def version(self) -> int:
        """Raised whenever a score could move."""

    @property
    def rules(self) -> str:
        """Name of the published rules that read an answer."""

    @property
    def builtin(self) -> bool:
        """Whether it lives in halu's built-in world and needs no data folder."""

    @property
    def judged(self) -> bool:
        """Whether a judge model scores its answers; such a one fulfils `judge.Judged`."""

    @property
    def suffix(self) -> str:
        """What is appended to every question unless a run says otherwise."""

    @property
    def max_new_tokens(self) -> int:
        """Token limit of an answer unless a run says otherwise."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics, the most important first."""

    @property
    def counts(self) -> tuple[str, ...]:
        """Names of the counts, in the order of the last axis of `Counts`."""

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the samples, at most `limit` a split; a smaller limit gives a prefix."""

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Load or draw the picture of that id."""

    def score(self, sample: Sample, text: str) -> Score:
        """Read and score one answer."""

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up the counts of one image's answers (here something may depend on all of them)."""

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute every metric from added-up counts; NaN where it is undefined."""


def totals_of(benchmark: Benchmark) -> tuple[Total, ...]:
    """List the published figures over several splits; most benchmarks have none."""
    found: tuple[Total, ...] = getattr(benchmark, "totals", ())
    return found


def doubts_of(benchmark: Benchmark, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Say what makes samples something else than the published ones, such as an older file."""
    doubts: Callable[[Sequence[Sample]], Iterable[str]] = getattr(benchmark, "doubts", _none)
    return tuple(doubts(samples))


def rules_of(benchmark: Benchmark) -> tuple[str, ...]:
    """List the published rules by which it can score; most benchmarks have the one."""
    found: tuple[str, ...] = getattr(benchmark, "known_rules", (benchmark.rules,))
    return found


def under(benchmark: Benchmark, rule: str) -> Benchmark:
    """The same benchmark, scoring by another of its rules.

    Raises:
        Unknown: if it does not have that rule.
    """
    if rule not in rules_of(benchmark):
        kind = f"rule of {benchmark.name}"
        raise Unknown(kind, rule, rules_of(benchmark), param="--rules")
    ruled: Any = benchmark
    found: Benchmark = ruled if rule == benchmark.rules else replace(ruled, rules=rule)
    return found


def _none(samples: Sequence[Sample]) -> Iterable[str]:
    return ()


benchmarks: Registry[Benchmark] = Registry("benchmark", "halu.eval", "halu.benchmarks")


def chosen(known: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """Those of the `known` splits that are `asked` for, by name or by the part after a slash.

    Raises:
        Unknown: for a split that does not exist.
    """
    if asked is None:
        return list(known)
    for name in asked:
        if not any(name in (split, split.rpartition("/")[2]) for split in known):
            raise Unknown("split", name, known)
    return [split for split in known if {split, split.rpartition("/")[2]} & set(asked)]


def summed(names: Sequence[str], counts: Iterable[Mapping[str, int]]) -> list[float]:
    """Add counts up by name: the `tally` of a benchmark whose answers count one by one."""
    total = dict.fromkeys(names, 0)
    for row in counts:
        for name, number in row.items():
            total[name] += number
    return [float(number) for number in total.values()]


def ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; NaN, "undefined", where the denominator is zero (official scripts crash there)."""
    result: NDArray[np.float64] = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=result, where=np.asarray(bottom) != 0)
    return result
