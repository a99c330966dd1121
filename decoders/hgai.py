"""HGAI: add to each head's scores of the picture what all heads together look at.

Jiang et al., "Devils in Middle Layers", CVPR 2025, arXiv:2411.16724 (heads guided attention
intervention). For the prompt's last row and every generated token, with x_hj the scaled score of
head h on key j before softmax: x_hj + alpha mean_h' |x_h'j| on picture keys, the same amount in
every head. Alpha 0.5 and layers 5 to 18 of 32, counted from 0, are the released code's
(ZhangqiJiang07/middle_layers_indicating_hallucinations) for all its models; a model of L layers has
round(14 L / 32) of them, at least one, from round(5 L / 32) on; `layers` names others. Not
reproduced: the causal mask, which the released environment probably loses in these layers while it
reads the prompt; key heads taken for query heads.
"""

import copy

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import KeyMap
from halu.attention.policy import AttentionPolicy
from halu.layers import Indices, check_range, proportional
from halu.layout import Layout
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("hgai")
class HGAI(Strategy):
    """Heads guided attention intervention."""

    name = "hgai"
    kind = "attention"
    paper = Paper(
        short="Heads Guided Attention Intervention", arxiv="2411.16724", venue="CVPR 2025"
    )
    off = {"alpha": 0.0}

    class Params(StrategyParams):
        """How much, and where."""

        alpha: float = Field(
            0.5, ge=0, le=5, description="Share of the heads' mean absolute score that is added."
        )
        layers: Indices | None = Field(
            None,
            description="Layers that take part; none: 5 to 18 of 32, scaled to the model's depth.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its heads guided by each other."""
        p = self.params
        layers = tuple(proportional(ctx.model.layers, 5, 18) if p.layers is None else p.layers)
        check_range("layers", layers, ctx.model.layers)
        return Plan(ctx.main, policies=(lambda prompt: Guide(prompt.layout, p.alpha, layers),))


class Guide(AttentionPolicy):
    """What is added to the newest row's scores, by layer."""

    rows = "last"
    keyed = True
    pieces = True

    def __init__(self, layout: Layout, alpha: float, layers: tuple[int, ...]) -> None:
        self.alpha = alpha
        self.layers = layers
        self.image = torch.from_numpy(layout.is_image())
        self._added: dict[int, Tensor] = {}

    def fork(self) -> "Guide":
        """Hypotheses look one after another before any is changed."""
        twin = copy.copy(self)
        twin._added = dict(self._added)
        return twin

    def looks(self, layer: int) -> bool:
        """In the layers that take part."""
        return layer in self.layers

    def look(self, layer: int, x: Tensor) -> None:
        """Keeps alpha mean_h |x| [T] of the scores [H, K]."""
        image = self.image.to(x.device)
        seen = x[:, : len(image)].abs().mean(0)
        self._added[layer] = torch.where(image, self.alpha * seen, 0.0)

    def key_map(self, layer: int) -> KeyMap | None:
        """None in other layers."""
        added = self._added.get(layer)
        return None if added is None else KeyMap(bias=added)
