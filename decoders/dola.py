"""DoLa: take away what an early layer would already have said.

Chuang et al., ICLR 2024, arXiv:2309.03883. With f the scores and e_l what the output head makes of
the residual stream that enters layer l, without the final norm: s = log softmax f - log softmax
e_l*, kept where p >= relative_top max p under f (and at least `min_keep` tokens); l* is the
candidate farthest from f in this step. Candidates: every second layer of the lower or upper half
(of models deeper than 40 layers the first or last 20; the lower half starts at layer 2 where input
and output embeddings are tied), the upper half for short answers, the lower, our default, for long
ones; or a list, of which one entry is the static variant. `alpha` weighs the contrast, 1 as
published.
mode="paper": farthest by Jensen-Shannon divergence. mode="official" (voidism/DoLa, transformers
4.44): by KL(M || .) both ways, M the mean of the two, averaged over the vocabulary. The released
code also asks for a repetition penalty of 1.2, an option of sampling here. Not reproduced: one
layer for a whole batch, the first sample's cutoff for all, the mean in half precision, listed
layers that the model does not have dropped in silence.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from halu.layers import Indices, check_range
from halu.rules import Additive, Cutoff, jensen_shannon, plausible
from halu.strategy import (
    Context,
    ModelFacts,
    Paper,
    Plan,
    Step,
    Strategy,
    StrategyParams,
    Tap,
    strategies,
)


@strategies.register("dola")
class DoLa(Strategy):
    """Decoding by contrasting layers."""

    name = "dola"
    kind = "logits"
    paper = Paper(short="Decoding by Contrasting Layers", arxiv="2309.03883", venue="ICLR 2024")
    off = {"alpha": 0.0, "relative_top": 0.0}

    class Params(StrategyParams):
        """Section 2 of the paper."""

        mode: Literal["paper", "official"] = Field(
            "paper", description="Which distance chooses the layer."
        )
        layers: Literal["low", "high"] | Indices = Field(
            "low", description="Candidates: a half of the model, or layers by number."
        )
        alpha: float = Field(1.0, ge=0, le=5, description="Weight of the early layer.")
        relative_top: Cutoff = 0.1
        min_keep: int = Field(1, ge=1, le=1000, description="Keep at least so many tokens.")

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its rows contrasted with an early layer's."""
        p: DoLa.Params = self.params
        taps = tuple(Tap(layer, normed=False) for layer in candidates(p.layers, ctx.model))

        def contrast(step: Step) -> Tensor:
            early = torch.stack([step.early[tap] for tap in taps])
            farthest = early[distance(step.main, early, p.mode).argmax()]
            to_logp = torch.log_softmax(step.main, -1) - step.main
            return to_logp - p.alpha * torch.log_softmax(farthest, -1)

        rule = Additive((contrast,), plausible(p.relative_top, p.min_keep))
        return Plan(ctx.main, rule=rule, taps=taps)


def candidates(layers: str | tuple[int, ...], model: ModelFacts) -> tuple[int, ...]:
    """The layers whose inputs are candidates.

    Raises:
        BadInput: if the model does not have them.
    """
    if not isinstance(layers, str):
        check_range("layers", layers, model.layers)
        return layers
    half, most = model.layers // 2, 20
    shallow = model.layers <= 40
    if layers == "high":
        return tuple(range(half if shallow else model.layers - most, model.layers, 2))
    start = min(2, model.layers - 1) if model.tied else 0
    return tuple(range(start, half if shallow else most, 2)) or (start,)


def distance(final: Tensor, early: Tensor, mode: str) -> Tensor:
    """How far each early row [n, V] is from the final one [V]: [n]."""
    if mode == "paper":
        return jensen_shannon(final, early)
    logp, logq = torch.log_softmax(final, -1), torch.log_softmax(early, -1)
    middle = (logp.exp() + logq.exp()) / 2
    return (torch.xlogy(middle, middle) - middle * (logp + logq) / 2).mean(-1)
