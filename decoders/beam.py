"""Beam search: several hypotheses compete by their total log-probability."""

from pydantic import Field

from halu.search import Beams, unsampled
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("beam")
class Beam(Strategy):
    """No mitigation; combines with rules, which then score every beam."""

    name = "beam"
    kind = "decoding"
    takes_back = True
    paper = Paper(short="Beam search", arxiv="", venue="")
    needs_image = False
    off = {"beams": 1}

    class Params(StrategyParams):
        """How many beams and how length counts."""

        beams: int = Field(5, ge=1, le=16, description="Hypotheses kept.")
        length_penalty: float = Field(
            1.0, ge=-5, le=5, description="Exponent of the length that totals are divided by."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, searched."""
        unsampled(ctx.request.sampling)
        if self.params.beams == 1:
            return Plan(ctx.main)
        return Plan(ctx.main, search=Beams(self.params.beams, self.params.length_penalty))
