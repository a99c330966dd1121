"""CARVE: cut out what the model looks at for this question more than for any, and ask again.

Ge et al., ECCV 2026, arXiv:2509.06461. Two short greedy answers on the picture, to the question and
to a general instruction, both followed by the same suffix. Q_t,l and G_t,l are the newest row's
attention to the picture, mean of heads, in layer l at token t. A = Q / (G + lam), element by
element; S = sum over t < min of both lengths of (t + 1) sum_l A_t,l, bilinear on the picture. The
pixels over the (1 - top) percentile of S form 4-connected regions, the best by the sum of S stay,
everything else is black; crop to them and enlarge to at least the picture's size. The request is
then answered as it is asked for, with that picture. Needs scipy (extra `eval`).
mode="official" (YuyaoGe/CARVE, its v4; v1 to v3 are steps="first" with regions_by "all", "size",
"mass"): original and refined picture, and max(regions, top x number of regions) regions.
mode="paper": the refined picture only, at most `regions` of them. The paper's other time
configurations are steps="first" and "last". Layers 20 to 25 are the code's for every model. Ours:
the suffix is not added to the request's own question, as the code does; several pictures are each
refined in their place; for LLaVA-NeXT, A is the ratio of what overview and tiles give one place. As
released, a map covers the whole picture even where a processor crops it (LLaVA-1.5). Not
reproduced: the table of known grids, which scrambles Qwen's; layers skipped that do not exist.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from halu.attention.recording import Looks
from halu.conversation import after, instead, repictured
from halu.layers import Indices, check_range, proportional
from halu.regions import Map, cut_out, stretched, top_regions
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies
from halu.types import Message

Steps = Literal["all", "unweighted", "first", "last"]


@strategies.register("carve")
class CARVE(Strategy):
    """Contrastive attention refinement for visual enhancement."""

    name = "carve"
    kind = "image"
    paper = Paper(short="Contrastive Attention Refinement", arxiv="2509.06461", venue="ECCV 2026")
    off = {"max_steps": 0}
    rewrites = True

    class Params(StrategyParams):
        """Maps, regions, and the two questions."""

        mode: Mode = "paper"
        max_steps: int = Field(
            32, ge=0, le=512, description="Longest of the two short answers; 0: plain decoding."
        )
        steps: Steps = Field("all", description="Tokens whose maps count, later ones more; or one.")
        layers: Indices | None = Field(
            None,
            description="Layers looked at; none: 20 to 25, of fewer than 26 that share of 32.",
        )
        lam: float = Field(1e-8, gt=0, le=1, description="Added to the general map.")
        top: float = Field(0.2, gt=0, le=1, description="Share of the picture over the threshold.")
        regions: int = Field(
            3, ge=1, le=1000, description="Most regions that stay (official: fewest)."
        )
        regions_by: Literal["mass", "size", "all"] = Field(
            "mass", description="Which regions stay: the hottest, the largest, or all but specks."
        )
        general: str = Field(
            "Write a general description of the image.",
            min_length=1,
            max_length=2000,
            description="The general instruction.",
        )
        suffix: str = Field(
            "Answer the question using a single word or phrase.",
            max_length=2000,
            description="What follows the question and the general instruction.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch on the refined pictures."""
        p, messages = self.params, ctx.request.messages
        depth = ctx.model.layers
        known = range(20, 26) if depth > 25 else proportional(depth, 20, 25)
        layers = tuple(known) if p.layers is None else p.layers
        check_range("layers", layers, depth)
        if not p.max_steps:
            return Plan(ctx.main)
        query = self._looks(ctx, "query", after(messages, p.suffix), layers)
        general = instead(messages, p.general)
        other = self._looks(ctx, "general", after(general, p.suffix), layers)
        shown = []
        for number, image in enumerate(ctx.request.images):
            grid = contrast(query.heats(number), other.heats(number), p.lam, p.steps)
            official, heat = p.mode == "official", stretched(grid, image.size)
            mask = top_regions(heat, p.top, p.regions_by, p.regions, more=official)
            refined = cut_out(image, mask)
            shown.append((image, refined) if official else (refined,))
        return Plan(ctx.branch("main", messages=repictured(messages, shown)))

    def _looks(
        self, ctx: Context, name: str, messages: tuple[Message, ...], layers: tuple[int, ...]
    ) -> Looks:
        """Where a short answer to another conversation looks."""
        branch = ctx.branch(name, messages=messages, steered=False)
        looks = Looks(branch.prompt.layout, layers)
        ctx.say(branch, self.params.max_steps, (looks,))
        return looks


def contrast(query: Sequence[Map], general: Sequence[Map], lam: float, steps: Steps) -> Map:
    """S on the grid [rows, columns] from both answers' maps [layers, rows, columns], one for each
    token.
    """
    pairs = zip(query, general, strict=False)
    ratios: list[Map] = [(q / (g + lam)).sum(0) for q, g in pairs]
    if steps in ("first", "last"):
        return ratios[0 if steps == "first" else -1]
    weights = np.arange(len(ratios)) + 1.0 if steps == "all" else np.ones(len(ratios))
    total: Map = np.tensordot(weights, np.stack(ratios), 1)
    return total
