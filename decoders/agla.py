"""AGLA: add what the model says about a copy of the picture in which only what the question is
about is left.

An et al., CVPR 2025, arXiv:2406.12718. s = z + alpha z', kept where z >= max z + ln beta. z' comes
from the picture with the least relevant places black: a map of relevance to the question, enlarged
to 384 x 384 (cubic), blurred, thresholded so that a share min(1 - similarity / 2, 1 - 1e-5) stays.
The map is that of an image-text model, in the paper BLIP-ITM (`matcher="blip-itm"`); by default
CLIP, which halu brings along; its similarities are smaller than BLIP's, so that more stays. The
question is the last user message, a benchmark's suffix included; `text` replaces it, and must be
given under halu.enable, where the conversation is tokens. mode="paper": the second branch keeps its
own memory, and the mask is laid over the picture in its own size. mode="official" (Lackel/AGLA):
the second branch lives for the first token only, afterwards s = (1 + alpha) z; and the masked
picture is the 384 x 384 one, so that models that keep proportions see it squashed. Under sampling
the latter is plain decoding at temperature 1 / (1 + alpha), so compare with greedy too. Not
reproduced: a flat map, which the code divides by zero, so that every place stays; here it stays by
rule. The code's decoding is inert unless sampling is on; ours is not.
"""

import re
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field
from torch import Tensor

from halu.conversation import question_of
from halu.errors import Unavailable, Unsupported
from halu.grounding import Heatmap, open_matcher
from halu.rules import Additive, Cutoff, plausible, towards
from halu.strategy import (
    Context,
    Mode,
    Paper,
    Plan,
    Step,
    Strategy,
    StrategyParams,
    strategies,
)
from halu.types import OPERATOR
from halu.views import ImageView

SIDE = 384
WORDS = 50


@strategies.register("agla")
class AGLA(Strategy):
    """Assembly of global and local attention."""

    name = "agla"
    kind = "image"
    paper = Paper(
        short="Assembly of Global and Local Attention", arxiv="2406.12718", venue="CVPR 2025"
    )
    off = {"alpha": 0.0, "beta": 0.0}

    class Params(StrategyParams):
        """The masked picture's weight, and what masks it."""

        mode: Mode = "paper"
        alpha: float = Field(2.0, ge=0, le=10, description="Weight of the masked picture.")
        beta: Cutoff = 0.5
        matcher: Literal["clip", "blip-itm"] = Field(
            "clip",
            description="Image-text model that says what the question is about.",
            json_schema_extra=OPERATOR,
        )
        weights: str | None = Field(
            None,
            max_length=4096,
            description="Its folder or hub id; none: built-in tiny-clip, or the published BLIP.",
            json_schema_extra=OPERATOR,
        )
        text: str | None = Field(
            None, max_length=4096, description="What to look for; none: the last user message."
        )

    def plan(self, ctx: Context) -> Plan:
        """A second branch on the masked picture."""
        p = self.params
        masked = ctx.branch(
            "masked", image=self._view(cleaned(p.text or question_of(ctx.request.messages)))
        )

        def first(step: Step) -> Tensor:
            return towards("masked" if step.index == 0 else "main", p.alpha)(step)

        term = first if p.mode == "official" else towards("masked", p.alpha)
        return Plan(ctx.main, (masked,), Additive((term,), plausible(p.beta)))

    def _view(self, text: str) -> ImageView:
        p = self.params

        def view(image: Image.Image) -> Image.Image:
            if not text:
                raise Unsupported(
                    "Strategy 'agla' needs the question in words.",
                    hint='Give it as text="...".',
                    param="params.text",
                )
            found = open_matcher(p.matcher, p.weights).relevance(image, text)
            kept = relevant(enlarged(found.map, SIDE), found.similarity)
            if p.mode == "official":
                image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            return blackened(image, kept)

        return view


def cleaned(text: str) -> str:
    """A question as BLIP was trained on them: lower case, most marks removed, 50 words."""
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", text.lower()).split()[:WORDS])


def enlarged(found: Heatmap, side: int) -> Heatmap:
    """A map as a [side, side] one between 0 and 1: normalised, cubic, blurred by 2 % of the side,
    normalised again; all 0 if it is flat.

    Raises:
        Unavailable: if scipy is missing.
    """
    try:
        from scipy import ndimage
    except ModuleNotFoundError as error:
        raise Unavailable.without("clip", "Strategy 'agla' needs scipy.") from error
    low = np.asarray(found - found.min(), dtype=np.float32)
    if not low.any():
        return np.zeros((side, side), dtype=np.float32)
    low /= low.max()
    zoom = [side / length for length in low.shape]
    # beyond its edges the map is 0, and pixels are areas, not points
    wide = ndimage.zoom(low, zoom, order=3, mode="grid-constant", grid_mode=True).clip(0, 1)
    soft = ndimage.gaussian_filter(wide, 0.02 * side)
    soft -= soft.min()
    return np.asarray(soft / soft.max(), dtype=np.float32)


def relevant(found: Heatmap, similarity: float) -> npt.NDArray[np.bool_]:
    """Which places stay: the better the text fits the picture, the fewer."""
    share = min(1 - similarity / 2, 1 - 1e-5)
    ranked = np.sort(found, axis=None)[::-1]
    return np.asarray(found >= ranked[int(found.size * share)])


def blackened(image: Image.Image, kept: npt.NDArray[np.bool_]) -> Image.Image:
    """The picture, black where nothing is kept."""
    rows, columns = (
        ((np.arange(length) + 0.5) * side / length).astype(int)
        for length, side in zip(image.size[::-1], kept.shape, strict=True)
    )
    mask = kept[rows][:, columns, None].astype(np.uint8)
    return Image.fromarray(np.asarray(image.convert("RGB")) * mask)
