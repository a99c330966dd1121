"""Plain sampling: a draw from the model's own distribution at every step.

Many published "regular" rows are this at temperature 1, not greedy decoding; greedy alone beats
several of them.
"""

from halu.search import Pick
from halu.strategy import Context, Paper, Plan, Strategy, strategies
from halu.types import Sampling


class _Draw(Pick):
    """A pick that draws at temperature 1 where the request names none."""

    def start(self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]) -> Pick:
        """As `Pick`, with the default temperature filled in."""
        if sampling.temperature is None:
            sampling = sampling.model_copy(update={"temperature": 1.0})
        return Pick.start(self, sampling, ends, prompt)


@strategies.register("sample")
class Sample(Strategy):
    """No mitigation; temperature (default 1), top-p and top-k come from the request."""

    name = "sample"
    kind = "decoding"
    paper = Paper(short="Plain sampling", arxiv="", venue="")
    needs_image = False

    def plan(self, ctx: Context) -> Plan:
        """The main branch, drawn from."""
        return Plan(ctx.main, search=_Draw())
