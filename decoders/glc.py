"""GLC: let the layer that looks most at the words in the picture have a say in the last one.

Shu et al., NeurIPS 2025, arXiv:2506.05551 (ZoomText and Grounded Layer Correction). Glimpse: the
`top` picture tokens that the question attends to most in the last layer, mean over heads and rows.
Refocus: with a(j) the attention that candidate j gets from the candidates, keep those with (a_last
- a_first) / (a_first + eps) > shift; they are the region R. A layer's grounding is the share of
attention from picture to picture tokens that falls on R; l* is the layer with most. Fusion, the
paper's choice of three: H = (1 - weight) H + weight H_l*. The paper gives top 128 and weight 0.1,
not shift: 0 is ours, a token must gain attention. A generated token has its own l*, by its own row.
mode="paper": H is the residual stream after the last layer, before the final norm.
mode="official" (shuyansy/MLLM-Semantic-Hallucination): H is the stream before the last layer;
grounding is the mass from R to R, for a generated token the share in each head, averaged. The
released weights are 0.2 (Qwen2.5-VL) and 0.05 (LLaVA-NeXT). region_source="prompt" keeps the
prompt's region; "previous" finds it anew from each generated token's row, for the next one; the
code does so for the token itself, in a second pass. Not reproduced: a region made of divisions by
zero, maps that are not causal, keys cached twice, layer 0 mixed in where there is no region.
"""

import copy
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.errors import Unsupported
from halu.prompt import Prompt
from halu.strategy import Branch, Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies

EPS = 1e-6
TINY = 1e-30


