"""CODE: subtract what the model would say if it had read its own description of the picture.

Kim et al., NeurIPS 2024, arXiv:2406.01920. The model first describes the picture greedily; a second
branch has the description in the picture's place. With p and q what the branches say and D = 1/2
sum_v (p_v + q_v) log2(|p_v - q_v|^k + 1), between 0 and 1: s = z + (1 - D) (z - z'), kept where p
>= D max p. So the more the branches agree, the stronger the contrast and the wider the choice
(some write-ups have it the other way round). k 0.7 and at most 512 tokens are the released
script's; its function alone falls back to k 0.2. `alpha` and `beta` scale the contrast and the
cutoff, 1 as published. Each picture has its own description; how it is asked for is worded by us.
mode="paper": the description's tokens alone. mode="official" (IVY-LVLM/CODE): the tokenizer's start
token before them, where it has one. Not reproduced: the second run of the vision tower, a table
written to disk, the unread cd_beta. `halu.enable` cannot write another conversation and refuses.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from halu.rules import Additive
from halu.strategy import Context, Paper, Plan, Step, Strategy, StrategyParams, strategies
from halu.types import Message, Picture, Text

ASK = "Describe this picture so fully that any question about it could be answered from your words."


@strategies.register("code")
class CODE(Strategy):
    """Countering description contrastive decoding."""

    name = "code"
    kind = "prompt"
    paper = Paper(
        short="Countering Description Contrastive Decoding",
        arxiv="2406.01920",
        venue="NeurIPS 2024",
    )
    off = {"alpha": 0.0, "beta": 0.0}

    class Params(StrategyParams):
        """Description and contrast."""

        mode: Literal["paper", "official"] = Field(
            "paper", description="Whether a start token comes before the description (official)."
        )
        k: float = Field(0.7, gt=0, le=10, description="Exponent of the branches' difference.")
        alpha: float = Field(1.0, ge=0, le=5, description="Factor of the adaptive contrast.")
        beta: float = Field(1.0, ge=0, le=1, description="Factor of the adaptive cutoff.")
        describe: str = Field(
            ASK, min_length=1, max_length=2000, description="How a description is asked for."
        )
        describe_tokens: int = Field(
            512, ge=1, le=4096, description="Longest description, in tokens."
        )

    def plan(self, ctx: Context) -> Plan:
        """A second branch that reads descriptions where the pictures were."""
        told = [part for message in ctx.request.messages for part in message.content]
        words = tuple(self._described(ctx, part) for part in told if isinstance(part, Picture))
        branch = ctx.branch(
            "described", words=words, opened=self.params.mode == "official", steered=False
        )
        return Plan(ctx.main, (branch,), Additive((self._contrast,), (self._keep,)))

    def _described(self, ctx: Context, picture: Picture) -> str:
        system = tuple(m for m in ctx.request.messages if m.role == "system")
        asked = Message(role="user", content=(picture, Text(text=self.params.describe)))
        branch = ctx.branch("describing", messages=(*system, asked))
        return ctx.say(branch, self.params.describe_tokens).text

    def _contrast(self, step: Step) -> Tensor:
        p: CODE.Params = self.params
        other = step.rows["described"]
        return p.alpha * (1 - difference(step.main, other, p.k)) * (step.main - other)

    def _keep(self, step: Step) -> Tensor:
        p: CODE.Params = self.params
        likely = torch.softmax(step.main, -1)
        cutoff = p.beta * difference(step.main, step.rows["described"], p.k)
        return likely >= cutoff * likely.max()


def difference(main: Tensor, other: Tensor, k: float) -> Tensor:
    """D of two rows of scores [V]: 0 where they agree, 1 at most."""
    p, q = torch.softmax(main, -1), torch.softmax(other, -1)
    return ((p + q) * torch.log2((p - q).abs() ** k + 1)).sum(-1) / 2
