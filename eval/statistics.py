"""Intervals and comparisons by resampling images, and an exact paired test for yes/no answers.

All questions about one image, and all mentions of one caption, move together, so the image is what
is resampled; counting answers as independent makes intervals too narrow. Two strategies are
compared on the same resamples (paired). Pure numbers in, numbers out.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 200
_NORMAL = NormalDist()
_LEAST_DEFINED = 0.9
"""Below this share of resamples in which a figure is defined, its interval is not given."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval at `LEVEL`."""

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


def interval(values: Array, images: int) -> Interval | None:
    """Take the expanded percentile interval of a figure over its resamples.

    A percentile interval is too narrow for few images. Its tails are chosen so that for a mean it
    would be as wide as Student's: alpha' / 2 = Phi(-sqrt(n / (n - 1)) t(1 - alpha / 2; n - 1))
    (Hesterberg 2015, The American Statistician 69:371).

    Args:
        values: [resamples] the figure.
        images: how many there are, n.

    Returns:
        None where the figure is mostly undefined.
    """
    defined = values[np.isfinite(values)]
    if len(defined) < _LEAST_DEFINED * len(values) or images < 2:
        return None
    t = _student(_NORMAL.inv_cdf((1 + LEVEL) / 2), images - 1)
    tail = 100 * _NORMAL.cdf(-math.sqrt(images / (images - 1)) * t)
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Interval(float(low), float(high))


def bootstrap_p(differences: Array, images: int) -> float | None:
    """Compute a paired difference's two-sided p from the share of resamples past zero.

    With p' = 2 min(#(d <= 0) + 1, #(d >= 0) + 1) / (B + 1), at most 1 (Davison and Hinkley 1997,
    section 4.2), the rest is the inverse of `interval`'s expansion, so that both agree.
    """
    defined = differences[np.isfinite(differences)]
    if len(defined) < _LEAST_DEFINED * len(differences) or images < 2:
        return None
    below, above = int((defined <= 0).sum()), int((defined >= 0).sum())
    share = min(1.0, 2 * (min(below, above) + 1) / (len(defined) + 1))
    t = -_NORMAL.inv_cdf(share / 2) * math.sqrt((images - 1) / images)
    return 2 * _NORMAL.cdf(-_normal(t, images - 1))


def _normal(t: float, freedom: int) -> float:
    """Map Student's t to the normal deviate of the same tail (Wallace 1959)."""
    return _wallace(freedom) * math.sqrt(freedom * math.log1p(t * t / freedom))


def _student(z: float, freedom: int) -> float:
    """Map a normal deviate to Student's t of the same tail, the inverse of `_normal`."""
    return math.sqrt(freedom * math.expm1((z / _wallace(freedom)) ** 2 / freedom))


def _wallace(freedom: int) -> float:
    return (8 * freedom + 1) / (8 * freedom + 3)


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
