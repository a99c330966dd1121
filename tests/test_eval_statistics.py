"""Resampling images, exact tests, correction: against known values and by simulation."""

import math
from itertools import pairwise, product

import numpy as np
import pytest

from halu.eval.benchmark import ratio
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
        found = interval(shares(resample(questions(rng, 80, skill), times=400, seed=trial))[0], 80)
        assert found is not None
        covered += found.low <= skill <= found.high
    assert 0.93 <= covered / trials <= 0.97


def test_intervals_that_ignore_images_would_be_too_narrow() -> None:
    counts = questions(np.random.default_rng(1), 200, 0.8)
    found = interval(shares(resample(counts))[0], 200)
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
        small += (bootstrap_p(second - first, 60) or 1.0) < 0.05
    assert 0.02 <= small / 300 <= 0.09
    better = np.concatenate([questions(rng, 60, 0.6), questions(rng, 60, 0.9)])
    first, second = shares(resample(better))
    p = bootstrap_p(second - first, 60)
    assert p is not None
    assert 2 / 2001 < p < 0.003
    assert bootstrap_p(second - first, 10**9) == pytest.approx(2 / 2001)
    assert bootstrap_p(np.zeros(100), 60) == pytest.approx(1)


def test_mostly_undefined_figures_have_no_interval() -> None:
    values = np.full(100, np.nan)
    values[:20] = 0.5
    assert interval(values, 50) is None
    assert bootstrap_p(values, 50) is None
    values[:95] = 0.5
    assert interval(values, 50) is not None
    assert interval(values, 1) is None


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
def test_mcnemar_with_one_question_an_image_is_the_exact_binomial(
    only_first: int, only_second: int, p: float
) -> None:
    net = np.array([0] * 7 + [-1] * only_first + [1] * only_second)
    assert mcnemar(net) == pytest.approx(p)


def test_mcnemar_agrees_with_scipy_and_takes_many_questions() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy comes with the extra 'eval'")
    net = np.where(np.arange(9000) < 4400, 1, -1)
    assert mcnemar(net) == pytest.approx(stats.binomtest(4400, 9000).pvalue)
    assert 0 < mcnemar(np.ones(9000, int)) < 1e-300


def by_every_sign(net: list[int]) -> float:
    """The definition: the share of sign vectors with a sum at least as far from zero."""
    sizes = [abs(each) for each in net]
    sums = [sum(s * d for s, d in zip(signs, sizes, strict=True)) for signs in
            product((1, -1), repeat=len(sizes))]  # fmt: skip
    return sum(abs(each) >= abs(sum(net)) for each in sums) / len(sums)


@pytest.mark.parametrize(
    "net", [[3], [2, -1], [3, 3, -1, 0], [4, 1, 1, 1, -2], [5, -5, 2, 2, 1, -3, 6, 1]]
)
def test_mcnemar_nets_the_answers_about_one_image(net: list[int]) -> None:
    assert mcnemar(np.array(net)) == pytest.approx(by_every_sign(net))


def test_answers_of_one_image_are_less_evidence_than_as_many_images() -> None:
    assert mcnemar(np.array([6])) == 1
    assert mcnemar(np.ones(6, int)) == 2 / 2**6


def test_tests_of_no_difference_reject_about_as_often_as_they_say() -> None:
    """Two equally good strategies, six questions an image that move together: 1,000 sets."""
    rng = np.random.default_rng(3)
    own = rng.beta(3, 1, size=(1000, 100))
    right = rng.binomial(6, own[None], size=(2, 1000, 100))
    exact = np.mean([mcnemar(net) < 0.05 for net in right[1] - right[0]])
    assert 0.03 <= exact <= 0.06
    counts = np.stack([right, np.full_like(right, 6)], -1).reshape(2000, 100, 2).astype(float)
    first, second = np.split(shares(resample(counts, times=600)), 2)
    p = [bootstrap_p(differences, 100) or 1.0 for differences in second - first]
    assert 0.035 <= np.mean(np.array(p) < 0.05) <= 0.07


