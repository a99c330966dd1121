"""Resampling images, exact tests, correction: against known values and by simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest

from halu.eval.statistics import bootstrap_p, holm, interval, mcnemar, resample


def shares(counts: np.ndarray) -> np.ndarray:
    return counts[..., 0] / counts[..., 1]


def questions(rng: np.random.Generator, images: int, skill: float) -> np.ndarray:
    """[1, images, 2] right and asked: six questions an image, right ones in clusters."""
    own = rng.beta(4 * skill, 4 * (1 - skill), size=images)
    return np.stack([rng.binomial(6, own), np.full(images, 6)], -1)[None].astype(float)


def test_resamples_hold_whole_images_the_same_for_every_strategy() -> None:
    counts = np.random.default_rng(0).integers(0, 5, (1, 30, 3)).astype(float)
    pair = resample(np.concatenate([counts, 2 * counts]), times=450, seed=3)
    assert pair.shape == (2, 450, 3)
    assert np.array_equal(pair[1], 2 * pair[0])
    assert np.array_equal(pair[:1], resample(counts, times=450, seed=3))
    assert not np.array_equal(pair[:1], resample(counts, times=450, seed=4))
    ones = resample(np.ones((1, 30, 1)), times=50)
    assert (ones == 30).all()


def test_intervals_cover_what_they_say() -> None:
    rng = np.random.default_rng(7)
    skill, covered, trials = 0.8, 0, 500
    for trial in range(trials):
        found = interval(shares(resample(questions(rng, 80, skill), times=400, seed=trial))[0])
        assert found is not None
        covered += found.low <= skill <= found.high
    assert 0.93 <= covered / trials <= 0.97


def test_intervals_that_ignore_images_would_be_too_narrow() -> None:
    counts = questions(np.random.default_rng(1), 200, 0.8)
    found = interval(shares(resample(counts))[0])
    share = float(counts[0, :, 0].sum() / counts[0, :, 1].sum())
    naive = 2 * 1.96 * math.sqrt(share * (1 - share) / (6 * 200))
    assert found is not None
    assert found.high - found.low > 1.2 * naive


def test_paired_p_is_small_for_a_real_difference_and_uniform_without_one() -> None:
    rng = np.random.default_rng(2)
    small = 0
    for trial in range(300):
        pair = np.concatenate([questions(rng, 60, 0.8), questions(rng, 60, 0.8)])
        first, second = shares(resample(pair, times=300, seed=trial))
        small += (bootstrap_p(second - first) or 1.0) < 0.05
    assert 0.02 <= small / 300 <= 0.09
    better = np.concatenate([questions(rng, 60, 0.6), questions(rng, 60, 0.9)])
    first, second = shares(resample(better))
    p = bootstrap_p(second - first)
    assert p == pytest.approx(2 / 2001)
    assert bootstrap_p(np.zeros(100)) == 1


def test_mostly_undefined_figures_have_no_interval() -> None:
    values = np.full(100, np.nan)
    values[:20] = 0.5
    assert interval(values) is None
    assert bootstrap_p(values) is None
    values[:95] = 0.5
    assert interval(values) is not None


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 32),
        (2, 10, 2 * (1 + 12 + 66) / 4096),
        (10, 2, 158 / 4096),
    ],
)
def test_mcnemar_is_the_exact_binomial(only_first: int, only_second: int, p: float) -> None:
    both = 7
    first = np.array([True] * (both + only_first) + [False] * only_second)
    second = np.array([True] * both + [False] * only_first + [True] * only_second)
    assert mcnemar(first, second) == pytest.approx(p)


def test_mcnemar_agrees_with_scipy_and_takes_many_questions() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the extra 'eval'")
    first = np.arange(9000) < 4400
    second = ~first
    expected = stats.binomtest(4400, 9000).pvalue
    assert mcnemar(first, second) == pytest.approx(expected)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
    ]
    assert holm([None, 0.2, None]) == [None, 0.2, None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    values = sorted(np.random.default_rng(0).random(9))
    adjusted = [p for p in holm(values) if p is not None]
    assert all(after >= before for before, after in pairwise(adjusted))
    assert all(after >= before for before, after in zip(values, adjusted, strict=True))
