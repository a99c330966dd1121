"""FIA (PAINT): raise the scores of the picture tokens that the vision tower's own attention names.

Arif et al., "Fixing Imbalanced Attention", later PAINT, arXiv:2501.12206. With u and w the class
token's attention to the patches, summed over heads, in the tower's first and second-to-last layer:
summary tokens S are the outliers of w, above Q3 + 1.5 (Q3 - Q1); local tokens are the int(ratio N)
of N patches with the highest u, without S. In layers [start_layer, end_layer), all heads, for the
prompt's last row and every generated token: x + a |x| before softmax, a = local (the authors'
alpha) on local and summary (their beta) on summary keys; other picture tokens keep theirs. Then
guidance as PAI: gamma lc + (1 - gamma) lu, lu without picture, kept where p >= beta max p under lc.
Defaults are the released script's; its command line has local 0.7 and gamma 2. For LLaVA-1.5; with
LLaVA-NeXT the tokens are the overview's, tiles keep theirs. Qwen's towers have no class token, so
there is nothing to read.
mode="official" (hasanar1f/PAINT): with guidance on the boost starts at the second token, as PAI's
does. The abstract's choice of heads and learned margins are in no code: all heads have the same.
Not reproduced: one loss in int(N (count / N)) for some grids; a third set, always empty.
"""

import torch
from pydantic import Field
from torch import Tensor

from halu.attention.boost import Boost
from halu.attention.policy import Rows
from halu.layers import layers_between
from halu.layout import Layout
from halu.prompt import Prompt
from halu.rules import Cutoff, Guidance, guided
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies


@strategies.register("fia", aliases=("paint",))
class FIA(Strategy):
    """Fixing imbalanced attention."""

    name = "fia"
    kind = "attention"
    paper = Paper(short="Fixing Imbalanced Attention", arxiv="2501.12206", venue="arXiv 2025")
    off = {"local": 0.0, "summary": 0.0, "gamma": 1.0}

    class Params(StrategyParams):
        """Two boosts and guidance."""

        mode: Mode = "paper"
        local: float = Field(0.9, ge=0, le=2, description="Boost of the local tokens' scores.")
        summary: float = Field(0.3, ge=0, le=2, description="Boost of the summary tokens' scores.")
        ratio: float = Field(0.25, ge=0, le=1, description="Share of the patches that are local.")
        gamma: Guidance = 1.1
        beta: Cutoff = 0.1
        start_layer: int = Field(2, ge=0, le=1000, description="First boosted layer.")
        end_layer: int | None = Field(
            None, ge=0, le=1000, description="Layer before which the boost ends; none: all."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch boosted, and a second branch without the picture."""
        p = self.params
        layers = layers_between(p.start_layer, p.end_layer, ctx.model.layers)
        rows: Rows = "decode" if p.gamma > 1 and p.mode == "official" else "last"

        def make(prompt: Prompt) -> Boost:
            seen = ctx.class_attention(prompt, (0, -2))
            sets = torch.stack([token_sets(first, late, p.ratio) for first, late in seen])
            return Boost(on_first_grids(prompt.layout, sets), [p.local, p.summary], layers, rows)

        policies = (make,) if p.local or p.summary else ()
        return guided(Plan(ctx.main, policies=policies), ctx, p.gamma, p.beta)


def token_sets(first: Tensor, late: Tensor, ratio: float) -> Tensor:
    """For each patch [N] 0, 1 if it is local, 2 if it is summary; from the class token's attention
    [N] in the first and a late layer of the tower.
    """
    late = late.double()
    low, high = late.quantile(torch.tensor([0.25, 0.75]).to(late))
    found = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    found[first.topk(int(len(first) * ratio)).indices] = 1
    found[late > high + 1.5 * (high - low)] = 2
    return found


def on_first_grids(layout: Layout, sets: Tensor) -> Tensor:
    """Labels [T]: those of the patches [pictures, N] on the first grid of each picture, else 0."""
    labels = torch.zeros(layout.length, dtype=torch.int64)
    for span, own in zip(layout.images, sets.cpu(), strict=True):
        grid = span.grids[0]
        rows = span.start + grid.start + grid.stride * torch.arange(grid.rows)
        labels[rows[:, None] + torch.arange(grid.columns)] = own.reshape(grid.rows, grid.columns)
    return labels
