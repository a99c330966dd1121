"""SENTINEL at inference time: each sentence is checked when it ends; the first one that names what
is not there is drawn anew.

Peng et al., ICCV 2025, arXiv:2507.12455, find that hallucinations spread from the first one and
train a model with pairs of sentences that detectors have labelled. Here the same labels choose
among sentences while the answer is written. Detectors judge every claim of a sentence: hallucinated
from `hallucinated` on, uncertain from `uncertain` on. If it has a hallucinated one, `candidates`
more sentences are drawn at `temperature` from the same place, all in one forward a token, and the
best of all goes on: clean with an object not yet named, clean, without claims, uncertain, then by
fewest hallucinated; of equals the likeliest per token. That is repeated up to `rounds` times while
the best is hallucinated. first="sampled" draws at every sentence without waiting for a mistake. An
answer ends when more than `finish` of the candidates say nothing.
The built-in finders know drawings and no photographs, for which detectors="objects:finders=open"
asks GroundingDINO and OWLv2. Ours: all of this use at inference time. As in the paper: ten
sentences at temperature 0.7, labels, the order of preference, the share that finishes. Not
reproduced: coreference, a scene-graph parser (halu.claims reads the sentences). `halu.preferences`
writes the paper's training pairs.
"""

from typing import Literal

from pydantic import Field

from halu.detector import LOOKS, DetectorContext, Lookers, lookers
from halu.drafting import Manner, Sentences
from halu.labelling import Judge
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("sentinel")
class Sentinel(Strategy):
    """Sentence-level early intervention."""

    name = "sentinel"
    kind = "control"
    takes_back = True
    paper = Paper(short="SENTINEL", arxiv="2507.12455", venue="ICCV 2025")
    off = {"rounds": 0, "first": "greedy"}

    class Params(StrategyParams):
        """Who judges, and how many sentences are drawn."""

        detectors: Lookers = Field(
            ("objects",),
            description="Detectors that look at the picture.",
            json_schema_extra=LOOKS,
        )
        candidates: int = Field(10, ge=1, le=32, description="Sentences drawn at once.")
        rounds: int = Field(2, ge=0, le=8, description="Most draws for one sentence; 0: none.")
        first: Literal["greedy", "sampled"] = Field(
            "greedy", description="Draw after a hallucinated sentence, or every sentence."
        )
        temperature: float = Field(0.7, gt=0, le=5, description="Of the drawn sentences.")
        hallucinated: float = Field(
            0.5, gt=0, le=1, description="Least score of what is not there."
        )
        uncertain: float = Field(0.3, ge=0, le=1, description="Least score of what is uncertain.")
        finish: float = Field(
            0.5, ge=0, le=1, description="End when more candidates than this share say nothing."
        )
        longest: int = Field(80, ge=1, le=1024, description="Most tokens of a sentence.")

    def plan(self, ctx: Context) -> Plan:
        """The main branch, searched sentence by sentence."""
        p = self.params
        using = lookers(p.detectors, self.name)
        if not p.rounds and p.first == "greedy":
            return Plan(ctx.main)
        asked = DetectorContext(ctx.request)
        judge = Judge(using, ctx.request.images, asked, p.hallucinated, p.uncertain)
        manner = Manner(
            p.candidates, p.rounds, p.first == "sampled", p.temperature, p.finish, p.longest
        )
        return Plan(ctx.main, search=Sentences(manner, ctx.text, judge))
