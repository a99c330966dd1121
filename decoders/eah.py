"""EAH: let every head of one shallow layer read the prompt as its best-looking head does.

Zhang et al., "Seeing Clearly by Layer Two", EMNLP 2025, arXiv:2411.09968. While the prompt is read,
in one layer: c_hj is the mean attention that picture key j gets in head h from the rows after it;
the head with the most keys of c_hj > threshold (the first on ties) lends its attention map to all
heads of the layer, each with its own values. Without any such key nothing changes. Generated tokens
are not touched, but what they read was written under the lent map.
mode="paper": layer 1 and threshold 0.002, as the authors' README has them; c_hj is the true mean.
mode="official" (itsqyh/Shallow-Focus-Deep-Fixes): layer 15 of 32, round(15 L / 32) in a model of L;
threshold 0.0008; a picture's first key is left out, and with the picture in [s, e) the sum over
rows is divided by e, e - 1, ... for the keys s + 1, s + 2, ..., whatever the number of rows; if
head 0 wins, nothing changes. Not reproduced: the literal place of the picture, 32 heads, an
environment variable for the threshold that is not read.
"""

import torch
from pydantic import Field
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.layers import check_range, proportional
from halu.layout import Layout
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies

THRESHOLDS = {"paper": 0.002, "official": 0.0008}


@strategies.register("eah")
class EAH(Strategy):
    """Enhancing attention heads."""

    name = "eah"
    kind = "attention"
    paper = Paper(short="Enhancing Attention Heads", arxiv="2411.09968", venue="EMNLP 2025")
    off = {"threshold": 1.0}

    class Params(StrategyParams):
        """Which layer, and what a head is counted by."""

        mode: Mode = "paper"
        layer: int | None = Field(
            None, ge=0, lt=1000, description="The layer; none: the second (official: 15 of 32)."
        )
        threshold: float | None = Field(
            None,
            ge=0,
            le=1,
            description="Mean attention above which a picture key counts; none: the mode's own.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, one layer's heads reading alike."""
        p, layers = self.params, ctx.model.layers
        own = 1 if p.mode == "paper" else proportional(layers, 15, 15).start
        layer = own if p.layer is None else p.layer
        check_range("layer", layer, layers)
        official = p.mode == "official"
        limit = THRESHOLDS[p.mode] if p.threshold is None else p.threshold
        return Plan(
            ctx.main, policies=(lambda prompt: Lend(prompt.layout, layer, limit, official),)
        )


class Lend(AttentionPolicy):
    """Chooses the lending head of one layer while the prompt is read."""

    def __init__(self, layout: Layout, layer: int, threshold: float, official: bool) -> None:
        self.layer = layer
        self.threshold = threshold
        self.official = official
        self.rows_read = torch.arange(layout.length)
        self.seen_by = layout.length - 1 - self.rows_read  # rows after each key
        self.counted = torch.from_numpy(layout.is_image()) & (self.seen_by > 0)
        if official:
            for span in layout.images:
                self.counted[span.start] = False
                keys = torch.arange(span.start + 1, span.stop)
                self.seen_by[keys] = span.stop + span.start + 1 - keys
                self.counted[keys] = True
        self._lender: Tensor | None = None

    def watch(self, layer: int) -> Tensor | None:
        """All rows of the one layer."""
        return self.rows_read if layer == self.layer else None

    def watched(self, layer: int, mass: Tensor, own: Tensor) -> None:
        """Chooses."""
        counts = self.counts(mass, own)
        best = int((counts == counts.max()).nonzero()[0])
        if counts[best] > 0 and not (self.official and best == 0):
            self._lender = torch.full((len(counts),), best)

    def counts(self, mass: Tensor, own: Tensor) -> Tensor:
        """How many picture keys each head [H] looks at, from column masses [H, T]."""
        keys = self.counted.to(mass.device)
        mean = (mass - own)[:, keys] / self.seen_by.to(mass)[keys]
        return (mean > self.threshold).sum(-1)

    def borrowed_heads(self, layer: int) -> Tensor | None:
        """The chosen head for all."""
        return self._lender if layer == self.layer else None
