"""Fits a logistic curve to measurements of claims, and tells how well a curve ranks them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from halu.logistic import Curve, Term

PENALTY = 1e-3
"""Weight of the squared weights of standardised measurements, per claim."""
STEPS = 200
STILL = 1e-5
"""A measurement that varies by less is left out."""


def fitted(rows: Sequence[Mapping[str, float]], wrong: Sequence[bool], fitted_for: str) -> Curve:
    """The curve with the least penalised log-loss."""
    names = [name for name in rows[0] if np.std([row[name] for row in rows]) > STILL]
    x = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)
    mean, scale = x.mean(0), x.std(0, correction=0)
    x = torch.column_stack([(x - mean) / scale, torch.ones(len(rows), dtype=x.dtype)])
    target = torch.tensor(wrong, dtype=x.dtype)
    with torch.inference_mode(False), torch.enable_grad():
        weights = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
        search = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> float:
            search.zero_grad()
            fit = torch.nn.functional.binary_cross_entropy_with_logits(x @ weights, target)
            penalised = fit + PENALTY * weights[:-1].square().sum()
            penalised.backward()
            return float(penalised.detach())

        search.step(loss)
    *own, bias = (round(value, 6) for value in weights.tolist())
    terms = {
        name: Term(mean=round(m, 6), scale=round(s, 6), weight=w)
        for name, m, s, w in zip(names, mean.tolist(), scale.tolist(), own, strict=True)
    }
    return Curve(fitted_for=fitted_for, claims=len(rows), bias=bias, terms=terms)


def auroc(scores: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """Share of (wrong, right) pairs in which the wrong claim has the higher score; ties half; NaN
    without a pair.
    """
    if not wrong.any() or wrong.all():
        return float("nan")
    right = np.sort(scores[~wrong])
    below = np.searchsorted(right, scores[wrong], "left")
    up_to = np.searchsorted(right, scores[wrong], "right")
    return float((below + up_to).mean() / (2 * len(right)))
