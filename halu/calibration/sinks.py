"""VAR's sink dimensions of a model (Kang et al., arXiv:2503.03321, section 3).

A sink token has a massive value in a few fixed dimensions of the residual stream. For the inputs of
layers 2 and up, each dimension's largest |r| / rms(r) over a picture's tokens is averaged over
pictures; the two dimensions that lead are taken. Where their values are massive (twice the paper's
threshold of 20) the threshold is 20; small models have nothing massive, and get the value that only
one token in twenty exceeds.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from halu.aside import Aside, alone
from halu.attention.policy import AttentionPolicy
from halu.calibration.labelled import Tell
from halu.engine import Local
from halu.types import question

PUBLISHED_TAU = 20.0
QUESTION = "Please describe this image in detail."


class Peaks(AttentionPolicy):
    """Changes nothing; keeps |r| / rms of every prompt token for layers 2 and up."""

    reads = "prompt"

    def __init__(self, layers: int) -> None:
        self.layers = range(2, layers)
        self.values: list[Tensor] = []

    def read(self, layer: int, hidden: Tensor) -> None:
        """Keeps [T, D] of one layer."""
        if layer in self.layers:
            rms = (hidden.float().pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
            self.values.append((hidden.float().abs() / rms).cpu())


def find(
    vlm: Local, pictures: Sequence[Image.Image], tell: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters `dimensions` and `tau`, and the figures behind them."""
    seen: list[Tensor] = []
    leaders = torch.zeros(vlm.adapter.facts.hidden)
    for number, picture in enumerate(pictures):
        tell(number, len(pictures))
        peaks = Peaks(vlm.adapter.facts.layers)
        prompt = vlm.adapter.encode(question(QUESTION, picture))
        alone(vlm.adapter, [Aside.of(prompt, (peaks,))])
        found = torch.stack(peaks.values)  # [layers, T, D]
        leaders += found.amax((0, 1)) / len(pictures)
        seen.append(found.amax(0))
    tell(len(pictures), len(pictures))
    dimensions = leaders.topk(2).indices.tolist()
    values = torch.cat([part[:, dimensions].amax(-1) for part in seen])  # by token
    massive = float(leaders[dimensions].min()) > 2 * PUBLISHED_TAU
    tau = PUBLISHED_TAU if massive else round(float(values.quantile(0.95)) * 4) / 4
    marks = (0.5, 0.9, 0.95, 0.99, 1.0)
    details = {
        "largest value by dimension": {
            str(int(i)): round(float(leaders[i]), 2) for i in leaders.topk(6).indices
        },
        "quantiles of tokens in the two that lead": {
            str(mark): round(float(values.quantile(mark)), 2) for mark in marks
        },
        "massive": massive,
    }
    return {"dimensions": sorted(dimensions), "tau": tau}, details
