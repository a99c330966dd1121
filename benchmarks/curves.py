"""Logistic curves and how well scores tell two kinds of claims apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

from halu.logistic import Curve, Term

Scores = NDArray[np.float64]
Wrong = NDArray[np.bool_]

PENALTY = 1e-3
"""Weight of the squared weights of standardised measurements, per claim."""


def fitted(rows: Sequence[Mapping[str, float]], wrong: Sequence[bool], fitted_for: str) -> Curve:
    """The curve with the least penalised log-loss."""
    names = [name for name in rows[0] if np.std([row[name] for row in rows]) > 1e-5]
    x = np.array([[row[name] for name in names] for row in rows])
    mean, scale = x.mean(0), x.std(0)
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    sign = 1 - 2 * np.asarray(wrong, float)

    def loss(w: Scores) -> float:
        fit = np.logaddexp(0, sign * (x @ w)).mean()
        return float(fit + PENALTY * (w[:-1] ** 2).sum())

    weights = minimize(loss, np.zeros(x.shape[1])).x
    terms = {
        name: Term(mean=round(m, 6), scale=round(s, 6), weight=round(w, 6))
        for name, m, s, w in zip(names, mean, scale, weights, strict=False)
    }
    bias = round(float(weights[-1]), 6)
    return Curve(fitted_for=fitted_for, claims=len(rows), bias=bias, terms=terms)


def auroc(scores: Scores, wrong: Wrong) -> float:
    """Share of (wrong, right) pairs in which the wrong claim has the higher score; ties half."""
    ranks, n = rankdata(scores), int(wrong.sum())
    if n in (0, len(wrong)):
        return float("nan")
    return float((ranks[wrong].sum() - n * (n + 1) / 2) / (n * (len(wrong) - n)))


def aupr(scores: Scores, wrong: Wrong) -> float:
    """Average precision, equal scores taken together."""
    if not wrong.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits, last = np.cumsum(wrong[order]), np.append(np.diff(scores[order]) != 0, True)
    hits, count = hits[last], (np.arange(len(scores)) + 1)[last]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / count).sum() / wrong.sum())


def at(threshold: float, scores: Scores, wrong: Wrong) -> dict[str, float]:
    """Precision, recall and share of claims found at a threshold."""
    found = scores >= threshold
    right = int((found & wrong).sum())
    return {
        "precision": right / max(int(found.sum()), 1),
        "recall": right / max(int(wrong.sum()), 1),
        "found": float(found.mean()),
    }


def interval(measure: Any, scores: Scores, wrong: Wrong, owner: NDArray[Any]) -> list[float]:
    """The 95 % bootstrap interval of a measure, pictures resampled."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(owner == one) for one in np.unique(owner)]
    drawn = []
    for _ in range(500):
        index = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        drawn.append(measure(scores[index], wrong[index]))
    return [round(float(edge), 4) for edge in np.nanpercentile(drawn, [2.5, 97.5])]


def reliability(scores: Scores, wrong: Wrong, bins: int = 10) -> list[dict[str, float]]:
    """Mean score and share of wrong claims in bins of equal width, empty ones left out."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    return [
        {
            "score": round(float(scores[place == b].mean()), 4),
            "wrong": round(float(wrong[place == b].mean()), 4),
            "claims": int((place == b).sum()),
        }
        for b in range(bins)
        if (place == b).any()
    ]