def naive(right: np.ndarray) -> float:
    """McNemar's p with every answer taken for independent."""
    only = (
        int(np.maximum(right[1] - right[0], 0).sum()),
        int(np.maximum(right[0] - right[1], 0).sum()),
    )
    return mcnemar(np.repeat([1, -1], only))


def test_mcnemar_without_clusters_would_reject_too_often() -> None:
    rng = np.random.default_rng(4)
    rejected = []
    for _ in range(400):  # a strategy answers all six questions of an image alike
        right = 6 * rng.binomial(1, 0.7, size=(2, 100))
        rejected.append((mcnemar(right[1] - right[0]) < 0.05, naive(right) < 0.05))
    exact, wrong = np.mean(rejected, axis=0)
    assert exact <= 0.06
    assert wrong > 0.2


SETS, IMAGES = 1000, 300


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


def coverage(values: np.ndarray, truth: float, images: int = IMAGES) -> float:
    ends = [interval(each, images) for each in values]
    assert None not in ends
    low, high = np.array([(e.low, e.high) for e in ends if e]).T
    return covered(low, high, truth)


def test_intervals_cover_accuracy_and_f1_of_clustered_answers() -> None:
    """Six questions an image, three of them yes; how good a model is differs by image."""
    rng = np.random.default_rng(5)
    own = rng.beta(4, 1, size=(SETS, IMAGES))  # mean 0.8
    tp, tn = rng.binomial(3, own), rng.binomial(3, own**0.5)  # shares of each
    counts = np.stack([tp, 3 - tn, tn, 3 - tp], -1).astype(float)
    spread = resample(counts, times=500)
    rates = {"accuracy": accuracy, "f1": f1}
    mean_tp, mean_tn = 3 * 4 / 5, 3 * 4 / 4.5
    whole = np.array([mean_tp, 3 - mean_tn, mean_tn, 3 - mean_tp])
    for name, rate in rates.items():
        assert 0.93 <= coverage(rate(spread), float(rate(whole))) <= 0.97, name


def accuracy(counts: np.ndarray) -> np.ndarray:
    return (counts[..., 0] + counts[..., 2]) / counts.sum(axis=-1)


def f1(counts: np.ndarray) -> np.ndarray:
    return 2 * counts[..., 0] / (2 * counts[..., 0] + counts[..., 1] + counts[..., 3])


def test_intervals_cover_chair_i() -> None:
    """Long captions name more and are wrong more often: the ratio of two sums that go together."""
    rng = np.random.default_rng(6)
    hard = rng.beta(1, 4, size=(SETS, IMAGES))  # an image's risk, mean 0.2
    named = rng.poisson(2 + 10 * hard) + 1
    wrong = rng.binomial(named, hard)
    counts = np.stack([wrong, named], -1).astype(float)
    square = 1 * 2 / (5 * 6)  # E[hard ** 2]
    truth = (3 * 0.2 + 10 * square) / (3 + 10 * 0.2)
    assert 0.93 <= coverage(shares(resample(counts, times=500)), truth) <= 0.97


@pytest.mark.parametrize("images", [8, 12, 30])
def test_few_images_are_not_taken_for_many(images: int) -> None:
    """Means of normal values, for which Student's interval is exact."""
    rng = np.random.default_rng(images)
    values = rng.normal(size=(SETS, images))
    counts = np.stack([values, np.ones_like(values)], -1)
    spread = shares(resample(counts))
    assert 0.93 <= coverage(spread, 0.0, images) <= 0.97
    plain = covered(*np.percentile(spread, [2.5, 97.5], axis=1), 0.0)
    assert plain < coverage(spread, 0.0, images)
    rejected = np.mean([(bootstrap_p(each, images) or 1) < 0.05 for each in spread])
    assert 0.03 <= rejected <= 0.07


def test_one_image_says_nothing_about_spread() -> None:
    assert (
        interval(ratio(*np.moveaxis(resample(np.ones((1, 1, 2)), times=50)[0], -1, 0)), 1) is None
    )


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