@strategies.register("glc")
class GLC(Strategy):
    """ZoomText and grounded layer correction."""

    name = "glc"
    kind = "logits"
    paper = Paper(short="Grounded Layer Correction", arxiv="2506.05551", venue="NeurIPS 2025")
    off = {"weight": 0.0}

    class Params(StrategyParams):
        """Section 3.3 of the paper."""

        mode: Mode = "paper"
        weight: float = Field(0.1, ge=0, le=1, description="Share of the best grounded layer.")
        top: int = Field(
            128, ge=1, le=2**20, description="Picture tokens that may be the region, at most."
        )
        shift: float = Field(
            0.0,
            ge=-1,
            le=1e9,
            description="Relative gain of attention, first to last layer, beyond which one is.",
        )
        region_source: Literal["prompt", "previous"] = Field(
            "prompt", description="Whose attention gives a generated token's region."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch corrected, after one or two passes that find the region."""
        p = self.params
        if p.weight == 0:
            return Plan(ctx.main)

        def make(prompt: Prompt) -> AttentionPolicy:
            return Correct(prompt, p, ctx.model.layers, self._region(ctx, prompt))

        return Plan(ctx.main, policies=(make,))

    def _region(self, ctx: Context, prompt: Prompt) -> Tensor:
        """Positions of the prompt's region [R]; may be empty."""
        p, last = self.params, ctx.model.layers - 1
        asking = torch.arange(prompt.layout.length)[prompt.layout.question]
        chosen = picture(prompt)
        if not len(asking):
            raise Unsupported("GLC needs a question after the picture.", param="strategy")
        if p.top < len(chosen):
            glimpse = Columns(asking, (last,))
            ctx.prefill(Branch("glimpse", prompt), (glimpse,))
            chosen = glimpsed(glimpse.mass[last], chosen, p.top)
        refocus = Columns(chosen, (0, last))
        ctx.prefill(Branch("refocus", prompt), (refocus,))
        return refocused(refocus.mass[0], refocus.mass[last], chosen, p.shift)


class Columns(AttentionPolicy):
    """Changes nothing; keeps the attention [T] that keys get from some prompt rows, mean over
    heads and rows, in some layers.
    """

    def __init__(self, rows: Tensor, layers: tuple[int, ...]) -> None:
        self.rows_watched = rows
        self.layers = layers
        self.mass: dict[int, Tensor] = {}

    def watch(self, layer: int) -> Tensor | None:
        """The same rows in each of the layers."""
        return self.rows_watched if layer in self.layers else None

    def watched(self, layer: int, mass: Tensor, own: Tensor) -> None:
        """Keeps the mean."""
        self.mass[layer] = mass.mean(0).cpu() / len(self.rows_watched)


class Correct(AttentionPolicy):
    """Follows which layer is grounded best so far, and mixes its output in at the end."""

    reads = "all"

    def __init__(self, prompt: Prompt, params: GLC.Params, layers: int, region: Tensor) -> None:
        self.params = params
        self.carries = params.region_source == "previous"
        self.last = layers - 1
        self.picture = picture(prompt)
        self.region = self.next_region = region
        self.in_prompt = True
        self.grounding = torch.zeros(())
        self.best: tuple[Tensor, Tensor] | None = None
        self.first_look = torch.zeros(0)

    def fork(self) -> "Correct":
        """A copy: what is noted of a forward and the region are a hypothesis' own."""
        return copy.copy(self)

    def read(self, layer: int, hidden: Tensor) -> Tensor | None:
        """Takes the output of the layer below for the best, if it is; mixes in the final place."""
        if layer == 0:
            self.in_prompt, self.best = len(hidden) > 1, None
            self.region = self.next_region
        elif len(self.region):
            self.best = _better(self.best, (self.grounding, hidden))
        if self.best is None or layer != self.last + (self.params.mode == "paper"):
            return None
        chosen, self.best = self.best[1], None
        return (1 - self.params.weight) * hidden + self.params.weight * chosen

    def watch(self, layer: int) -> Tensor | None:
        """Picture rows; official: the region's."""
        if not len(self.region):
            return None
        return self.picture if self.params.mode == "paper" else self.region

    def watched(self, layer: int, mass: Tensor, own: Tensor) -> None:
        """Grounding of a layer in the prompt."""
        self.grounding = mass[:, self.region].sum()
        if self.params.mode == "paper":
            self.grounding = self.grounding / mass[:, self.picture].sum().clamp(min=TINY)

    def looks(self, layer: int) -> bool:
        """Generated tokens only."""
        return not self.in_prompt

    def look(self, layer: int, x: Tensor) -> None:
        """Grounding of a layer for a generated token; from the first and last, the next region."""
        p = torch.softmax(x, -1)
        seen, found = p[:, self.picture].sum(-1), p[:, self.region].sum(-1)
        if self.params.mode == "paper":
            self.grounding = found.sum() / seen.sum().clamp(min=TINY)
        else:
            self.grounding = (found / (seen + 1e-8)).mean()
        if self.params.region_source == "previous" and layer == 0:
            self.first_look = p.mean(0).cpu()
        if self.params.region_source == "previous" and layer == self.last:
            mass = p.mean(0).cpu()
            chosen = glimpsed(mass, self.picture, self.params.top)
            self.next_region = refocused(self.first_look, mass, chosen, self.params.shift)


def _better(
    best: tuple[Tensor, Tensor] | None, other: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The pair of grounding and stream that is grounded better, the first of equals."""
    if best is None:
        return other
    wins = other[0] > best[0]
    return torch.where(wins, other[0], best[0]), torch.where(wins, other[1], best[1])


def picture(prompt: Prompt) -> Tensor:
    """Positions of the picture's tokens."""
    return torch.from_numpy(prompt.layout.is_image()).nonzero()[:, 0]


def glimpsed(mass: Tensor, among: Tensor, top: int) -> Tensor:
    """The `top` positions with most mass [T], in order."""
    return among[mass[among].topk(min(top, len(among))).indices].sort().values


def refocused(first: Tensor, last: Tensor, among: Tensor, shift: float) -> Tensor:
    """The positions whose mass [T] grew by more than `shift` from the first to the last layer."""
    gain = (last[among] - first[among]) / (first[among] + EPS)
    return among[gain > shift]
