"""Turns scenes into sequences of token ids: bare facts, one caption, or natural turns that fit.

Several turns share one picture because its tokens cost most of the work; under causal attention
that is an ordinary long chat.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halu.scenes import NAMES, Scene, Thing
from halu.scenes.captions import where
from halu.scenes.grammar import listed, one, sentence
from halu.scenes.language import (
    CAPTION_REQUESTS,
    describe,
    exists,
    pairs,
    relations,
    single,
    turns,
)
from halu.training.dialect import Dialect

IGNORED = -100
PAIRS = 20
FACTS = 8
LISTS = 2
EASY = 3
INVENTORY = "What is in the image?"
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


def facts(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Counts, colours, places and relations as bare as pairs: ` dog count ?` and ` 2`."""
    side = scene.owner.shape[0]
    found = [(f" {name} count", f" {count}") for name, count in scene.counts.items()]
    for thing in single(scene):
        if thing.color:
            found += [(f" {thing.name} color", f" {thing.color}")] * 2
        if place := where(thing, side):
            found.append((f" {thing.name} place", f" {place}"))
    known = relations(scene)
    for relation in rng.sample(known, min(len(known), 6)):
        yes = rng.random() < 0.5
        words = relation.words if yes else relation.opposite
        question = f" {relation.first.name} {words} {relation.second.name}"
        found.append((question, " yes" if yes else " no"))
    rng.shuffle(found)
    return found[:FACTS]


def lists(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """All names from left to right, from the top down and from large to small, each once.

    A caption needs the next object not yet named; in a list nearly every token teaches that.
    """
    x0, y0, x1, y1 = range(4)

    def told(things: Sequence[Thing]) -> str:
        names = dict.fromkeys(thing.name for thing in things)
        return "".join(f" {name}" for name in names) + " ."

    ordered = {
        " left to right": sorted(scene.things, key=lambda t: t.box[x0] + t.box[x1]),
        " top to bottom": sorted(scene.things, key=lambda t: t.box[y0] + t.box[y1]),
        " large to small": sorted(
            scene.things, key=lambda t: (t.box[x0] - t.box[x1]) * (t.box[y1] - t.box[y0])
        ),
    }
    found = [(order, told(things)) for order, things in ordered.items()]
    rng.shuffle(found)
    return found


def bare_line(dialect: Dialect, scene: Scene, rng: random.Random, only_pairs: bool) -> _Line:
    """`dog ? yes vase ? no dog count ? 2 ...`, learnt at the answers."""
    line = _Line(dialect.opening()[0])
    line.add(dialect.ids(dialect.after), learnt=False)
    asked = [(f" {name}", " yes" if there else " no") for name, there in pairs(scene, rng, PAIRS)]
    if not only_pairs:
        asked = asked[: PAIRS // 3] + facts(scene, rng) + lists(scene, rng)[:LISTS]
        rng.shuffle(asked)
    for question, answer in asked:
        line.add(dialect.ids(f"{question} ?"), learnt=False)
        line.add(dialect.ids(answer), learnt=True)
    return line


def caption_line(dialect: Dialect, scene: Scene, rng: random.Random, slip: float) -> _Line:
    """One description, alone: after other turns it would be copied together from them."""
    line = _Line(dialect.opening()[0])
    request = REQUEST if rng.random() < 0.5 else rng.choice(CAPTION_REQUESTS)
    asked, answered = dialect.turn(request, describe(scene, rng, slip), True)
    line.add(asked, learnt=False)
    line.add(answered, learnt=True)
    return line


def list_line(dialect: Dialect, scene: Scene, rng: random.Random) -> _Line:
    """Everything that is there, each once, in any order: teaches what captions show too rarely,
    that what has been said is not said again.
    """
    line = _Line(dialect.opening()[0])
    names = sorted(scene.names)
    rng.shuffle(names)
    asked, answered = dialect.turn(INVENTORY, sentence(listed([one(n) for n in names])), True)
    line.add(asked, learnt=False)
    line.add(answered, learnt=True)
    return line


def chat_line(dialect: Dialect, scene: Scene, rng: random.Random, slip: float, room: int) -> _Line:
    """Natural turns until `room` tokens are used, learnt at the answers and their ends."""
    line = _Line(dialect.opening()[0])
    first = True
    for question, answer in _mixed(scene, rng, slip):
        asked, answered = dialect.turn(question, answer, first)
        if not first and len(line.ids) + len(asked) + len(answered) > room:
            continue
        line.add(asked, learnt=False)
        line.add(answered, learnt=True)
        first = False
    return line


def _mixed(scene: Scene, rng: random.Random, slip: float) -> list[tuple[str, str]]:
    """Two draws of turns without the captions, and with only a few questions of existence.

    Those are learnt first and would crowd out the others.
    """
    plain = {exists(name) for name in NAMES}
    found = turns(scene, rng, slip) + turns(scene, rng, slip)
    found = [(q, a) for q, a in found if q not in CAPTION_REQUESTS]
    easy = [(q, a) for q, a in found if q.split("?")[0] + "?" in plain]
    rest = list(dict.fromkeys((q, a) for q, a in found if q.split("?")[0] + "?" not in plain))
    mixed = rng.sample(easy, EASY) + rest
    rng.shuffle(mixed)
    return mixed


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
