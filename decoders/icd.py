"""ICD: subtract what the model would say if it were told to be confused.

Wang et al., ACL Findings 2024, arXiv:2403.18715. s = (1 + alpha) z - alpha z', kept where z >= max
z + ln beta, as VCD; z' comes from the same picture and question under a disturbing system message,
which replaces the conversation's own or, where there is none, is put in front. So does the released
LLaVA code (p1k0pan/ICD); for models with a Q-Former it goes there instead. Paper and code agree in
the arithmetic. The code stores five strings apart (two of them helpful) and does not say which one
the tables used: ours is one of the three that disturb. `icd+vcd` is z + alpha (z - z') + alpha (z -
z''); the code adds the two finished rows, 2 (1 + alpha) z - alpha (z' + z''), twice what `icd+vcd`
gives with both alphas halved: the same under greedy decoding, half the temperature under sampling.
`halu.enable` cannot rewrite the host's conversation and refuses. The released sampler's misspelt
import is not reproduced.
"""

from pydantic import Field

from halu.rules import Additive, Cutoff, against, plausible
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies
from halu.types import Message, Text

CONFUSED = (
    "You are a confused objects detector to provide a fuzzy overview or impression of the image."
)


@strategies.register("icd")
class ICD(Strategy):
    """Instruction contrastive decoding."""

    name = "icd"
    kind = "prompt"
    paper = Paper(
        short="Instruction Contrastive Decoding", arxiv="2403.18715", venue="ACL Findings 2024"
    )
    off = {"alpha": 0.0, "beta": 0.0}

    class Params(StrategyParams):
        """Contrast and disturbance."""

        alpha: float = Field(
            1.0, ge=0, le=5, description="Weight of the contrast with the disturbed instruction."
        )
        beta: Cutoff = 0.1
        disturbance: str = Field(
            CONFUSED, min_length=1, max_length=2000, description="The disturbing system message."
        )

    def plan(self, ctx: Context) -> Plan:
        """A second branch under the disturbing system message."""
        p = self.params
        told = Message(role="system", content=(Text(text=p.disturbance),))
        others = tuple(m for m in ctx.request.messages if m.role != "system")
        disturbed = ctx.branch("disturbed", messages=(told, *others), steered=False)
        return Plan(
            ctx.main, (disturbed,), Additive((against("disturbed", p.alpha),), plausible(p.beta))
        )
