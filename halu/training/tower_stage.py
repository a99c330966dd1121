"""Trains a vision tower to name its patches, for both families."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from halu.training import checkpoint, naming, settings, team
from halu.training.corpus import Corpus
from halu.training.curve import Curve
from halu.training.optimizer import Both, schedule

Patches = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class TowerJob:
    """A tower (`module`), how pictures go through it, and the resolution it takes."""

    name: str
    module: nn.Module
    patches: Patches
    side: int
    width: int
    lr: float = 2e-3


def batches(n: int, size: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """Index batches: every scene once per round, each round in its own order; the same for the
    same seed.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    at = 0
    for _ in range(steps):
        if at + size > n:
            order, at = rng.permutation(n), 0
        yield np.sort(order[at : at + size])
        at += size


def train(
    job: TowerJob, corpus: Corpus, look: Corpus, run: settings.Run, curve: Curve
) -> naming.Namer:
    """`run.tower_steps` updates; the curve gets the share of object patches named rightly on
    unseen scenes.
    """
    torch.manual_seed(run.seed)
    namer = naming.Namer(job.width).to(run.device)
    job.module.to(run.device).train()
    parts = {"tower": job.module, "namer": namer}
    optimizer = Both(parts, lr=job.lr)
    path = run.work / f"{job.name}-tower.pt"
    done = checkpoint.resume(path, parts, optimizer)
    patches = torch.compile(job.patches) if run.compiled else job.patches
    for step, index in enumerate(batches(len(corpus), run.batch, run.tower_steps, run.seed)):
        if step < done:
            continue
        value, right = _loss(job, patches, namer, corpus, index, run.device)
        value.backward()
        optimizer.step(schedule(step, run.tower_steps))
        if step % 25 == 0 or step + 1 == run.tower_steps:
            curve.add(
                "tower", step, step * run.batch * team.size(), loss=value.item(), train_named=right
            )
        if (step + 1) % 250 == 0 or step + 1 == run.tower_steps:
            checkpoint.keep(path, step + 1, parts, optimizer)
            named = measure(job, patches, namer, look, run)
            curve.add("tower", step, step * run.batch * team.size(), named=named)
    job.module.eval()
    return namer


def _loss(
    job: TowerJob,
    patches: Patches,
    namer: naming.Namer,
    corpus: Corpus,
    index: np.ndarray,
    device: torch.device,
) -> tuple[Tensor, float]:
    images = torch.from_numpy(np.array(corpus.pixels[job.side][index])).to(device)
    true = naming.truth([corpus.scenes[i] for i in index], corpus.owners[job.side][index])
    return naming.loss(namer(patches(images)), naming.Truth(*(part.to(device) for part in true)))


@torch.no_grad()
def measure(
    job: TowerJob, patches: Patches, namer: naming.Namer, look: Corpus, run: settings.Run
) -> float:
    """The share of object patches named rightly, over whole batches of `look`."""
    rights = []
    for at in range(0, len(look) - run.batch + 1, run.batch):
        rights.append(
            _loss(job, patches, namer, look, np.arange(at, at + run.batch), run.device)[1]
        )
    return float(np.mean(rights))
