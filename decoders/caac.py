"""CAAC: even out what the picture's keys attract, and read the picture harder when unsure.

Fazli et al., WACV 2026, arXiv:2505.21472 (confidence-aware attention calibration). Before softmax,
on picture keys, all heads.
Calibration: in the first layers, for rows after the picture, x_j becomes kappa_j x_j with kappa =
mean over the last three rows of ((1 - beta) a + beta mean_j a) / a, a being the picture's attention
when a white picture comes with a query of nonsense words. The statistics are of probabilities, the
factor is for scores, so that negative ones fall where positive ones rise.
Rescaling: in all layers and rows x becomes lambda x, lambda = max(1, lambda_min c + lambda_max (1 -
c)), c the greatest probability of the pass before, or 1 above `confident`.
Ours: the released code (mehrdadfazli/CAAC) keeps no cache. For each token it runs the whole
sequence twice, once to find c and once under the new lambda. Here the prompt alone is probed so
(with lambda 1); a generated token's c is that of the forward before it, and what is cached stays as
it was read under its own lambda. The white picture has the size of the real one, so that it takes
as many tokens. Defaults are the released configuration's; its command line's beta 0 means no
calibration, as here. First layers: 0 to 9 of 32, scaled to the model's. `halu.enable` cannot ask
about a white picture: there only beta 0 runs. Not reproduced: kappa in half precision (we only keep
to its range) and a backward pass that nothing reads.
"""

import copy

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from halu.attention import KeyMap, ScoreMap
from halu.attention.policy import AttentionPolicy
from halu.errors import BadInput
from halu.layers import proportional
from halu.layout import Layout
from halu.prompt import Prompt
from halu.strategy import Branch, Context, Paper, Plan, Strategy, StrategyParams, strategies
from halu.types import question

NONSENSE = "nana pina sequ zuta rupi"
LARGEST = 65504.0  # of half precision


@strategies.register("caac")
class CAAC(Strategy):
    """Confidence-aware attention calibration."""

    name = "caac"
    kind = "attention"
    paper = Paper(
        short="Confidence-Aware Attention Calibration", arxiv="2505.21472", venue="WACV 2026"
    )
    off = {"beta": 0.0, "lambda_max": 1.0}

    class Params(StrategyParams):
        """Calibration and rescaling."""

        beta: float = Field(
            0.7, ge=0, le=1, description="How far the picture's keys are evened out; 0: not."
        )
        layers: int | None = Field(
            None,
            ge=1,
            le=1000,
            description="How many layers, from the first, are evened out; none: 10 of 32, scaled.",
        )
        lambda_min: float = Field(
            1.0, ge=0, le=5, description="Factor of the picture's scores when sure; at least 1."
        )
        lambda_max: float = Field(
            1.5, ge=0, le=5, description="Factor of the picture's scores when unsure."
        )
        confident: float = Field(
            0.25, ge=0, le=1, description="Greatest probability above which it is sure."
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its picture's scores scaled, after up to two passes beside it."""
        p, most = self.params, ctx.model.layers
        if (p.layers or 0) > most:
            raise BadInput(
                f"Parameter layers={p.layers} is out of range, there are {most}.",
                param="params.layers",
            )
        layers = proportional(most, 0, 9) if p.layers is None else range(p.layers)

        def make(prompt: Prompt) -> AttentionPolicy:
            kappa = evened(ctx, prompt, layers, p.beta) if p.beta else {}
            policy = Calibrated(prompt.layout, p, kappa)
            if max(p.lambda_min, p.lambda_max) > 1:
                ctx.prefill(Branch("probe", prompt), (policy,))
            return policy

        return Plan(ctx.main, policies=(make,))


def evened(ctx: Context, prompt: Prompt, layers: range, beta: float) -> dict[int, Tensor]:
    """kappa [H, N] by layer for the picture tokens of a prompt."""
    white = [Image.new("RGB", image.size, "white") for image in prompt.images]
    asked = ctx.branch("white", messages=question(NONSENSE, *white))
    blank = Blank(asked.prompt.layout, layers)
    ctx.prefill(asked, (blank,))
    assert asked.prompt.layout.image_tokens == prompt.layout.image_tokens
    return {layer: factors(torch.stack(rows, -2), beta) for layer, rows in blank.seen.items()}


def factors(attention: Tensor, beta: float) -> Tensor:
    """kappa [..., N] from the attention [..., rows, N] of a few rows."""
    a = attention.clamp(min=torch.finfo(attention.dtype).tiny)
    kappa = ((1 - beta) * a + beta * a.mean(-1, keepdim=True)) / a
    return kappa.mean(-2).clamp(max=LARGEST)


class Blank(AttentionPolicy):
    """Changes nothing; keeps the picture's attention [H, N] in the last three rows, by layer."""

    looks_back = 3

    def __init__(self, layout: Layout, layers: range) -> None:
        self.layers = layers
        self.image = torch.from_numpy(layout.is_image())
        self.seen: dict[int, list[Tensor]] = {}

    def looks(self, layer: int) -> bool:
        """In the layers that are evened out."""
        return layer in self.layers

    def look(self, layer: int, x: Tensor) -> None:
        """Keeps one row, from scores [H, K]."""
        image = self.image[: x.shape[-1]].to(x.device)
        self.seen.setdefault(layer, []).append(torch.softmax(x, -1)[:, image])


class Calibrated(AttentionPolicy):
    """Groups: 0 text, 1 picture: scores times lambda, then times kappa [H, N] by layer."""

    groups = 2
    key_rows = "after_image"
    carries = True
    pieces = True

    def __init__(self, layout: Layout, params: CAAC.Params, kappa: dict[int, Tensor]) -> None:
        self.params = params
        self.keyed = bool(kappa)
        self.factor = torch.ones(())
        image = torch.from_numpy(layout.is_image())
        self._labels = image.long()
        self._maps = {layer: KeyMap(_spread(own, image)) for layer, own in kappa.items()}

    def fork(self) -> "Calibrated":
        """Each hypothesis has its own confidence."""
        return copy.copy(self)

    def heard(self, scores: Tensor) -> None:
        """lambda of the next forward, from this one's scores [V]."""
        p = self.params
        sure = torch.softmax(scores, -1).max()
        sure = torch.where(sure > p.confident, 1.0, sure)
        self.factor = (p.lambda_min * sure + p.lambda_max * (1 - sure)).clamp(min=1)

    def labels(self, layer: int) -> Tensor:
        """The same in all layers."""
        return self._labels

    def score_map(self, layer: int) -> ScoreMap:
        """lambda for the picture."""
        slopes = torch.stack([torch.ones_like(self.factor), self.factor])
        return ScoreMap(slopes, slopes, torch.zeros_like(slopes))

    def key_map(self, layer: int) -> KeyMap | None:
        """kappa, in the layers that have one."""
        return self._maps.get(layer)


def _spread(kappa: Tensor, image: Tensor) -> Tensor:
    """Factors of all prompt keys [H, T] from those of the picture's [H, N]."""
    table = kappa.new_ones(len(kappa), len(image))
    table[:, image.to(kappa.device)] = kappa
    return table
