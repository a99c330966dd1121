"""Intervals and comparisons by resampling images, and an exact paired test for yes/no answers.

All questions about one image, and all mentions of one caption, move together, so the image is what
is resampled; counting answers as independent makes intervals too narrow. Two strategies are
compared on the same resamples (paired). Pure numbers in, numbers out.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 200
_LEAST_DEFINED = 0.9
"""Below this share of resamples in which a figure is defined, its interval is not given."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile interval at `LEVEL`."""

    low: float
    high: float


def resample(counts: Array, times: int = RESAMPLES, seed: int = 0) -> Array:
    """Add up the counts of images drawn with replacement.

    Args:
        counts: [strategies, images, k], the same images for every strategy.
        times: how many resamples.
        seed: the same seed and number of images draw the same images.

    Returns:
        [strategies, times, k]; resample i holds the same images for every strategy. One image says
        nothing about spread, so its resamples are empty and every rate of them is undefined.
    """
    strategies, images, width = counts.shape
    if images < 2:
        return np.zeros((strategies, times, width))
    generator = np.random.default_rng(seed)
    side_by_side = np.moveaxis(counts, 0, 1).reshape(images, strategies * width)
    parts = []
    for start in range(0, times, _CHUNK):
        drawn = min(_CHUNK, times - start)
        often = generator.multinomial(images, np.full(images, 1 / images), size=drawn)
        parts.append(often.astype(np.float64) @ side_by_side)  # [drawn, strategies * k]
    return np.moveaxis(np.concatenate(parts).reshape(times, strategies, width), 1, 0)


def interval(values: Array) -> Interval | None:
    """Take the percentile interval of a figure over its resamples; None where mostly undefined."""
    defined = values[np.isfinite(values)]
    if len(defined) < _LEAST_DEFINED * len(values):
        return None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(float(low), float(high))


def bootstrap_p(differences: Array) -> float | None:
    """Compute a paired difference's two-sided p: twice the smaller share of resamples past zero.

    p = 2 min(#(d <= 0) + 1, #(d >= 0) + 1) / (B + 1), at most 1; it inverts the percentile
    interval, and the +1 keeps it above zero (Davison and Hinkley 1997, section 4.2).
    """
    defined = differences[np.isfinite(differences)]
    if len(defined) < _LEAST_DEFINED * len(differences):
        return None
    below, above = int((defined <= 0).sum()), int((defined >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(defined) + 1))


def mcnemar(net: NDArray[np.int64]) -> float:
    """Compute McNemar's exact two-sided p, answers about one image moving together.

    Under no difference an image's answers are as likely to favour one strategy as the other, so the
    sign of each d_k is a fair coin: p = P(|sum s_k |d_k|| >= |sum d_k|) over all sign vectors s.
    The distribution comes from convolving the images' two-point distributions, not from sampling.
    With one question an image it is McNemar's exact binomial test (McNemar 1947). Large-sample
    forms for clusters: Obuchowski 1998 (Statistics in Medicine 17:1495); Durkalski et al. 2003
    (Statistics in Medicine 22:2417).

    Args:
        net: [images] d_k, answers that only the second strategy got right minus those that only the
            first did, over all questions and repeats of an image.
    """
    sizes = np.abs(net[net != 0])
    total, apart = int(sizes.sum()), abs(int(net.sum()))
    if apart == 0:
        return 1.0
    coins = [np.concatenate([[0.5], np.zeros(size - 1), [0.5]]) for size in sizes]
    while len(coins) > 1:  # by halves, so that 9,000 images take no longer than a blink
        odd = coins[len(coins) // 2 * 2 :]
        coins = [np.convolve(one, two) for one, two in zip(coins[::2], coins[1::2], strict=False)]
        coins += odd
    positive = coins[0]  # P(the sizes with a plus sign add up to i)
    tail = float(positive[: (total - apart) // 2 + 1].sum())
    return min(1.0, max(2 * tail, sys.float_info.min))  # 2 ** -1075 is no float


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Adjust several p values by Holm's step-down rule; None stays None and is not counted.

    The i-th smallest of m becomes max over j <= i of (m - j + 1) p_(j), at most 1.
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted
