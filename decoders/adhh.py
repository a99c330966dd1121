"""AD-HH: silence what hallucination heads read from the text, whenever they read mostly text.

Yang et al., ICLR 2025, "Modular Attribution and Intervention", openreview.net/forum?id=Bjq4W7P2Us
(no arXiv id is known). In each listed (layer, head), for the prompt's last row and every generated
token: if the mass on the keys after the last picture (question and answer) is at least tau, those
keys are dropped and the rest is not scaled up, so the row sums to less than 1 and evidence shows
what is left. The lists are the authors', found offline: a head's influence is how much more its
ablation lowers hallucinated objects than true ones. They belong to one model each
(halu/constants.py); for another pass `heads`. tau is 0.4 there, 0.5 for MiniGPT-4. Taken from the
released code (TianyunYoung/Hallucination-Attribution). Not reproduced: masses summed over the
batch, and the literal place of the picture (one fixed size in v1.6).
"""

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import Redistribution, at_least
from halu.attention.policy import AttentionPolicy
from halu.constants import hallucination_heads
from halu.layers import Pair, heads_by_layer
from halu.layout import Layout
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("adhh")
class ADHH(Strategy):
    """Adaptive deactivation of hallucination heads."""

    name = "adhh"
    kind = "attention"
    paper = Paper(short="Modular Attribution (AD-HH)", arxiv="", venue="ICLR 2025")
    off = {"tau": 2.0}

    class Params(StrategyParams):
        """Which heads, and when."""

        tau: float = Field(
            0.4,
            ge=0,
            le=2,
            description="Drop the text's part of a head from this mass on; above 1 never.",
        )
        heads: tuple[Pair, ...] | None = Field(
            None,
            min_length=1,
            max_length=10000,
            description="Pairs of layer and head, from 0; none: the model's own.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its listed heads silenced."""
        p, model = self.params, ctx.model
        pairs = hallucination_heads(model).pairs if p.heads is None else p.heads
        by_layer = heads_by_layer("heads", pairs, model)
        return Plan(ctx.main, policies=(lambda prompt: Silence(prompt.layout, p.tau, by_layer),))


class Silence(AttentionPolicy):
    """Groups: 0 up to the last picture's end, 1 after it; `heads` [H] by layer."""

    settled = True
    pieces = True
    rows = "last"
    groups = 2
    generated = 1

    def __init__(self, layout: Layout, tau: float, heads: dict[int, Tensor]) -> None:
        self.heads = heads
        self._epilogues = {layer: _silence(listed, tau) for layer, listed in heads.items()}
        self._labels = torch.zeros(layout.length, dtype=torch.int64)
        self._labels[layout.question] = 1

    def labels(self, layer: int) -> Tensor | None:
        """None in layers without a listed head."""
        return self._labels if layer in self._epilogues else None

    def epilogue(self, layer: int) -> Redistribution:
        """In a listed head the text after the picture keeps nothing once its mass reaches tau."""
        return self._epilogues[layer]


def _silence(heads: Tensor, tau: float) -> Redistribution:
    """What is dropped goes to nobody; heads [H]."""
    keep = torch.stack([torch.ones(len(heads)), (~heads).float()], -1)
    return Redistribution.of(keep, torch.zeros(2), [at_least(tau, 0, 1)])
