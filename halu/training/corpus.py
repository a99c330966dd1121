"""The training pictures, drawn once and kept as arrays that any stage can map into memory.

Scenes are drawn at several sizes and reduced as the image processors do it, so that a large
picture and a small one look alike to the towers.
"""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.scenes import Scene, draw
from halu.scenes.drawing import Split
from halu.scenes.scene import PATCH_SHARE
from halu.training import truth_files

SMALL, MIDDLE = 112, 168
GRIDS = {SMALL: 8, MIDDLE: 12}
SIZES = (224, 336, 224, 112, 168, 224)
Bytes = NDArray[np.uint8]
Owners = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Corpus:
    """`n` scenes: truth without pixels; by resolution the pixels, and which thing owns each
    patch.
    """

    scenes: list[Scene]
    pixels: dict[int, Bytes]
    owners: dict[int, Owners]

    def __len__(self) -> int:
        return len(self.scenes)


def reduced(image: Bytes, side: int) -> Bytes:
    """As the processors resize: bicubic with antialiasing."""
    if image.shape[0] == side:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def owners(scene: Scene, grid: int) -> Owners:
    """[grid, grid] index into `scene.things` of the thing with most of each patch, else -1; as
    `Scene.labels` decides.
    """
    side, kinds = scene.owner.shape[0], len(scene.things) + 1
    lines = np.arange(side) * grid // side
    cells = (lines[:, None] * grid + lines[None, :]) * kinds
    shares = np.bincount((cells + scene.owner + 1).ravel(), minlength=grid * grid * kinds).reshape(
        grid, grid, kinds
    )
    enough = shares[..., 1:].max(-1) >= PATCH_SHARE * shares.sum(-1)
    return np.where(enough, shares[..., 1:].argmax(-1), -1).astype(np.int8)


def size_of(seed: int) -> int:
    """The side at which a training scene is drawn."""
    return SIZES[seed % len(SIZES)]


def _one(job: tuple[int, Split]) -> tuple[Scene, dict[int, Bytes], dict[int, Owners]]:
    seed, split = job
    scene = draw(seed, split=split, size=size_of(seed))
    pixels = {side: reduced(scene.image, side) for side in GRIDS}
    return (
        truth_files.blank(scene, 1),
        pixels,
        {side: owners(scene, grid) for side, grid in GRIDS.items()},
    )


def load(folder: Path, n: int, split: Split = "train", start: int = 0) -> Corpus:
    """Take the scenes `start` to `start + n` of a split from the cache, or draw them with every
    core.
    """
    stem = folder / f"{split}-{start}-{n}"
    names = stem.name
    pixels = {side: stem.with_name(f"{names}-{side}.npy") for side in GRIDS}
    owned = {side: stem.with_name(f"{names}-{side}-owners.npy") for side in GRIDS}
    told = stem.with_name(f"{names}.jsonl")
    if not told.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _draw_all(pixels, owned, told, [(start + i, split) for i in range(n)])
    return Corpus(
        truth_files.read(told, [size_of(start + i) for i in range(n)]),
        {side: np.load(path, mmap_mode="r") for side, path in pixels.items()},
        {side: np.load(path) for side, path in owned.items()},
    )


def _draw_all(
    pixels: dict[int, Path], owned: dict[int, Path], told: Path, jobs: list[tuple[int, Split]]
) -> None:
    n = len(jobs)
    arrays = {
        side: np.lib.format.open_memmap(path, "w+", np.uint8, (n, side, side, 3))
        for side, path in pixels.items()
    }
    owner = {side: np.empty((n, grid, grid), np.int8) for side, grid in GRIDS.items()}
    scenes: list[Scene] = []
    workers = min(os.cpu_count() or 1, 1 + n // 500)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for i, (scene, images, own) in enumerate(pool.imap(_one, jobs, chunksize=64)):
            scenes.append(scene)
            for side in GRIDS:
                arrays[side][i] = images[side]
                owner[side][i] = own[side]
    for side, path in owned.items():
        arrays[side].flush()
        np.save(path, owner[side])
    # Last, since its presence says that all is there.
    truth_files.write(told, scenes)


def first(corpus: Corpus, n: int) -> Corpus:
    """Its first `n` scenes."""
    pixels = {side: array[:n] for side, array in corpus.pixels.items()}
    return Corpus(
        corpus.scenes[:n], pixels, {side: array[:n] for side, array in corpus.owners.items()}
    )
