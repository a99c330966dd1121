"""The built-in world's finders: the tower of a built-in model with a small head that names patches,
and boxes around connected patches of one name.

`python -m halu.training.patches` trains the heads. They know the built-in world's categories and no
photographs.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from halu import models, torchvision_shim
from halu.grounding import Box, Sighting
from halu.grounding.squares import place, stretched

torchvision_shim.apply()

import transformers

from halu.grounding.towers import clip_patches, qwen_patches
from halu.scenes import NAMES

SIDES = {"tiny-llava": 112, "tiny-qwen": 168}
"""Pixels along a side of what each model's tower sees."""
WIDTH, HIDDEN = 160, 128
HEADS = "tiny-patches"

Map = npt.NDArray[np.float32]


def head() -> nn.Sequential:
    """From a patch [..., 160] to scores of every name, the last being none of them."""
    return nn.Sequential(
        nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, len(NAMES) + 1)
    )


def tower(name: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The vision tower of a built-in model, and what makes patches [B, N, 160] of pictures
    [B, side, side, 3] uint8 with it.
    """
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
        Path(models.__file__).parent / name, dtype=torch.float32
    ).model.eval()
    if name == "tiny-llava":
        return model.vision_tower, partial(clip_patches, model.vision_tower)
    return model.visual, partial(qwen_patches, model.visual)


class PatchFinder:
    """A finder that knows the built-in world's names; `model` is the built-in model whose tower it
    uses.
    """

    def __init__(self, model: str) -> None:
        self._side = SIDES[model]
        self._tower, self._patches = tower(model)
        self._tower.to(place())
        self._head = head()
        folder = Path(models.__file__).parent / HEADS
        self._head.load_state_dict(load_file(folder / f"{model}.safetensors"))
        self._head.to(place()).eval()
        self._lock = threading.Lock()

    def find(self, image: Image.Image, phrase: str, box: float, text: float) -> list[Box]:
        """See `halu.grounding.Finder`."""
        found = self.spot(image, [phrase], max(box, text))[0]
        return [one.box for one in found or ()]

    def spot(
        self, image: Image.Image, phrases: Sequence[str], least: float
    ) -> list[list[Sighting] | None]:
        """See `halu.grounding.Finder`."""
        named = self.named(image)
        return [
            sightings(named[NAMES.index(phrase)], least) if phrase in NAMES else None
            for phrase in phrases
        ]

    @torch.no_grad()
    def named(self, image: Image.Image) -> Map:
        """Probability of each name at each patch [names, rows, columns]."""
        square = np.array(stretched(image, self._side))
        with self._lock:
            patches = self._patches(torch.from_numpy(square)[None].to(place()))
            p = torch.softmax(self._head(patches)[0], -1)
        side = round(len(p) ** 0.5)
        found: Map = p.T.reshape(-1, side, side)[: len(NAMES)].float().cpu().numpy()
        return found


def sightings(p: Map, least: float) -> list[Sighting]:
    """Boxes around connected cells with at least this probability, each with its largest."""
    found = []
    for cells in _connected(p >= least):
        rows, columns = zip(*cells, strict=True)
        height, width = p.shape
        box = Box(
            min(columns) / width,
            min(rows) / height,
            (max(columns) + 1) / width,
            (max(rows) + 1) / height,
        )
        found.append(Sighting(box, max(float(p[cell]) for cell in cells)))
    return sorted(found, key=lambda one: -one.score)


def _connected(here: npt.NDArray[np.bool_]) -> Iterator[list[tuple[int, int]]]:
    """Groups of cells that touch along a side."""
    left = {(int(row), int(column)) for row, column in np.argwhere(here)}
    while left:
        start = left.pop()
        group, edge = [start], deque([start])
        while edge:
            row, column = edge.popleft()
            for cell in (
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if cell in left:
                    left.remove(cell)
                    group.append(cell)
                    edge.append(cell)
        yield group
