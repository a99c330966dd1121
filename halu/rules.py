"""Row algebra shared by the strategies: what is added to the main row, and which tokens stay
eligible.

Rows are raw scores [V] in float32. Most published rules are `main + something`, so that several can
be added; a constant added to a row changes nothing after softmax, so scores and log-probabilities
are interchangeable.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from halu.strategy import Context, Plan, Rule, Step

Term = Callable[[Step], Tensor]
Keep = Callable[[Step], Tensor]


Cutoff = Annotated[
    float, Field(ge=0, le=1, description="Keep tokens at least this likely, relative to the best.")
]
"""The parameter of `plausible`."""
Guidance = Annotated[
    float, Field(ge=1, le=5, description="Weight of guidance away from the text alone; 1 is none.")
]
"""The weight in `guided`."""


@dataclass(frozen=True, slots=True)
class Additive:
    """The rule s = main + sum of terms, with -inf where any `keep` says no. Two of them add up to
    one.
    """

    terms: tuple[Term, ...] = ()
    keeps: tuple[Keep, ...] = ()

    def __call__(self, step: Step) -> Tensor:
        """The combined row [V]."""
        row = step.main
        for term in self.terms:
            row = row + term(step)
        for keep in self.keeps:
            row = row.masked_fill(~keep(step), float("-inf"))
        return row

    def __add__(self, other: "Additive") -> "Additive":
        return Additive(self.terms + other.terms, self.keeps + other.keeps)


def against(branch: str, alpha: float) -> Term:
    """Contrast, alpha (z - z'): with the main row this is (1 + alpha) z - alpha z' (VCD, arXiv
    2311.16922, Eq. 3).
    """
    return lambda step: alpha * (step.main - step.rows[branch])


def towards(branch: str, alpha: float) -> Term:
    """Support, alpha z': a product of experts p q^alpha (RITUAL, arXiv 2405.17821, Eq. 4; AGLA,
    arXiv 2406.12718).
    """
    return lambda step: alpha * step.rows[branch]


def plausible(beta: float, least: int = 1) -> tuple[Keep, ...]:
    """Keep tokens with p >= beta max p under the main row (Li et al., arXiv 2210.15097), but never
    fewer than the `least` most likely; beta 0 keeps all.
    """
    if beta == 0:
        return ()

    def keep(step: Step) -> Tensor:
        best = step.main.topk(min(least, len(step.main))).values
        return step.main >= torch.minimum(best[0] + math.log(beta), best[-1])

    return (keep,)


def guided(plan: Plan, ctx: Context, gamma: float, beta: float) -> Plan:
    """The plan of a steered main branch, guided away from the text alone: gamma lc + (1 - gamma) lu
    with lc with and lu without picture (PAI, arXiv 2407.21771), kept where `plausible` says so.

    The second branch is never steered; gamma 1 has neither it nor the cutoff.
    """
    if gamma == 1:
        return plan
    text = ctx.branch("text_only", blind=True, steered=False)
    rule = Additive((against("text_only", gamma - 1),), plausible(beta))
    return replace(plan, extra=(text,), rule=rule)


def mixture(weights: Mapping[str, float]) -> Rule:
    """Mixture of probabilities, log of (p + sum of w q) / (1 + sum of w), with each branch's q by
    its weight; it replaces the scores.
    """

    def rule(step: Step) -> Tensor:
        rows = [step.main, *(step.rows[name] for name in weights)]
        shares = step.main.new_tensor([1.0, *weights.values()])
        logs = torch.log_softmax(torch.stack(rows), -1) + (shares / shares.sum()).log()[:, None]
        return torch.logsumexp(logs, 0)

    return rule


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats between rows of scores [..., V]; 0 where they agree after
    softmax.
    """
    p, q = torch.softmax(a, -1), torch.softmax(b, -1)
    middle = ((p + q) / 2).clamp(min=1e-30).log()
    return 0.5 * (_kl(p, middle) + _kl(q, middle))


def _kl(p: Tensor, log_q: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - p * log_q).sum(-1)
