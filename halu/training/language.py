"""Stage (c): bridge and language model learn to answer, the tower frozen and its features
computed once.

It begins with bare pairs and mixes natural questions and captions in while the learning rate is
still high: natural questions straight away stay at chance, and an abrupt switch under a decayed
rate falls back to it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halu.scenes import Scene
from halu.training import checkpoint, settings, team
from halu.training.corpus import Corpus
from halu.training.curve import Curve
from halu.training.dialect import Dialect
from halu.training.features import Features
from halu.training.lesson import Lesson
from halu.training.look import glance
from halu.training.optimizer import Both, schedule
from halu.training.packing import (
    IGNORED,
    Batch,
    bare_line,
    caption_line,
    chat_line,
    collate,
    list_line,
)
from halu.training.tower_stage import batches

ROOM = 176


@dataclass(frozen=True, slots=True)
class Speaker:
    """What is trained: `hidden(features, ids)` gives the last hidden states, `head` the scores."""

    name: str
    modules: dict[str, nn.Module]
    hidden: Callable[[Tensor, Tensor], Tensor]
    head: nn.Module
    dialect: Dialect
    pad: int


def train(
    speaker: Speaker,
    features: Features,
    corpus: Corpus,
    peek: tuple[Features, Corpus],
    lesson: Lesson,
    run: settings.Run,
    curve: Curve,
) -> None:
    """`run.steps` updates; the curve gets the loss, the share of right answers, and held-out
    yes/no accuracy.
    """
    optimizer = Both(speaker.modules, lr=lesson.lr)
    path = run.work / f"{speaker.name}-language.pt"
    done = checkpoint.resume(path, speaker.modules, optimizer)
    for step, index in enumerate(batches(len(features), run.batch, run.steps, run.seed + 1)):
        if step < done:
            continue
        rng = random.Random(f"{run.seed} {step}")
        kind = lesson.kind(step / run.steps, rng)
        batch = compose(speaker, [corpus.scenes[i] for i in index], kind, lesson.slip, rng)
        value, right = loss(speaker, features[index], batch)
        value.backward()
        optimizer.step(schedule(step, run.steps))
        if step % 20 == 0 or step + 1 == run.steps:
            curve.add(
                "language",
                step,
                step * run.batch * team.size(),
                **{f"{kind}_loss": value.item(), f"{kind}_right": right},
            )
        if (step + 1) % 150 == 0 or step + 1 == run.steps:
            checkpoint.keep(path, step + 1, speaker.modules, optimizer)
            with torch.no_grad():
                curve.add(
                    "language",
                    step,
                    step * run.batch * team.size(),
                    **glance(speaker.hidden, speaker.head, speaker.dialect, *peek),
                )


def begun(run: settings.Run, name: str) -> bool:
    """Whether a checkpoint of this stage stands, so that the stages before it need no repeat."""
    return (run.work / f"{name}-language.pt").exists()


def compose(
    speaker: Speaker, scenes: list[Scene], kind: str, slip: float, rng: random.Random
) -> Batch:
    """One batch, all of a kind, so that no sequence is mostly padding."""
    spoken = speaker.dialect
    if kind == "chat":
        lines = [chat_line(spoken, scene, rng, slip, ROOM) for scene in scenes]
    elif kind == "captions":
        lines = [caption_line(spoken, scene, rng, slip) for scene in scenes]
    elif kind == "lists":
        lines = [list_line(spoken, scene, rng) for scene in scenes]
    else:
        lines = [bare_line(spoken, scene, rng, kind == "pairs") for scene in scenes]
    return collate(lines, speaker.pad)


def loss(speaker: Speaker, features: Tensor, batch: Batch) -> tuple[Tensor, float]:
    """Cross-entropy over the wanted tokens, and how many of them come first."""
    device = features.device
    states = speaker.hidden(features, batch.ids.to(device))
    wanted = batch.wanted.to(device)
    chosen = wanted != IGNORED
    scores = speaker.head(states[chosen])
    target = wanted[chosen]
    right = (scores.argmax(-1) == target).float().mean().item()
    return F.cross_entropy(scores, target), right
