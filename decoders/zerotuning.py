"""ZeroTuning: give the prompt's first token more or less attention, and the others the rest.

Han et al., arXiv:2505.11739 (text models). With a the first token's mass in a row: p_0 becomes
gamma p_0 / (1 + (gamma - 1) a), every other p_j becomes p_j / (1 + (gamma - 1) a); the same as ln
gamma added to its score. All rows, in the chosen layers and heads. The first token is a sink that
nobody means to read, so gamma < 1 frees attention for everything else, the picture included. The
authors profile heads (here: `halu calibrate MODEL zerotuning`, then `pairs`) and find gamma on
labelled data or by the answer's entropy: 0.3 for yes/no reading questions, our default, 4 for
sentiment; nobody has published values for pictures, so tune it. As in the released code
(FeijiangHan/ZeroTuning) a run has one gamma and may scale a range of keys.
Not reproduced: position 0 under left padding, which is a pad; the broken call and its import.
"""

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import Redistribution
from halu.attention.policy import AttentionPolicy
from halu.errors import BadInput
from halu.layers import Indices, Pair
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("zerotuning")
class ZeroTuning(Strategy):
    """Attention of the first token, scaled."""

    name = "zerotuning"
    kind = "attention"
    paper = Paper(short="ZeroTuning", arxiv="2505.11739", venue="arXiv 2025")
    off = {"gamma": 1.0}

    class Params(StrategyParams):
        """One factor and where it acts."""

        gamma: float = Field(
            0.3, gt=0, le=100, description="Factor of the first token's attention, before the sum."
        )
        layers: Indices | None = Field(None, description="Layers that take part; none: all.")
        heads: Indices | None = Field(None, description="Heads that take part; none: all.")
        pairs: tuple[Pair, ...] | None = Field(
            None,
            min_length=1,
            max_length=10000,
            description="Single heads as pairs of layer and head, among those above; none: all.",
        )
        key: int = Field(0, ge=0, le=2**20, description="First scaled token of the prompt.")
        keys: int = Field(1, ge=1, le=2**20, description="How many tokens are scaled.")

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its first token scaled."""
        p = self.params
        length = ctx.main.prompt.layout.length
        pairs = p.pairs or ((0, 0),)
        for name, most, limit in (
            ("layers", max(p.layers or (0,)), ctx.model.layers),
            ("heads", max(p.heads or (0,)), ctx.model.heads),
            ("pairs", max(layer for layer, _ in pairs), ctx.model.layers),
            ("pairs", max(head for _, head in pairs), ctx.model.heads),
            ("key", p.key, length),
            ("keys", p.key + p.keys - 1, length),
        ):
            if most >= limit:
                raise BadInput(
                    f"Parameter {name}={getattr(p, name)} is out of range, there are {limit}.",
                    param=f"params.{name}",
                )
        listed = None if p.pairs is None else frozenset(p.pairs)
        scaled = torch.tensor(
            [
                [_takes_part(p, listed, layer, head) for head in range(ctx.model.heads)]
                for layer in range(ctx.model.layers)
            ]
        )
        return Plan(ctx.main, policies=(lambda prompt: Scale(prompt.layout.length, p, scaled),))


def _takes_part(
    p: ZeroTuning.Params, pairs: frozenset[tuple[int, ...]] | None, layer: int, head: int
) -> bool:
    return (
        (p.layers is None or layer in p.layers)
        and (p.heads is None or head in p.heads)
        and (pairs is None or (layer, head) in pairs)
    )


class Scale(AttentionPolicy):
    """Groups: 0 the others, 1 the first token; `scaled` [L, H] says which heads take part."""

    settled = True
    pieces = True
    groups = 2

    def __init__(self, length: int, params: ZeroTuning.Params, scaled: Tensor) -> None:
        gamma = torch.where(scaled, params.gamma, 1.0)  # [L, H]
        shares = torch.stack([torch.ones_like(gamma), gamma], -1)
        self.scaled = scaled
        self._epilogues = [Redistribution.of(share, share) for share in shares]
        self._labels = torch.zeros(length, dtype=torch.int64)
        self._labels[params.key : params.key + params.keys] = 1

    def labels(self, layer: int) -> Tensor | None:
        """None in layers that do not take part."""
        return self._labels if bool(self.scaled[layer].any()) else None

    def epilogue(self, layer: int) -> Redistribution:
        """The first token's mass times gamma, then all in proportion, so that the row sums to 1."""
        return self._epilogues[layer]
