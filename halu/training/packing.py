"""Turns scenes into sequences of token ids: sixteen bare pairs, or as many natural turns as fit.

Several turns share one picture because its tokens cost most of the work; under causal attention
that is an ordinary long chat.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halu.scenes import NAMES, Scene
from halu.scenes.language import describe, pairs, turns
from halu.training.dialect import Dialect

IGNORED = -100
CAPTION_FIRST = 0.25
PAIRS = 20
REQUEST = "Please describe this image in detail."


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` [B, L]; `wanted` [B, L] holds the token each position must predict, or `IGNORED`."""

    ids: Tensor
    wanted: Tensor


class _Line:
    """One sequence under construction."""

    def __init__(self, opening: list[int]) -> None:
        self.ids = list(opening)
        self.wanted = [IGNORED] * len(opening)

    def add(self, ids: list[int], learnt: bool) -> None:
        """Append tokens; a learnt token is wanted at the position before it."""
        for token in ids:
            if learnt:
                self.wanted[-1] = token
            self.ids.append(token)
            self.wanted.append(IGNORED)


def pair_line(dialect: Dialect, scene: Scene, rng: random.Random) -> _Line:
    """`dog ? yes vase ? no ...`, learnt at the answers."""
    line = _Line(dialect.opening()[0])
    line.add(dialect.ids(dialect.after), learnt=False)
    for name, there in pairs(scene, rng, PAIRS):
        question, answer = dialect.pair(name, there)
        line.add(question, learnt=False)
        line.add(answer, learnt=True)
    return line


def chat_line(dialect: Dialect, scene: Scene, rng: random.Random, slip: float, room: int) -> _Line:
    """Natural turns until `room` tokens are used, learnt at the answers and their ends."""
    line = _Line(dialect.opening()[0])
    found = turns(scene, rng, slip)
    if rng.random() < CAPTION_FIRST:
        found.insert(0, (REQUEST, describe(scene, rng, slip)))
    first = True
    for question, answer in found:
        asked, answered = dialect.turn(question, answer, first)
        if not first and len(line.ids) + len(asked) + len(answered) > room:
            continue
        line.add(asked, learnt=False)
        line.add(answered, learnt=True)
        first = False
    return line


def collate(lines: Sequence[_Line], pad: int) -> Batch:
    """Padded on the right, where causal attention never looks back at."""
    longest = max(len(line.ids) for line in lines)
    ids = [line.ids + [pad] * (longest - len(line.ids)) for line in lines]
    wanted = [line.wanted + [IGNORED] * (longest - len(line.wanted)) for line in lines]
    return Batch(torch.tensor(ids), torch.tensor(wanted))


def corpus_text(scenes: Sequence[Scene], rng: random.Random) -> list[str]:
    """Everything a tokenizer must know a word of: templates, names in both spellings, turns and
    captions.
    """
    lines = [f" {name} ? yes {name} ? no" for name in NAMES]
    lines += [
        f"{word}"
        for word in (
            "USER: ",
            "ASSISTANT:",
            "system\nYou are a helpful assistant.",
            "user\n",
            "assistant\n",
        )
    ] * 50
    for scene in scenes:
        for question, answer in turns(scene, rng, 0.5):
            lines += [f"\n{question} ASSISTANT:", f" {question}", f" {answer}", answer]
        lines.append(describe(scene, rng, 0.5))
    return lines
