"""PAI: raise the scores of the picture's keys, and move away from what the text alone would say.

Liu et al., ECCV 2024, arXiv:2407.21771. In layers [start_layer, end_layer), all heads, for the
prompt's last row and every generated token: x + alpha |x| on picture keys before softmax, slope 1 +
alpha for positive and 1 - alpha for negative scores, so those rise too. Guidance: gamma lc + (1 -
gamma) lu with lc with and lu without picture (never steered), kept where p >= beta max p under lc;
gamma 1 has neither second branch nor cutoff. Alpha 0.2, gamma 1.1 and layers [2, L) are the
released README's; the command line's own gamma is 2, a fork uses alpha 0.5 for LLaVA.
mode="paper": the boost acts from the prompt's row on. mode="official" (LALBJ/PAI): with guidance on
it starts at the second token, so a one-word answer comes from guidance alone. Not reproduced:
guidance asked for with gamma 1, which leaves the boost off for good; the text branch's cache under
beams; "USER:" glued to the system message; key heads taken for query heads.
"""

import torch
from pydantic import Field

from halu.attention.boost import Boost
from halu.attention.policy import Rows
from halu.layers import layers_between
from halu.prompt import Prompt
from halu.rules import Cutoff, Guidance, guided
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("pai")
class PAI(Strategy):
    """Pay attention to image."""

    name = "pai"
    kind = "attention"
    paper = Paper(short="Pay Attention to Image", arxiv="2407.21771", venue="ECCV 2024")
    off = {"alpha": 0.0, "gamma": 1.0}

    class Params(StrategyParams):
        """Boost and guidance."""

        mode: Mode = "paper"
        alpha: float = Field(0.2, ge=0, le=2, description="Boost of the picture's scores.")
        gamma: Guidance = 1.1
        beta: Cutoff = 0.1
        start_layer: int = Field(2, ge=0, le=1000, description="First boosted layer.")
        end_layer: int | None = Field(
            None, ge=0, le=1000, description="Layer before which the boost ends; none: all."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch boosted, and a second branch without the picture."""
        p = self.params
        layers = layers_between(p.start_layer, p.end_layer, ctx.model.layers)
        rows: Rows = "decode" if p.gamma > 1 and p.mode == "official" else "last"

        def make(prompt: Prompt) -> Boost:
            labels = torch.from_numpy(prompt.layout.is_image()).long()
            return Boost(labels, [p.alpha], layers, rows)

        policies = (make,) if p.alpha else ()
        return guided(Plan(ctx.main, policies=policies), ctx, p.gamma, p.beta)
