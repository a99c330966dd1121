"""Plain decoding: the best token at every step. The baseline of every comparison."""

from halu.errors import BadInput
from halu.strategy import Context, Paper, Plan, Strategy, strategies


@strategies.register("greedy")
class Greedy(Strategy):
    """No mitigation, no randomness."""

    name = "greedy"
    kind = "decoding"
    paper = Paper(short="Plain decoding", arxiv="", venue="")
    needs_image = False
    off = {}

    def plan(self, ctx: Context) -> Plan:
        """The main branch as it is."""
        if ctx.request.sampling.temperature:
            raise BadInput(
                "Greedy decoding has no temperature.",
                hint="Use the strategy 'sample'.",
                param="temperature",
            )
        return Plan(ctx.main)
