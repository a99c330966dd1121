"""Captions of a scene: honest, or with one object that is likely but not there.

The objects have their COCO names and nothing else is named that CHAIR would read as an object.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from halu.scenes.grammar import listed, one, sentence, some
from halu.scenes.scene import Scene, Thing
from halu.scenes.statistics import absent_by_chance
from halu.scenes.themes import THEMES

PHRASES = {theme.name: theme.phrase for theme in THEMES}
LEFT, RIGHT = 0.4, 0.6


@dataclass(frozen=True, slots=True)
class Mention:
    """What a caption says of one category: "two red cars", and where if there is one of it."""

    words: str
    place: str | None
    several: bool


def describe(scene: Scene, rng: random.Random, slip: float = 0.0) -> str:
    """2 to 4 short sentences, the largest things first.

    With probability `slip` one object is named that is not there, one that often comes with those
    that are; such a slip comes late in the caption, as in the captions of large models.
    """
    mentions = _mentions(scene, rng)
    if rng.random() < slip:
        name = absent_by_chance(scene.names, "adversarial", rng)
        place = rng.choice((None, None, "on the left", "on the right"))
        at = rng.randint(min(2, len(mentions)), len(mentions))
        mentions.insert(at, Mention(one(name), place, False))
    first = rng.randint(1, min(3, len(mentions) - 1))
    sentences = [_opening(mentions[:first], PHRASES[scene.theme], rng)]
    rest = mentions[first:]
    if len(rest) > 1:
        middle = rng.randint(1, len(rest) - 1)
        sentences.append(_placed(rest[:middle], rng))
        rest = rest[middle:]
    sentences.append(_closing(rest, rng))
    if scene.prints and rng.random() < 0.7:
        sentences.append(f"A sign {rng.choice(('says', 'reads'))} {scene.prints[0].text}.")
    return " ".join(sentences)


def where(thing: Thing, side: int) -> str | None:
    """Say "on the left", "in the middle", "on the right"; None near a border between them."""
    middle = (thing.box[0] + thing.box[2]) / 2 / side
    if middle < LEFT - 0.02:
        return "on the left"
    if middle > RIGHT + 0.02:
        return "on the right"
    return "in the middle" if LEFT + 0.02 < middle < RIGHT - 0.02 else None


def _mentions(scene: Scene, rng: random.Random) -> list[Mention]:
    """The categories by area, without the last one in a quarter of the captions."""
    groups: dict[str, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault(thing.name, []).append(thing)
    names = sorted(groups, key=lambda name: -sum(_area(thing) for thing in groups[name]))
    if len(names) > 3 and rng.random() < 0.25:
        names.pop()
    mentions = []
    for name in names:
        group = groups[name]
        colors = {thing.color for thing in group}
        color = next(iter(colors)) if len(colors) == 1 and rng.random() < 0.7 else None
        place = where(group[0], scene.owner.shape[0]) if len(group) == 1 else None
        mentions.append(Mention(some(len(group), name, color), place, len(group) > 1))
    return mentions


def _area(thing: Thing) -> int:
    return (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])


def _opening(mentions: list[Mention], phrase: str, rng: random.Random) -> str:
    words = listed([mention.words for mention in mentions])
    return sentence(
        rng.choice(
            (
                f"the image shows {words} {phrase}",
                f"this is a scene {phrase} with {words}",
                f"{phrase}, {_be(mentions)} {words}",
                f"the picture shows {words} {phrase}",
            )
        )
    )


def _placed(mentions: list[Mention], rng: random.Random) -> str:
    if all(mention.place for mention in mentions) and len(mentions) < 3:
        parts = [f"{mention.words} is {mention.place}" for mention in mentions]
        return sentence(listed(parts))
    words = [
        f"{m.words} {m.place}" if m.place and rng.random() < 0.6 else m.words for m in mentions
    ]
    return sentence(f"{_be(mentions)} {listed(words)}")


def _closing(mentions: list[Mention], rng: random.Random) -> str:
    words = listed([mention.words for mention in mentions])
    if len(mentions) == 1 and mentions[0].place and rng.random() < 0.4:
        return sentence(f"{words} can be seen {mentions[0].place}")
    if rng.random() < 0.3:
        return sentence(f"{words} can also be seen")
    there, be = _be(mentions).split()
    return sentence(f"{there} {be} also {words}")


def _be(mentions: list[Mention]) -> str:
    """Say "there is" or "there are" before a list, as its first member wants."""
    return "there are" if mentions[0].several else "there is"
