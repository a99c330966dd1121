"""VCD: subtract what the model would say about a ruined copy of the picture.

Leng et al., CVPR 2024, arXiv:2311.16922. s = (1 + alpha) z - alpha z', kept where z >= max z + ln
beta (Eq. 3, 5). The ruined copy is the normalised pixels after `noise` steps of forward diffusion,
one draw per request. Paper and released code agree in the arithmetic. The code's command line has
alpha 1, beta 0.1, step 500 (its POPE script beta 0.2); the released InstructBLIP script silently
runs alpha 0.5. The code switches itself off under greedy decoding and beams; ours does not.
"""

from pydantic import Field

from halu.rules import Additive, Cutoff, against, plausible
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies
from halu.views import diffused


@strategies.register("vcd")
class VCD(Strategy):
    """Visual contrastive decoding."""

    name = "vcd"
    kind = "image"
    paper = Paper(short="Visual Contrastive Decoding", arxiv="2311.16922", venue="CVPR 2024")
    off = {"alpha": 0.0, "beta": 0.0}

    class Params(StrategyParams):
        """Equation 3 and 5."""

        alpha: float = Field(
            1.0, ge=0, le=5, description="Weight of the contrast with the ruined picture."
        )
        beta: Cutoff = 0.1
        noise: int = Field(500, ge=0, le=999, description="Diffusion step of the ruined picture.")

    def plan(self, ctx: Context) -> Plan:
        """A second branch on the ruined picture."""
        p = self.params
        ruined = ctx.branch("ruined", pixels=diffused(p.noise, ctx.rng), steered=False)
        return Plan(ctx.main, (ruined,), Additive((against("ruined", p.alpha),), plausible(p.beta)))
