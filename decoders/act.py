"""ACT: take attention from sinks after the first one and give it to the row's other keys.

Yu et al., ICML 2024, arXiv:2406.15765 (text models). Per layer and head, from the prompt's map P of
N rows: key j is a sink if its mean over the rows that see it, sum_i P_ij / (N - j), exceeds the
threshold; the first sink is kept, S are the others. Every row keeps the share beta of its mass on S
and gives the rest to its other keys in proportion, so it still sums to 1. Generated tokens' rows do
the same with the prompt's S, and their own keys are never sinks.
mode="paper": threshold 5 / N, the paper's alpha / N as told at second hand. mode="official"
(GATECH-EIC/ACT): threshold 0.1. Both: beta 0.4, layers from the third to the last but one. The
authors choose heads offline, one by one on labelled data (here: `halu calibrate MODEL act`, then
`pairs`); their own lists are for Llama-2-7B-chat (`published`). Without a choice all heads of the
layers take part. What the released code does to generated tokens is a bug, had by
`released_decode`: S is found anew in each row by the threshold, what S gives goes to all keys, S
too, and the first key's weight becomes 1, so the row sums to more. Evidence does not show that.
Not reproduced: NaN where a row's mass all lies on S; such a row stays as it is.
"""

import copy

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import KeyMap, Redistribution
from halu.attention.policy import AttentionPolicy
from halu.constants import ACTList, act_heads
from halu.errors import BadInput
from halu.layers import Indices, Pair, heads_by_layer
from halu.strategy import (
    Context,
    Mode,
    ModelFacts,
    Paper,
    Plan,
    Strategy,
    StrategyParams,
    strategies,
)


@strategies.register("act")
class ACT(Strategy):
    """Attention calibration."""

    name = "act"
    kind = "attention"
    paper = Paper(short="Attention Calibration", arxiv="2406.15765", venue="ICML 2024")
    off = {"beta": 1.0}

    class Params(StrategyParams):
        """What a sink is, what it keeps, and in which heads."""

        mode: Mode = "paper"
        beta: float = Field(0.4, ge=0, le=1, description="Share of its attention a sink keeps.")
        threshold: float | None = Field(
            None,
            gt=0,
            le=2,
            description="Mean attention that makes a sink; none: 5 / tokens (official: 0.1).",
        )
        layers: Indices | None = Field(
            None,
            description="Layers whose heads all take part; none: but the first two and the last.",
        )
        pairs: tuple[Pair, ...] | None = Field(
            None,
            min_length=1,
            max_length=10000,
            description="Single heads as pairs of layer and head, instead of layers.",
        )
        published: ACTList | None = Field(
            None, description="The authors' list of heads for Llama-2-7B-chat, instead of layers."
        )
        released_decode: bool = Field(
            False, description="Treat generated tokens as the released code does, bug included."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its sinks calibrated."""
        heads = chosen(self.params, ctx.model)
        return Plan(
            ctx.main,
            policies=(lambda prompt: Calibrate(prompt.layout.length, self.params, heads),),
        )


class Calibrate(AttentionPolicy):
    """Groups: 0 the others, 1 sinks but the first; `heads` [H] by layer says which take part."""

    groups = 2

    def __init__(self, length: int, params: ACT.Params, heads: dict[int, Tensor]) -> None:
        self.length = length
        self.params = params
        self.heads = heads
        self.keyed = params.released_decode
        keep, give = torch.tensor([1.0, params.beta]), torch.tensor([1.0, 0.0])
        self._epilogue = Redistribution.of(keep, give)
        self._labels: dict[int, Tensor] = {}
        self._gain: dict[int, Tensor] = {}

    def fork(self) -> "Calibrate":
        """Only what is found in generated rows differs."""
        twin = copy.copy(self)
        twin._gain = dict(self._gain)
        return twin

    def watch(self, layer: int) -> Tensor | None:
        """All rows."""
        return torch.arange(self.length) if layer in self.heads else None

    def watched(self, layer: int, mass: Tensor, own: Tensor) -> None:
        """Labels of a layer, if there are sinks to calibrate."""
        mean = mass / torch.arange(self.length, 0, -1, device=mass.device)
        sinks = self._sinks(layer, mean)
        if bool(sinks.any()):
            self._labels[layer] = sinks.long()

    def labels(self, layer: int) -> Tensor | None:
        """None where there is no sink but the first."""
        return None if layer in self._gain else self._labels.get(layer)

    def epilogue(self, layer: int) -> Redistribution:
        """Sinks keep beta, the rest of their mass goes to the others."""
        return self._epilogue

    def looks(self, layer: int) -> bool:
        """Only for `released_decode`."""
        return self.params.released_decode and layer in self.heads

    def look(self, layer: int, x: Tensor) -> None:
        """The released code's weights of a generated token's row, from its scores [H, K]."""
        if x.shape[1] > self.length:
            p, beta = torch.softmax(x, -1), self.params.beta
            sinks = self._sinks(layer, p)
            gain = torch.where(sinks, beta, 1.0) + (1 - beta) * (p * sinks).sum(-1, keepdim=True)
            gain[:, 0] = 1 / p[:, 0].clamp(min=1e-30)
            self._gain[layer] = torch.where(self.heads[layer].to(x.device)[:, None], gain, 1.0)

    def key_map(self, layer: int) -> KeyMap | None:
        """Only for `released_decode`."""
        return KeyMap(gain=self._gain[layer]) if layer in self._gain else None

    def _sinks(self, layer: int, mean: Tensor) -> Tensor:
        """True for a layer's sinks but the first of each head, from means [H, K]."""
        p, keys = self.params, mean.shape[1]
        limit = (5 / keys if p.mode == "paper" else 0.1) if p.threshold is None else p.threshold
        over = mean > limit
        return over & (over.cumsum(-1) > 1) & self.heads[layer].to(mean.device)[:, None]


def chosen(p: ACT.Params, model: ModelFacts) -> dict[int, Tensor]:
    """Which heads [H] take part, by layer."""
    given = [name for name in ("layers", "pairs", "published") if getattr(p, name) is not None]
    if len(given) > 1:
        raise BadInput(
            f"Parameters {' and '.join(given)} both choose heads.", param=f"params.{given[1]}"
        )
    if p.pairs is not None:
        pairs = p.pairs
    elif p.published is not None:
        pairs = act_heads(p.published, model).pairs
    else:
        layers = range(2, model.layers - 1) if p.layers is None else p.layers
        pairs = tuple((layer, head) for layer in layers for head in range(model.heads))
    if not pairs:
        raise BadInput(
            f"Of {model.layers} layers none is left without the first two and the last.",
            hint="Name them: -p layers=[0].",
            param="params.layers",
        )
    return heads_by_layer((given or ["layers"])[0], pairs, model)
