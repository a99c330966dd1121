"""Benchmark questions on scenes, by the definitions of POPE and MME.

Pure: scenes in, items out. `halu.scenes.files` writes them in the benchmarks' own formats.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from halu.scenes.grammar import article
from halu.scenes.language import (
    Turn,
    count_question,
    exists,
    other_color,
    relation_question,
    relations,
    single,
    wrong_count,
    yes_or_no,
)
from halu.scenes.scene import Scene
from halu.scenes.statistics import Kind, absent

# Objects asked for in an image that are there, and as many that are not, as POPE has it.
POPE_OBJECTS = 3

Task = Literal["existence", "count", "position", "color"]


@dataclass(frozen=True, slots=True)
class PopeItem:
    """One line of a POPE file. `label`: "yes" or "no"."""

    question_id: int
    image: str
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class MmeItem:
    """One line of an MME task file. `answer`: "Yes" or "No"."""

    image: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class TextItem:
    """What is written on the sign of an image; `real`: an English word, else a made-up one."""

    question_id: int
    image: str
    text: str
    answer: str
    real: bool


def image_name(scene: Scene) -> str:
    """The file name: the seed, zero-padded as COCO's ids are."""
    return f"{scene.seed:012d}.png"


def pope_items(scenes: Iterable[Scene], kind: Kind, rng: random.Random) -> list[PopeItem]:
    """Six questions an image, yes and no in turn; the yes ones are the same for every kind.

    The absent objects are those of `halu.scenes.statistics.absent`; only "random" uses `rng`.
    """
    items: list[PopeItem] = []
    for scene in scenes:
        own = random.Random(f"pope {scene.split} {scene.seed}")
        present = own.sample(sorted(scene.names), POPE_OBJECTS)
        missing = absent(scene.names, kind, POPE_OBJECTS, rng)
        for pair in zip(present, missing, strict=True):
            for name, label in zip(pair, ("yes", "no"), strict=True):
                text = exists(name)
                items.append(PopeItem(len(items) + 1, image_name(scene), text, label))
    return items


def mme_items(scenes: Iterable[Scene], task: Task, rng: random.Random) -> list[MmeItem]:
    """Two neighbouring questions an image, one to be answered Yes and one No.

    An image that allows no question of the task is left out (a colour, with nothing coloured).
    """
    make = _MME[task]
    items: list[MmeItem] = []
    for scene in scenes:
        turns = make(scene, rng)
        items += [MmeItem(image_name(scene), turn.question, turn.answer) for turn in turns]
    return items


def text_items(scenes: Iterable[Scene]) -> list[TextItem]:
    """One question for each image with a sign."""
    items: list[TextItem] = []
    for scene in scenes:
        for sign in scene.prints:
            question = "What word is written in the image?"
            number = len(items) + 1
            items.append(TextItem(number, image_name(scene), question, sign.text, sign.real))
    return items


def _existence(scene: Scene, rng: random.Random) -> Sequence[Turn]:
    present = rng.choice(sorted(scene.names))
    missing = absent(scene.names, "random", 1, rng)[0]
    return yes_or_no(exists(present), True), yes_or_no(exists(missing), False)


def _count(scene: Scene, rng: random.Random) -> Sequence[Turn]:
    counts = scene.counts
    name = max(counts, key=lambda name: (counts[name], rng.random()))
    right, wrong = counts[name], wrong_count(counts[name], rng)
    return (
        yes_or_no(count_question(right, name), True),
        yes_or_no(count_question(wrong, name), False),
    )


def _position(scene: Scene, rng: random.Random) -> Sequence[Turn]:
    known = relations(scene)
    if not known:
        return ()
    first, words, opposite, second = rng.choice(known)
    return (
        yes_or_no(relation_question(first.name, words, second.name), True),
        yes_or_no(relation_question(first.name, opposite, second.name), False),
    )


def _color(scene: Scene, rng: random.Random) -> Sequence[Turn]:
    known = [(thing.name, thing.color) for thing in single(scene) if thing.color]
    if not known:
        return ()
    name, color = rng.choice(known)
    found = []
    for shade, answer in ((color, True), (other_color(color, rng), False)):
        found.append(yes_or_no(f"Is there {article(f'{shade} {name}')} in the image?", answer))
    return found


_MME: dict[Task, Callable[[Scene, random.Random], Sequence[Turn]]] = {
    "existence": _existence,
    "count": _count,
    "position": _position,
    "color": _color,
}
