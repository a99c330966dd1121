"""VHR: strengthen the heads whose output depends most on the picture.

He et al., ACL 2025, arXiv:2412.13949. At the last prompt position, for the head outputs a (with the
picture) and b (without): VHD = ||a - b|| (Eq. 4), and text activation TA = ||b||^2 (Eq. 6). A head
whose VHD and TA both exceed their layer's mean plus one standard deviation is an outlier and its
VHD counts as 0. Heads above the layer's median VHD are scaled by alpha before the output
projection, for every row, from the prompt on (Eq. 7), layer by layer: a layer is judged when those
below it are already reinforced. The choice is made once and kept. The official source was not
available; what the paper leaves open are parameters with our reading as default: the picture is
dropped from the text-only stream (positions close up), which is itself not reinforced. Layers: the
second one and the last 14 of 32 (both LLaVA 7B models), scaled to other depths.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.prompt import Prompt
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("vhr")
class VHR(Strategy):
    """Vision-aware head reinforcement."""

    name = "vhr"
    kind = "attention"
    paper = Paper(short="Vision-aware Head Reinforcement", arxiv="2412.13949", venue="ACL 2025")
    off = {"alpha": 1.0}

    class Params(StrategyParams):
        """Equations 4 to 7, and what they leave open."""

        alpha: float = Field(2.0, ge=0, le=4, description="Factor of the chosen heads' outputs.")
        last_layers: float = Field(
            14 / 32, ge=0, le=1, description="Share of the layers, from the last, that take part."
        )
        second_layer: bool = Field(True, description="Whether the second layer takes part too.")
        outliers: bool = Field(
            True, description="Leave out heads that react strongly but also without the picture."
        )
        squared_distance: bool = Field(
            False, description="VHD as squared distance (a third-party port's reading)."
        )
        squared_activation: bool = Field(
            True, description="TA as squared norm (the paper); otherwise the norm."
        )
        ddof: Literal[0, 1] = Field(1, description="Divisor n - ddof of the standard deviation.")
        rows: Literal["all", "last"] = Field("all", description="Prompt rows that are scaled.")

    def plan(self, ctx: Context) -> Plan:
        """The main branch with heads scaled, after one text-only pass."""

        def make(prompt: Prompt) -> AttentionPolicy:
            blind = HeadOutputs()
            ctx.prefill(ctx.branch("blind", blind=True), (blind,))
            return Reinforce(
                self.params, blind.last, reinforced_layers(self.params, ctx.model.layers)
            )

        return Plan(ctx.main, policies=(make,))


class HeadOutputs(AttentionPolicy):
    """Changes nothing; keeps each layer's head outputs [H, D] at the last prompt position."""

    def __init__(self) -> None:
        self.last: dict[int, Tensor] = {}

    def head_scale(self, layer: int, last: Tensor | None) -> None:
        """Keeps `last`."""
        if last is not None:
            self.last[layer] = last


class Reinforce(AttentionPolicy):
    """Scales the chosen heads; the choice falls during the prompt's forward."""

    settled = True

    def __init__(
        self, params: VHR.Params, blind: dict[int, Tensor], layers: frozenset[int]
    ) -> None:
        self.params = params
        self.rows = params.rows
        self.pieces = params.rows == "last"
        self.blind = blind
        self.layers = layers
        self._scale: dict[int, Tensor] = {}

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor | None:
        """alpha for chosen heads, 1 for the others; none in other layers."""
        if last is not None and layer in self.layers:
            chosen = vision_aware(last, self.blind[layer], self.params)
            self._scale[layer] = torch.where(chosen, self.params.alpha, 1.0)
        return self._scale.get(layer)


def vision_aware(seeing: Tensor, blind: Tensor, params: VHR.Params) -> Tensor:
    """True for each head [H] above the median divergence; head outputs [H, D] with and without the
    picture.
    """
    divergence: Tensor = (seeing - blind).norm(dim=-1)
    activation: Tensor = blind.norm(dim=-1)
    divergence = divergence**2 if params.squared_distance else divergence
    activation = activation**2 if params.squared_activation else activation
    if params.outliers:
        outlier = _high(divergence, params.ddof) & _high(activation, params.ddof)
        divergence = torch.where(outlier, 0.0, divergence)
    median: Tensor = divergence.quantile(0.5)
    return divergence > median


def reinforced_layers(params: VHR.Params, layers: int) -> frozenset[int]:
    """Indices of the layers that take part."""
    count = round(params.last_layers * layers)
    chosen = set(range(layers - count, layers))
    return frozenset(chosen | {1} if params.second_layer and layers > 1 else chosen)


def _high(values: Tensor, ddof: int) -> Tensor:
    limit: Tensor = values.mean() + values.std(correction=ddof)
    return values > limit
