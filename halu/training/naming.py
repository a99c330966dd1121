"""Stage (a): a tower learns to name what each patch shows, with its colour, its object's centre
and any printed word.

A tower trained through the language model alone needs hours; named patches teach it in minutes.
Colour, centre and place are there because questions on colours, counts and positions need them,
and a tower that only names throws them away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from halu.scenes import NAMES, Scene
from halu.scenes.themes import COLORS, NONSENSE_WORDS, REAL_WORDS
from halu.training.corpus import size_of

WORDS = (*REAL_WORDS, *NONSENSE_WORDS)
NOTHING = len(NAMES)
SIZES = (len(NAMES) + 1, len(COLORS), len(WORDS) + 1, 4)


class Truth(NamedTuple):
    """Per patch: name, colour (-1 where none is defined), word, and x, y of its object's centre
    and of itself.
    """

    name: Tensor
    color: Tensor
    word: Tensor
    place: Tensor


@dataclass(frozen=True, slots=True)
class _Rows:
    """One scene's things as table rows; the last row stands for nothing."""

    name: NDArray[np.int64]
    color: NDArray[np.int64]
    centre: NDArray[np.float32]


def _rows(scene: Scene) -> _Rows:
    side = size_of(scene.seed)
    name = [NAMES.index(thing.name) for thing in scene.things]
    color = [list(COLORS).index(thing.color) if thing.color else -1 for thing in scene.things]
    boxes = np.asarray([thing.box for thing in scene.things], np.float32).reshape(-1, 4)
    centre = (boxes[:, :2] + boxes[:, 2:]) / (2 * side)
    return _Rows(
        np.asarray([*name, NOTHING]),
        np.asarray([*color, -1]),
        np.concatenate([centre, np.zeros((1, 2), np.float32)]),
    )


def _words(scene: Scene, grid: int) -> NDArray[np.int64]:
    words = np.full((grid, grid), len(WORDS), np.int64)
    scale = grid / size_of(scene.seed)
    for sign in scene.prints:
        x0, y0, x1, y1 = (round(edge * scale) for edge in sign.box)
        words[y0 : max(y1, y0 + 1), x0:x1] = WORDS.index(sign.text)
    return words


def truth(scenes: Sequence[Scene], owners: NDArray[np.int8]) -> Truth:
    """What every patch of a batch shows; `owners` is [B, g, g]."""
    grid = owners.shape[1]
    steps = (np.arange(grid, dtype=np.float32) + 0.5) / grid
    own = np.stack(np.meshgrid(steps, steps), -1)
    names, colors, words, places = [], [], [], []
    for scene, owner in zip(scenes, owners.astype(np.int64), strict=True):
        rows = _rows(scene)
        names.append(rows.name[owner])
        colors.append(rows.color[owner])
        words.append(_words(scene, grid))
        places.append(np.concatenate([rows.centre[owner], own], -1))
    flat = [
        torch.from_numpy(np.stack(part)).flatten(1, 2) for part in (names, colors, words, places)
    ]
    return Truth(*flat)


class Namer(nn.Module):
    """The linear readings that a stage needs and no shipped model keeps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sum(SIZES))

    def forward(self, patches: Tensor) -> tuple[Tensor, ...]:
        """Scores for names, colours and words, and four coordinates, per patch."""
        return tuple(self.head(self.norm(patches)).split(SIZES, -1))


def loss(read: tuple[Tensor, ...], true: Truth) -> tuple[Tensor, float]:
    """The sum of the four losses, and the share of object patches named rightly."""
    name, color, word, place = read
    weight = torch.ones(len(NAMES) + 1, device=name.device)
    weight[NOTHING] = 0.3
    naming = F.cross_entropy(name.flatten(0, 1), true.name.flatten(), weight)
    coloring = F.cross_entropy(
        color.flatten(0, 1), true.color.flatten(), ignore_index=-1, reduction="sum"
    )
    coloring = coloring / (true.color >= 0).sum().clamp(min=1)
    reading = F.cross_entropy(word.flatten(0, 1), true.word.flatten())
    here = true.name != NOTHING
    off = (place - true.place).abs()
    placing = off[..., :2][here].mean() + off[..., 2:].mean()
    right = (name.argmax(-1) == true.name)[here].float().mean().item()
    return naming + 0.5 * coloring + 0.5 * reading + 2.0 * placing, right
