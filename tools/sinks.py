"""VAR's sink dimensions of a model, found on built-in scenes.

    python tools/sinks.py tiny-llava --n 100

A sink token has a massive value in a few fixed dimensions of the residual stream (VAR, arXiv
2503.03321, section 3). For the inputs of layers 2 and up, each dimension's largest |r| / rms over a
scene's tokens is averaged over scenes; the two dimensions that lead are printed, with the values
that the strongest and the usual tokens reach, so that a threshold between them can be chosen. The
result belongs in `halu/constants.py`.
"""

import argparse

import torch
from PIL import Image
from torch import Tensor

from halu.adapters.cache import RowCache
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.cli.models import load_quietly
from halu.scenes import draw


class Peaks(AttentionPolicy):
    """Changes nothing; keeps |r| / rms of every prompt token for layers 2 and up."""

    reads = "prompt"

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def read(self, layer: int, hidden: Tensor) -> None:
        """Keeps [T, D] of one layer."""
        if layer >= 2:
            rms = (hidden.float().pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
            self.values.append(hidden.float().abs() / rms)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=100)
    options = parser.parse_args()
    vlm = load_quietly(options.model)
    found = []
    for seed in range(options.n):
        picture = Image.fromarray(draw(seed, "val").image)
        prompt = vlm.adapter.encode(vlm.request(picture, "Please describe this image.").messages)
        peaks = Peaks()
        cache = RowCache(vlm.adapter.facts.layers)
        vlm.adapter.runner.read([prompt], [Steered(prompt.layout, (peaks,))], cache)
        found.append(torch.stack(peaks.values))  # [layers, T, D]
    largest = torch.stack([scene.amax((0, 1)) for scene in found]).mean(0)
    leaders = largest.topk(6)
    print(
        "dimension: mean of the largest value",
        dict(zip(leaders.indices.tolist(), leaders.values.tolist(), strict=True)),
    )
    pair = leaders.indices[:2]
    values = torch.cat([scene[..., pair].amax(-1).flatten() for scene in found])
    marks = torch.tensor([0.5, 0.9, 0.95, 0.99, 0.999])
    print(
        "quantiles of tokens in the leading two",
        dict(zip(marks.tolist(), values.quantile(marks).tolist(), strict=True)),
    )


if __name__ == "__main__":
    main()
