"""VAR: take attention from sink tokens and give it to the rest of the picture, in heads that look
at the picture.

Kang et al., ICLR 2025, arXiv:2503.03321. A token is a sink of a layer if max over the sink
dimensions of |r| / rms(r) exceeds tau, r being the residual stream that enters the layer. Per query
and head, from that row's own masses: V1 picture, V2 picture sinks, T3 other sinks. A head is
selected if V1 + V2 >= summ and its picture mass is mostly not sink; then `move_fraction` of V2 + T3
goes to V1 in proportion. Layers 0 and 1 and layers without a picture sink stay as they are.
mode="paper": selected if V1 / (V1 + V2) >= rho, last layer left alone.
mode="official" (seilk/VisAttnSink): selected if V2 / (V1 + V2) <= rho, last layer included. The two
senses of rho meet at 0.5; the paper's 0.8 is the code's 0.2. The code keeps p = 0.6, so moves 0.4;
second-hand descriptions of the paper read p as the moved share (0.6). Not reproduced: labels kept
from the previous sample, 8-bit loading, the missing start token.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import Redistribution, at_least
from halu.attention.policy import AttentionPolicy
from halu.constants import sinks
from halu.errors import BadInput
from halu.layout import Layout
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies

Dimension = Annotated[int, Field(ge=0, le=2**20)]


@strategies.register("var")
class VAR(Strategy):
    """Visual attention redistribution."""

    name = "var"
    kind = "attention"
    paper = Paper(short="Visual Attention Redistribution", arxiv="2503.03321", venue="ICLR 2025")
    off = {"move_fraction": 0.0}

    class Params(StrategyParams):
        """Sections 4 and 5 of the paper."""

        mode: Mode = "paper"
        rho: float = Field(
            0.5,
            ge=0,
            le=1,
            description="Head selection: least non-sink share (official: most sink share).",
        )
        summ: float = Field(
            0.2, ge=0, le=1, description="Head selection: least attention mass on the picture."
        )
        move_fraction: float = Field(
            0.4, ge=0, le=1, description="Share of the sinks' mass that moves to the picture."
        )
        tau: float | None = Field(
            None, gt=0, le=1000, description="Sink threshold; none: the model's own."
        )
        dimensions: tuple[Dimension, ...] | None = Field(
            None, min_length=1, max_length=16, description="Sink dimensions; none: the model's own."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its attention redistributed."""
        p = self.params
        dimensions, tau = p.dimensions, p.tau
        if dimensions is None or tau is None:
            known = sinks(ctx.model)
            dimensions, tau = dimensions or known.dimensions, tau or known.tau
        if max(dimensions) >= ctx.model.hidden:
            raise BadInput(
                f"Parameter dimensions={dimensions} is beyond the model's {ctx.model.hidden}.",
                param="params.dimensions",
            )
        last = ctx.model.layers if p.mode == "official" else ctx.model.layers - 1
        layers = range(2, last)
        return Plan(
            ctx.main,
            policies=(lambda prompt: Redistribute(prompt.layout, p, layers, dimensions, tau),),
        )


class Redistribute(AttentionPolicy):
    """Groups: 0 other text, 1 picture, 2 picture sinks, 3 other sinks."""

    settled = True

    rows = "after_image"
    groups = 4
    reads = "prompt"

    def __init__(
        self,
        layout: Layout,
        params: VAR.Params,
        layers: range,
        dimensions: tuple[int, ...],
        tau: float,
    ) -> None:
        self.image = torch.from_numpy(layout.is_image())
        self.params = params
        self.layers = layers
        self.dimensions = dimensions
        self.tau = tau
        self._labels: dict[int, Tensor] = {}
        kept = 1 - params.move_fraction
        keep, give = torch.tensor([1, 1, kept, kept]), torch.tensor([0.0, 1, 0, 0])
        self._epilogue = Redistribution.of(keep, give, self._selection())

    def read(self, layer: int, hidden: Tensor) -> None:
        """Labels of a layer from its input [T, D]."""
        if layer in self.layers:
            sink = sink_tokens(hidden, self.dimensions, self.tau)
            image = self.image.to(sink.device)
            if bool((sink & image).any()):
                self._labels[layer] = torch.where(image, 1 + sink.long(), 3 * sink.long())

    def labels(self, layer: int) -> Tensor | None:
        """None where the layer has no picture sink."""
        return self._labels.get(layer)

    def epilogue(self, layer: int) -> Redistribution:
        """Section 4.2: in selected heads a share of the sinks' mass moves to the picture."""
        return self._epilogue

    def _selection(self) -> list[Tensor]:
        """Conditions on the masses of text, picture, picture sinks, other sinks."""
        p = self.params
        if p.mode == "paper":  # V1 >= rho (V1 + V2)
            mostly = at_least(0, 0, 1 - p.rho, -p.rho, 0)
        else:  # V2 <= rho (V1 + V2 + padding): the released code adds 1e-6 to every picture key
            padding = int(self.image.sum()) * 1e-6
            mostly = at_least(-p.rho * padding, 0, p.rho, p.rho - 1, 0)
        return [mostly, at_least(p.summ, 0, 1, 1, 0)]


def sink_tokens(hidden: Tensor, dimensions: tuple[int, ...], tau: float) -> Tensor:
    """True for each token [T] whose normalised value in a sink dimension exceeds tau; hidden [T,
    D].
    """
    hidden = hidden.float()
    rms = (hidden.pow(2).mean(-1) + 1e-6).sqrt()
    return hidden[:, list(dimensions)].abs().amax(-1) / rms > tau
