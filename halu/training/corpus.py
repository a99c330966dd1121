"""The training pictures, drawn once and kept as arrays that any stage can map into memory.

Scenes are drawn at several sizes and reduced as the image processors do it, so that a large
picture and a small one look alike to the towers.
"""

import dataclasses
import multiprocessing
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.scenes import Scene, draw
from halu.scenes.scene import PATCH_SHARE

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


def blank(scene: Scene, side: int) -> Scene:
    """The scene without its pixels; a side above one gives arrays of that shape that take no
    memory.
    """
    image = np.broadcast_to(np.uint8(0), (side, side, 3))
    return dataclasses.replace(
        scene, image=image, owner=np.broadcast_to(np.int16(-1), (side, side))
    )


def _one(job: tuple[int, str]) -> tuple[Scene, dict[int, Bytes], dict[int, Owners]]:
    seed, split = job
    scene = draw(seed, split=split, size=size_of(seed))
    pixels = {side: reduced(scene.image, side) for side in GRIDS}
    return blank(scene, 1), pixels, {side: owners(scene, grid) for side, grid in GRIDS.items()}


def load(folder: Path, n: int, split: str = "train", first: int = 0) -> Corpus:
    """The scenes `first` to `first + n` of a split, from the cache or drawn now with every core."""
    stem = folder / f"{split}-{first}-{n}"
    truth = stem.with_name(f"{stem.name}.pkl")
    files = {side: stem.with_name(f"{stem.name}-{side}.npy") for side in GRIDS}
    if not truth.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _draw_all(files, truth, [(first + i, split) for i in range(n)])
    with truth.open("rb") as file:
        scenes, owner = pickle.load(file)  # our own cache, written a few lines below
    pixels = {side: np.load(path, mmap_mode="r") for side, path in files.items()}
    return Corpus([blank(scene, size_of(scene.seed)) for scene in scenes], pixels, owner)


def _draw_all(files: dict[int, Path], truth: Path, jobs: list[tuple[int, str]]) -> None:
    n = len(jobs)
    arrays = {
        s: np.lib.format.open_memmap(path, "w+", np.uint8, (n, s, s, 3))
        for s, path in files.items()
    }
    owner = {s: np.empty((n, grid, grid), np.int8) for s, grid in GRIDS.items()}
    scenes: list[Scene] = []
    with multiprocessing.get_context("spawn").Pool(min(os.cpu_count() or 1, 1 + n // 500)) as pool:
        for i, (scene, pixels, own) in enumerate(pool.imap(_one, jobs, chunksize=64)):
            scenes.append(scene)
            for side in GRIDS:
                arrays[side][i] = pixels[side]
                owner[side][i] = own[side]
    for array in arrays.values():
        array.flush()
    partial = truth.with_suffix(".part")
    with partial.open("wb") as file:
        pickle.dump((scenes, owner), file)
    partial.replace(truth)


def first(corpus: Corpus, n: int) -> Corpus:
    """Its first `n` scenes."""
    pixels = {side: array[:n] for side, array in corpus.pixels.items()}
    return Corpus(
        corpus.scenes[:n], pixels, {side: array[:n] for side, array in corpus.owners.items()}
    )
