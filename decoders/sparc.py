"""SPARC: whatever part of the picture suddenly draws attention counts for more from then on.

Jung et al., ICML 2025, arXiv:2502.01419 (Selective Progressive Attention Recalibration). In one
layer, a_t is each picture key's attention from the newest row, mean of heads, and r a running mean,
a at the prompt's last row to begin with. With every generated token the keys of (a_t - r) / r >=
tau are selected, then r becomes (1 - beta) a_t + beta r. From the next token on, the values of a
selected key are taken times alpha in layers [start_layer, end_layer); a key selected n times has
alpha^n. Probabilities are not touched, so that a row then weighs more than 1 in all. The prompt
itself is read as ever. Defaults are the released code's (mingi000508/SPARC) for LLaVA-1.5-7B, layer
20 of 32 (in a model of L layers round(20 L / 32)); for LLaVA-NeXT-7B it has tau 4. Not reproduced:
the picture's literal start; values scaled in the cache itself, which `alpha^n` replaces.
"""

import copy

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import KeyMap
from halu.attention.policy import AttentionPolicy
from halu.layers import check_range, layers_between, proportional
from halu.layout import Layout
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("sparc")
class SPARC(Strategy):
    """Selective progressive attention recalibration."""

    name = "sparc"
    kind = "attention"
    paper = Paper(short="SPARC", arxiv="2502.01419", venue="ICML 2025")
    off = {"alpha": 1.0}

    class Params(StrategyParams):
        """When a key is selected, and what that is worth."""

        alpha: float = Field(1.1, ge=0, le=2, description="Factor of a key's value per selection.")
        beta: float = Field(
            0.1, ge=0, le=1, description="Share of the running mean that stays at each token."
        )
        tau: float = Field(
            1.5, ge=-1, le=100, description="Relative rise of its attention that selects a key."
        )
        layer: int | None = Field(
            None,
            ge=0,
            lt=1000,
            description="Layer whose attention selects; none: 20 of 32, scaled to the model's.",
        )
        start_layer: int = Field(0, ge=0, le=1000, description="First layer whose values change.")
        end_layer: int | None = Field(
            None, ge=0, le=1000, description="Layer before which that ends; none: all."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its picture's values scaled."""
        p = self.params
        most = ctx.model.layers
        layer = min(proportional(most, 20, 20).start, most - 1) if p.layer is None else p.layer
        check_range("layer", layer, most)
        layers = layers_between(p.start_layer, p.end_layer, most)
        return Plan(ctx.main, policies=(lambda prompt: Progress(prompt.layout, p, layer, layers),))


class Progress(AttentionPolicy):
    """The values' factors so far, and the running mean that selects the next."""

    rows = "decode"
    keyed = True
    carries = True
    pieces = True

    def __init__(self, layout: Layout, params: SPARC.Params, layer: int, layers: range) -> None:
        self.params = params
        self.layer = layer
        self.layers = layers
        self.image = torch.from_numpy(layout.is_image())
        self.mean: Tensor | None = None  # [N]
        self.selected: Tensor | None = None  # [T]
        self.gain: Tensor | None = None  # [T]

    def fork(self) -> "Progress":
        """Tensors here are replaced, never written to."""
        return copy.copy(self)

    def looks(self, layer: int) -> bool:
        """The one that selects."""
        return layer == self.layer

    def look(self, layer: int, x: Tensor) -> None:
        """Compares the newest row, from scores [H, K], with the mean before it joins that."""
        image = self.image.to(x.device)
        seen = torch.softmax(x, -1).mean(0)[: len(image)][image]
        if self.mean is None:
            self.mean = seen
            return
        rise = (seen - self.mean) / self.mean
        self.selected = torch.zeros_like(image).masked_scatter(image, rise >= self.params.tau)
        self.mean = (1 - self.params.beta) * seen + self.params.beta * self.mean

    def heard(self, scores: Tensor) -> None:
        """The forward is over: what it selected counts from the next on."""
        if self.selected is not None:
            now = torch.where(self.selected, self.params.alpha, 1.0)
            self.gain = now if self.gain is None else self.gain * now

    def key_map(self, layer: int) -> KeyMap | None:
        """Factors of the values."""
        return KeyMap(gain=self.gain) if layer in self.layers and self.gain is not None else None
