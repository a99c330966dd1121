"""DeCo: let the middle layer that is surest of a likely token have a say.

Wang et al., ICLR 2025, arXiv:2410.11779. Candidates are the tokens of the smallest set with
probability top_p, at most top_k. Of what the output head (after the final norm) makes of the
residual streams h_l, the layer l* is the one that gives some candidate the highest probability m;
s = f + alpha m e_l* on the candidates, nothing else can be said. Defaults are the released code's
(zjunlp/Deco): alpha 0.6 (its argument table says 0.5), top_p 0.9, top_k 20, layers 20 to 28 of 32;
other depths take the same part of the model, ceil(0.625 L) to floor(0.875 L). Paper and code agree
in the arithmetic. Not reproduced: batches squeezed to one row, an index of the released model file
that ties it to 32 layers, the misspelt option of the POPE script. `dola+deco` adds both.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from halu.layers import Indices, check_range
from halu.rules import Additive
from halu.strategy import Context, Paper, Plan, Step, Strategy, StrategyParams, Tap, strategies


@strategies.register("deco")
class DeCo(Strategy):
    """Dynamic correction decoding."""

    name = "deco"
    kind = "logits"
    paper = Paper(short="Dynamic Correction Decoding", arxiv="2410.11779", venue="ICLR 2025")
    off = {"alpha": 0.0, "top_p": 1.0, "top_k": None}

    class Params(StrategyParams):
        """Candidates and correction."""

        alpha: float = Field(0.6, ge=0, le=5, description="Weight of the chosen middle layer.")
        top_p: float = Field(0.9, gt=0, le=1, description="Probability that candidates cover.")
        top_k: int | None = Field(
            20, ge=1, le=2**20, description="Most candidates there can be; none: no limit."
        )
        layers: Indices | None = Field(
            None,
            description="Hidden states to choose from, 0 the embeddings; none: by depth.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its rows corrected by a middle layer's."""
        p: DeCo.Params = self.params
        layers = middle(ctx.model.layers) if p.layers is None else p.layers
        check_range("layers", layers, ctx.model.layers)
        taps = tuple(Tap(layer) for layer in layers)

        def correction(step: Step) -> Tensor:
            early = torch.stack([step.early[tap] for tap in taps])  # [layers, V]
            likely = candidates(step.main, p.top_p, p.top_k)
            surest, layer = torch.softmax(early, -1)[:, likely].amax(-1).max(0)
            return p.alpha * surest * early[layer]

        def keep(step: Step) -> Tensor:
            kept = torch.zeros_like(step.main, dtype=torch.bool)
            kept[candidates(step.main, p.top_p, p.top_k)] = True
            return kept

        return Plan(ctx.main, rule=Additive((correction,), (keep,)), taps=taps)


def candidates(row: Tensor, top_p: float, top_k: int | None) -> Tensor:
    """Token ids of the smallest set with probability top_p, at most top_k; row [V]."""
    best = torch.softmax(row, -1).topk(min(top_k or len(row), len(row)))
    if top_p == 1:
        return best.indices
    return best.indices[: int((best.values.cumsum(-1) < top_p).sum()) + 1]


def middle(layers: int) -> tuple[int, ...]:
    """The hidden states of a model of this depth that take part."""
    return tuple(range(math.ceil(0.625 * layers), math.floor(0.875 * layers) + 1)) or (layers - 1,)
