"""What benchmarks measure on: models of random weights, whose speed is that of others, and pictures
that nobody has seen.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from halu.engine import Local
from halu.testing.random_models import Size, random_adapter, save_random

Shape = tuple[str, Size]
"""A family (transformers' model type) and its sizes."""
LLAVA = {"vocab": 32064, "side": 336, "vision_hidden": 1024, "vision_layers": 24}
ON_GPU: dict[str, Shape] = {
    "LLaVA-1.5-7B": ("llava", Size(4096, 32, 32, 32, 11008, **LLAVA)),
    "LLaVA-1.5-13B": ("llava", Size(5120, 40, 40, 40, 13824, **LLAVA)),
    "Qwen2.5-VL-7B": ("qwen2_5_vl", Size(3584, 28, 28, 4, 18944, 152064, 672, 1280, 32)),
}
ON_CPU: dict[str, Shape] = {
    "LLaVA of 300 M": ("llava", Size(1024, 18, 16, 16, 2816, 32000, 336, 256, 4)),
}
TINY: dict[str, Shape] = {
    "tiny LLaVA": ("llava", Size()),
    "tiny Qwen2.5-VL": ("qwen2_5_vl", Size()),
}

SAVED = "LLaVA of 300 M"
RANDOM, WIDE = "random", "random-wide"
MADE: dict[str, Size] = {
    RANDOM: ON_CPU[SAVED][1],
    WIDE: Size(4096, 4, 32, 32, 11008, 4000, 336, 256, 4),
}
"""What `--model` calls a model that is made for a run: 300 M weights, or four of LLaVA-1.5-7B's
layers.
"""


@contextmanager
def source(model: str) -> Iterator[str]:
    """What to load a model from: its name, or the folder of one made for this run."""
    if model not in MADE:
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / model
        save_random(place, MADE[model])
        yield str(place)


def loaded(shape: Shape, device: str) -> Local:
    """A random model: bfloat16 on a GPU, float32 on a CPU."""
    family, size = shape
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
    try:
        with torch.device(device):
            adapter = random_adapter(family, size)
    finally:
        torch.set_default_dtype(before)
    adapter.model.generation_config.eos_token_id = size.vocab - 1
    return Local(adapter)


class Fresh:
    """Pictures of random pixels, other ones whenever it is asked."""

    def __init__(self, batch: int, seed: int) -> None:
        self._batch = batch
        self._random = np.random.default_rng([seed, batch])

    def __call__(self) -> list[Image.Image]:
        shape = (self._batch, 336, 336, 3)
        return [Image.fromarray(own) for own in self._random.integers(0, 255, shape, np.uint8)]
