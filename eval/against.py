"""A metric against greedy's on the same samples: difference, interval, p value, verdict.

Numbers in, `Delta`s out; which strategies and which captions are compared is up to the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halu.eval.benchmark import Metric
from halu.eval.statistics import Array, bootstrap_p, holm, interval, mcnemar
from halu.types import Record

ALPHA = 0.05

Verdict = Literal["better", "worse", "higher", "lower", "no difference"]
Test = Literal["mcnemar", "bootstrap"]


class Delta(Record):
    """A metric minus greedy's on the same samples.

    `p` is of a single comparison, `p_holm` adjusted for the number of strategies compared; the
    verdict goes by `p_holm`. `test` "mcnemar" is the exact test by images of `statistics.mcnemar`.
    """

    delta: float | None
    ci: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    test: Test
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Single:
    """One comparison, before it is adjusted for the others."""

    delta: float | None
    ci: tuple[float, float] | None
    p: float | None
    test: Test


def single(
    values: Array, spread: Array, images: int, net: NDArray[np.int64] | None = None
) -> Single:
    """Compare a strategy with greedy.

    Args:
        values: [2] greedy's figure and the strategy's.
        spread: [2, resamples] the same figures over the same resamples.
        images: how many were resampled.
        net: [images] net answers won, for shares of right answers; None for any other figure.
    """
    differences = spread[1] - spread[0]
    p = bootstrap_p(differences, images) if net is None else mcnemar(net)
    test: Test = "bootstrap" if net is None else "mcnemar"
    return Single(number(values[1] - values[0]), ends(differences, images), p, test)


def judged(metric: Metric, singles: Sequence[Single]) -> list[Delta]:
    """Adjust one metric's comparisons for how many there are, and give verdicts."""
    adjusted = holm([one.p for one in singles])
    return [
        Delta(
            delta=one.delta,
            ci=one.ci,
            p=one.p,
            p_holm=p,
            test=one.test,
            verdict=_verdict(metric, one.delta, p),
        )
        for one, p in zip(singles, adjusted, strict=True)
    ]


def number(value: float) -> float | None:
    """None for what is not defined."""
    return float(value) if np.isfinite(value) else None


def ends(values: Array, images: int) -> tuple[float, float] | None:
    """Both ends of the interval of a figure over its resamples."""
    found = interval(values, images)
    return None if found is None else (found.low, found.high)


def _verdict(metric: Metric, delta: float | None, p: float | None) -> Verdict:
    if delta is None or p is None or p >= ALPHA or delta == 0:
        return "no difference"
    if metric.better == "neither":
        return "higher" if delta > 0 else "lower"
    return "better" if (delta > 0) == (metric.better == "higher") else "worse"
