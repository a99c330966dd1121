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
from halu.training.look import glance
from halu.training.optimizer import Both, schedule
from halu.training.packing import IGNORED, Batch, chat_line, collate, pair_line
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


@dataclass(frozen=True, slots=True)
class Lesson:
    """The mixture: `start` chat until `alone`, then ever more up to `most` at `full` (shares of
    the run).
    """

    slip: float = 0.4
    alone: float = 0.15
    full: float = 0.5
    most: float = 0.8
    start: float = 0.0
    lr: float = 2e-3

    def chat(self, done: float) -> float:
        """The share of chat batches when `done` of the run is over."""
        way = min(1.0, max(0.0, (done - self.alone) / max(1e-6, self.full - self.alone)))
        return self.start + (self.most - self.start) * way


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
        chat = rng.random() < lesson.chat(step / run.steps)
        batch = compose(
            speaker.dialect, [corpus.scenes[i] for i in index], chat, lesson.slip, speaker.pad, rng
        )
        value, right = loss(speaker, features[index], batch)
        value.backward()
        optimizer.step(schedule(step, run.steps))
        if step % 20 == 0 or step + 1 == run.steps:
            kind = "chat" if chat else "pairs"
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
    dialect: Dialect, scenes: list[Scene], chat: bool, slip: float, pad: int, rng: random.Random
) -> Batch:
    """One batch, all pairs or all chat, so that no sequence is mostly padding."""
    if chat:
        return collate([chat_line(dialect, scene, rng, slip, ROOM) for scene in scenes], pad)
    return collate([pair_line(dialect, scene, rng) for scene in scenes], pad)


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
