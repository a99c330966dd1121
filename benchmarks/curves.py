"""How well scores tell two kinds of claims apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Wrong = NDArray[np.bool_]


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
