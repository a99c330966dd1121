"""SPIN: turn down the heads that look least at the picture, anew for every token.

Sarkar et al., 2025, arXiv:2505.16411. For the prompt's last row and every generated token, layer by
layer: X_h is the sum of head h's scaled scores on the picture's keys; the int(rho H) heads with the
highest X_h stay, the outputs of the others are multiplied by epsilon before the output projection.
As in the released code (YUECHE77/SPIN) the scores are those before softmax: a head is judged by
them, not by its attention mass. Rho 0.95 and epsilon 0.08 in all layers are its values for captions
with LLaVA-1.5; for yes/no questions it has 0.8 and 0.1, for Qwen-VL-Chat 0.7 and 0.08 in layers 0
to 19 of 32. Not reproduced: the mask of the heads mixed up between the rows of a batch, and key
heads taken for query heads.
"""

import copy

from pydantic import Field
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.layers import Indices, check_range
from halu.layout import Layout
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("spin")
class SPIN(Strategy):
    """Image-guided head suppression."""

    name = "spin"
    kind = "attention"
    paper = Paper(short="Image-Guided Head Suppression", arxiv="2505.16411", venue="arXiv 2025")
    off = {"rho": 1.0}

    class Params(StrategyParams):
        """How many heads, how much, and where."""

        rho: float = Field(0.95, ge=0, le=1, description="Share of a layer's heads that stay.")
        epsilon: float = Field(
            0.08, ge=0, le=1, description="Factor of the other heads' outputs; 0 drops them."
        )
        layers: Indices | None = Field(None, description="Layers that take part; none: all.")

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its least looking heads turned down."""
        p = self.params
        layers = tuple(range(ctx.model.layers) if p.layers is None else p.layers)
        check_range("layers", layers, ctx.model.layers)
        return Plan(ctx.main, policies=(lambda prompt: Suppress(prompt.layout, p, layers),))


class Suppress(AttentionPolicy):
    """Factors of the heads [H] for the newest row, by layer."""

    rows = "last"
    pieces = True

    def __init__(self, layout: Layout, params: SPIN.Params, layers: tuple[int, ...]) -> None:
        self.params = params
        self.layers = layers
        self.images = layout.images
        self._scale: dict[int, Tensor] = {}

    def fork(self) -> "Suppress":
        """Hypotheses look one after another before any is changed."""
        twin = copy.copy(self)
        twin._scale = dict(self._scale)
        return twin

    def looks(self, layer: int) -> bool:
        """In the layers that take part."""
        return layer in self.layers

    def look(self, layer: int, x: Tensor) -> None:
        """Judges the heads by their scores [H, K]."""
        towards = x.new_zeros(len(x))
        for image in self.images:
            towards += x[:, image.start : image.stop].sum(-1)
        kept = towards.topk(int(self.params.rho * len(x))).indices
        self._scale[layer] = x.new_full((len(x),), self.params.epsilon).index_fill(0, kept, 1.0)

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor | None:
        """None in other layers."""
        return self._scale.get(layer)
