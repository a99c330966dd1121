"""SID: subtract what the model says when it sees only what it attends to least in the picture.

Huo et al., ICLR 2025, arXiv:2408.02032 (self-introspective decoding). A second branch of the same
prompt: after layer agg - 1 (from 0), the `keep` picture keys with the least attention from the
newest row, mean of heads, stay visible; the others are hidden from every row in layers [agg, L).
Chosen anew with every token, on the branch's own keys; positions stay. s = (1 + alpha) z - alpha
z', kept where z >= max z + ln beta, as VCD. With no more than `keep` picture tokens nothing is
hidden, and s is z with the cutoff. Alpha 1, beta 0.1, agg 2 and keep 100 are the released
(huofushuo/SID) commands' for POPE; for CHAIR they keep 50.
mode="paper": always with the cutoff. mode="official": the sampler is never told alpha and beta and
falls back to 0.5 and 0.1 (pass alpha 0.5), and at temperature 0 it forgets the cutoff;
`halu.enable` cannot know its host's temperature and takes it for 0. Not reproduced: one choice for
a whole batch; agg 0, a random choice; flags that cannot be switched off.
"""

import copy

import torch
from pydantic import Field
from torch import Tensor

from halu.attention import KeyMap
from halu.attention.policy import AttentionPolicy
from halu.layers import check_range
from halu.layout import Layout
from halu.rules import Additive, Cutoff, against, plausible
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("sid")
class SID(Strategy):
    """Self-introspective decoding."""

    name = "sid"
    kind = "logits"
    paper = Paper(short="Self-Introspective Decoding", arxiv="2408.02032", venue="ICLR 2025")
    off = {"alpha": 0.0, "beta": 0.0}

    class Params(StrategyParams):
        """Contrast, and what its second branch sees."""

        mode: Mode = "paper"
        alpha: float = Field(
            1.0, ge=0, le=5, description="Weight of the contrast with the least attended."
        )
        beta: Cutoff = 0.1
        agg: int = Field(2, ge=1, lt=1000, description="First layer of the reduced view.")
        keep: int = Field(100, ge=1, le=2**20, description="Picture tokens that stay visible.")

    def plan(self, ctx: Context) -> Plan:
        """A second branch that sees little of the picture."""
        p = self.params
        check_range("agg", p.agg, ctx.model.layers)
        least = ctx.branch(
            "least", steered=False, policies=(lambda prompt: Least(prompt.layout, p.agg, p.keep),)
        )
        unmasked = p.mode == "official" and not ctx.request.sampling.temperature
        keeps = () if unmasked else plausible(p.beta)
        return Plan(ctx.main, (least,), Additive((against("least", p.alpha),), keeps))


class Least(AttentionPolicy):
    """From layer `agg` on hides the picture but for its `keep` least attended keys."""

    keyed = True

    def __init__(self, layout: Layout, agg: int, keep: int) -> None:
        self.agg = agg
        self.keep = min(keep, layout.image_tokens)
        self.image = torch.from_numpy(layout.is_image())
        self.hidden: Tensor | None = None  # [T]

    def fork(self) -> "Least":
        """Hypotheses look one after another before any is changed."""
        return copy.copy(self)

    def looks(self, layer: int) -> bool:
        """The last layer of the whole view."""
        return layer == self.agg - 1

    def look(self, layer: int, x: Tensor) -> None:
        """Chooses by the newest row, from scores [H, K]."""
        image = self.image.to(x.device)
        seen = torch.softmax(x, -1).mean(0)[: len(image)].masked_fill(~image, float("inf"))
        least = seen.topk(self.keep, largest=False).indices
        self.hidden = image.index_fill(0, least, False)

    def key_map(self, layer: int) -> KeyMap | None:
        """None in layers of the whole view."""
        if layer < self.agg or self.hidden is None:
            return None
        return KeyMap(bias=torch.where(self.hidden, float("-inf"), 0.0))
