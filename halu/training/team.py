"""Several single-threaded workers on one machine, each with its share of the scenes, averaging
gradients once a step.

On a few busy cores that is about twice as fast as one process with several threads, which wait
for each other in every layer.
"""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from halu.training.corpus import Corpus


def join(rank: int, size: int, port: int) -> None:
    """Make this process worker `rank` of `size`, on a core of its own; alone, nothing is set up.

    Left alone, a busy machine's scheduler was seen to keep two workers on one core.
    """
    if size > 1:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[rank % len(cores)]})
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size
        )


def leave() -> None:
    """Dissolve the team."""
    if dist.is_initialized():
        dist.destroy_process_group()


def size() -> int:
    """How many workers there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this worker writes curves, checkpoints and folders."""
    return not dist.is_initialized() or dist.get_rank() == 0


def wait() -> None:
    """Until all workers are here."""
    if dist.is_initialized():
        dist.barrier()


def share(corpus: Corpus) -> Corpus:
    """This worker's scenes: every `size`-th of them."""
    if not dist.is_initialized():
        return corpus
    part = slice(dist.get_rank(), None, dist.get_world_size())
    pixels = {side: array[part] for side, array in corpus.pixels.items()}
    return Corpus(
        corpus.scenes[part], pixels, {side: array[part] for side, array in corpus.owners.items()}
    )


def average(params: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by the team's mean."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
