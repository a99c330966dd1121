"""What scoring an answer file gives: figures by rule, in all and by split, and their JSON form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halu.eval.benchmark import Metric


@dataclass(frozen=True, slots=True)
class Figures:
    """Some answers under one rule: metrics (NaN is undefined) and the counts they come from.

    `unreadable` are answers in which a person finds nothing to score; what only the rule could not
    read stands in its counts, as POPE's `none_yes` and `none_no`.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    n: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer file's figures by rule, in all and by split.

    Several splits together give the figures of all answers pooled, and the benchmark's totals.
    `n` are the answers that any rule counts; one may leave out what another counts, as rules of
    HallusionBench do. `unreadable` are answers that no rule that counts them could read. `metrics`
    tells what each figure is, by name, or by its last part ("coco/mean_f1").
    """

    benchmark: str
    n: int
    unreadable: int
    rules: dict[str, Figures]
    splits: dict[str, dict[str, Figures]]
    metrics: dict[str, Metric]
    warnings: tuple[str, ...] = field(default=())

    def document(self) -> dict[str, Any]:
        """Build the JSON form; undefined is null."""
        return {
            "benchmark": self.benchmark,
            "n": self.n,
            "unreadable": self.unreadable,
            "rules": _plain(self.rules),
            "splits": {name: {"rules": _plain(rules)} for name, rules in self.splits.items()},
            "warnings": list(self.warnings),
        }


def _plain(rules: Mapping[str, Figures]) -> dict[str, Any]:
    return {
        rule: {
            "metrics": {
                name: None if math.isnan(value) else value
                for name, value in figures.metrics.items()
            },
            "counts": figures.counts,
            "n": figures.n,
            "unreadable": figures.unreadable,
        }
        for rule, figures in rules.items()
    }
