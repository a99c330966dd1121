"""M3ID: the longer the answer, the more weight on what the picture adds to the text alone.

Favero et al., CVPR 2024, arXiv:2403.14003 (no official code). With gamma_t = exp(-lam (t + t0)) and
log-probabilities lc with and lu without the picture: l* = lc + [max lc < ln confident] (1 -
gamma_t) / gamma_t (lc - lu)  (Eq. 4, Alg. 1). mode="official" is the re-implementation that
published comparisons use (RITUAL's repository): raw scores, no gate, t0 = 0, and the plausibility
cutoff beta; its weight is 0 at the first token, so one-word answers equal plain decoding with a
cutoff. The weight grows without bound (53.6 at t = 200 for lam 0.02), which shows on long captions.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from halu.rules import Additive, plausible
from halu.strategy import Context, Paper, Plan, Step, Strategy, StrategyParams, strategies


@strategies.register("m3id")
class M3ID(Strategy):
    """Multi-modal mutual information decoding."""

    name = "m3id"
    kind = "prompt"
    paper = Paper(
        short="Multi-Modal Mutual-Information Decoding", arxiv="2403.14003", venue="CVPR 2024"
    )
    off = {"lam": 0.0, "beta": 0.0}

    class Params(StrategyParams):
        """Equation 4."""

        mode: Literal["paper", "official"] = Field(
            "paper", description="The paper's rule, or the usual re-implementation."
        )
        lam: float = Field(
            0.02, ge=0, le=1, description="How fast the weight grows with the answer's length."
        )
        confident: float = Field(
            0.3, gt=0, le=1, description="Paper: correct only where no token is this likely."
        )
        t0: float = Field(
            0.0,
            ge=0,
            le=100,
            description="Paper: head start of the weight; 10 for yes/no questions.",
        )
        beta: float = Field(
            0.1,
            ge=0,
            le=1,
            description="Official: keep tokens at least this likely, relative to the best.",
        )

    def plan(self, ctx: Context) -> Plan:
        """A second branch without the picture."""
        p = self.params
        blind = ctx.branch("blind", blind=True, steered=False)
        if p.mode == "paper":
            return Plan(ctx.main, (blind,), Additive((self._gated,)))
        return Plan(ctx.main, (blind,), Additive((self._grown,), plausible(p.beta)))

    def _grown(self, step: Step) -> Tensor:
        return self._weight(step.index) * (step.main - step.rows["blind"])

    def _gated(self, step: Step) -> Tensor:
        with_picture = torch.log_softmax(step.main, -1)
        without = torch.log_softmax(step.rows["blind"], -1)
        if with_picture.max() >= math.log(self.params.confident):
            return torch.zeros_like(with_picture)
        return self._weight(step.index + self.params.t0) * (with_picture - without)

    def _weight(self, length: float) -> float:
        """e^(lam length) - 1, held where float32 can still carry its product with a row."""
        return math.expm1(min(self.params.lam * length, 40.0))
