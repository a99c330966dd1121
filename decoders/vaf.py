"""VAF: in the middle layers, stretch the scores of the picture's keys and shrink the system
message's.

Yin et al., CVPR 2025, arXiv:2503.13107 (ClearSight). For rows after the picture and generated
tokens, all heads, before softmax: enh x on picture keys, sup x on keys before the first picture
(the start token included), so negative scores become more negative; other keys keep theirs. Layers
9 to 14 of 32, counted from 0; a model of L layers has round(6 L / 32) of them, at least one, from
round(9 L / 32) on. Values and layers are the released code's (ustc-hyin/ClearSight), which has the
same six numbers for every depth; `layers` names others. The paper is said, at second hand, to take
only the half of the heads that look at the picture most, and 1.15 with 0.9 or 1.1 with 0.85; no
such choice of heads is in the code or here. Not reproduced: the picture's literal place, and
prompts of up to 611 tokens taken for a generated token, all of whose rows then change.
"""

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import ScoreMap
from halu.attention.policy import AttentionPolicy
from halu.layers import Indices, check_range, proportional
from halu.layout import Layout
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("vaf")
class VAF(Strategy):
    """Visual amplification fusion."""

    name = "vaf"
    kind = "attention"
    paper = Paper(short="Visual Amplification Fusion", arxiv="2503.13107", venue="CVPR 2025")
    off = {"enh": 1.0, "sup": 1.0}

    class Params(StrategyParams):
        """Two factors and where they act."""

        enh: float = Field(1.15, ge=0, le=5, description="Factor of the picture's scores.")
        sup: float = Field(0.95, ge=0, le=5, description="Factor of the system message's scores.")
        layers: Indices | None = Field(
            None,
            description="Layers that take part; none: 9 to 14 of 32, scaled to the model's depth.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its scores scaled."""
        p = self.params
        layers = tuple(middle(ctx.model.layers) if p.layers is None else p.layers)
        check_range("layers", layers, ctx.model.layers)
        return Plan(ctx.main, policies=(lambda prompt: Amplify(prompt.layout, p, layers),))


class Amplify(AttentionPolicy):
    """Groups: 0 the others, 1 picture, 2 system message."""

    settled = True
    pieces = True
    rows = "after_image"
    groups = 3

    def __init__(self, layout: Layout, params: VAF.Params, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self._labels = torch.from_numpy(layout.is_image()).long()
        self._labels[layout.system] = 2
        slopes = torch.tensor([1.0, params.enh, params.sup])
        self._map = ScoreMap(slopes, slopes, torch.zeros(3))

    def labels(self, layer: int) -> Tensor | None:
        """None in layers that do not take part."""
        return self._labels if layer in self.layers else None

    def score_map(self, layer: int) -> ScoreMap:
        """A factor for each group."""
        return self._map


def middle(layers: int) -> range:
    """Layers 9 to 14 of 32, or as many and as deep in proportion."""
    return proportional(layers, 9, 14)
