"""RITUAL: add what the model says about a randomly transformed copy of the picture.

Woo et al., arXiv:2405.17821. s = z + alpha z', kept where z >= max z + ln beta; one of six
transforms per request. Under greedy decoding with an identical second branch this is plain
decoding; under sampling it is sampling at temperature 1 / (1 + alpha), so compare with greedy as
well. RITUAL+ (the model picks the transform) is described in the paper but is not in the released
code; `transform` names one by hand.
"""

from typing import Literal

from pydantic import Field

from halu.rules import Additive, Cutoff, plausible, towards
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies
from halu.views import transformed


@strategies.register("ritual")
class Ritual(Strategy):
    """Random image transformations."""

    name = "ritual"
    kind = "image"
    paper = Paper(short="RITUAL", arxiv="2405.17821", venue="arXiv 2024")
    off = {"alpha": 0.0, "beta": 0.0}

    class Params(StrategyParams):
        """Equation 4."""

        alpha: float = Field(3.0, ge=0, le=10, description="Weight of the transformed picture.")
        beta: Cutoff = 0.1
        transform: Literal[
            "random",
            "horizontal_flip",
            "vertical_flip",
            "rotate",
            "color_jitter",
            "gaussian_blur",
            "crop",
        ] = Field("random", description="Which transform; random draws one per request.")

    def plan(self, ctx: Context) -> Plan:
        """A second branch on the transformed picture."""
        p = self.params
        turned = ctx.branch("transformed", image=transformed(p.transform, ctx.rng))
        return Plan(
            ctx.main, (turned,), Additive((towards("transformed", p.alpha),), plausible(p.beta))
        )
