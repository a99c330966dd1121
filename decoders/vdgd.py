"""VDGD: describe the picture first, then say what is close to something in the description.

Ghosh et al., ICLR 2025, arXiv:2405.15683. The model writes a description of the picture for this
question by plain decoding, with rows D_j; the answer is decoded after "description + question". In
each step a few candidates k stay, and their scores are replaced by -min_j KL(onehot(k) || p_j) =
max_j log p_j(k), p_j = softmax D_j; everything else is -inf. reduction: "min" (the released command
line's) over the description's tokens, or their mean "avg" (its README's), or "sum". candidates:
"nucleus" of mass `top_p` under the answer's row at `temperature`, as released, or "knee": the k
best before the greatest drop in probability, as a later paper restates the method. kl_scale: "repo"
divides the scores by the vocabulary's size, as the released code (Sreyan88/VDGD) does by a mean it
did not mean, so that a draw among the candidates is nearly uniform; the best stays the best.
This rule only gives scores; the request's sampling decides. The released code always draws at
temperature 1; at temperature 0 halu takes the best, as the paper's text wants it. Ours: the wording
of the request for a description, which the paper leaves to a template; several attention methods
may steer the answer (vdgd+var), never the description. Not reproduced: a fresh prompt for every
token, and the debiased description, whose contrast row is the same at every step.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from halu.conversation import before, instead, question_of
from halu.search import filtered
from halu.strategy import Context, Paper, Plan, Step, Strategy, StrategyParams, strategies
from halu.types import Sampling

DESCRIBE = (
    "Someone who cannot see the image must later do this: {question}\n"
    "Do not answer yet. Describe everything in the image that could matter for it, in detail: the"
    " objects, their number, colours, places and actions; any text as it is written; and the"
    " labels, values and axes of charts or tables."
)


@strategies.register("vdgd")
class VDGD(Strategy):
    """Visual description grounded decoding."""

    name = "vdgd"
    kind = "logits"
    paper = Paper(
        short="Visual Description Grounded Decoding", arxiv="2405.15683", venue="ICLR 2025"
    )
    off = {"describe_tokens": 0}
    rewrites = True

    class Params(StrategyParams):
        """The description, the candidates and their scores."""

        reduction: Literal["min", "avg", "sum"] = Field(
            "min", description="Of the divergence from the description's tokens."
        )
        kl_scale: Literal["paper", "repo"] = Field(
            "paper", description="As it is, or divided by the vocabulary's size as released."
        )
        candidates: Literal["nucleus", "knee"] = Field(
            "nucleus", description="Which tokens may be said."
        )
        top_p: float = Field(0.5, gt=0, le=1, description="Nucleus: mass of the candidates.")
        temperature: float = Field(0.5, gt=0, le=5, description="Nucleus: under this temperature.")
        describe_tokens: int = Field(
            1024, ge=0, le=8192, description="Longest description; 0: none, plain decoding."
        )
        describe: str = Field(
            DESCRIBE,
            min_length=1,
            max_length=4000,
            description="How a description is asked for; {question} stands for the question.",
        )
        prefix: str = Field(
            "The input image is described as follows:",
            max_length=1000,
            description="What comes before the description in the answer's prompt.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch after the description, its scores replaced by nearness to it."""
        p = self.params
        if not p.describe_tokens:
            return Plan(ctx.main)
        messages = ctx.request.messages
        wish = p.describe.replace("{question}", question_of(messages))
        asked = ctx.branch("description", messages=instead(messages, wish), steered=False)
        near = Nearness(p.reduction, p.kl_scale)
        said = ctx.say(asked, p.describe_tokens, each=near.hear)
        main = ctx.branch("main", messages=before(messages, f"{p.prefix} {said.text}".strip()))
        scores = near.scores

        def rule(step: Step) -> Tensor:
            return torch.where(self._candidates(step.main), scores, float("-inf"))

        return Plan(main, rule=rule)

    def _candidates(self, row: Tensor) -> Tensor:
        """True for each token [V] that may be said."""
        p = self.params
        if p.candidates == "knee":
            return knee(row)
        nucleus = Sampling(temperature=p.temperature, top_p=p.top_p)
        return filtered(row, nucleus, ()).isfinite()


class Nearness:
    """For each token [V] minus the reduced divergence of its one-hot from the rows heard so far."""

    def __init__(self, reduction: str, kl_scale: str) -> None:
        self.reduction = reduction
        self.kl_scale = kl_scale
        self.heard = 0
        self.total = torch.zeros(())

    def hear(self, row: Tensor) -> None:
        """One more row [V]."""
        # The least divergence is the best.
        join = torch.maximum if self.reduction == "min" else torch.add
        near = torch.log_softmax(row, -1)
        self.total = join(self.total, near) if self.heard else near
        self.heard += 1

    @property
    def scores(self) -> Tensor:
        """The scores [V] of all tokens."""
        total = self.total / self.heard if self.reduction == "avg" else self.total
        return total / total.shape[-1] if self.kl_scale == "repo" else total


def knee(row: Tensor) -> Tensor:
    """True for each token [V] before the greatest drop in probability, the likeliest first."""
    p, order = torch.softmax(row, -1).sort(descending=True)
    count = int((p[:-1] - p[1:]).argmax()) + 1
    return torch.zeros_like(row, dtype=torch.bool).index_fill(0, order[:count], True)
