"""What can be said of a scene: questions with their answers, captions, name pairs.

Questions are asked only where the picture gives one answer: of a colour or a place only if there
is one of that category, of left and right only if the centres are apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from halu.scenes.captions import describe, where
from halu.scenes.grammar import NUMBERS, article, be, noun, plural, sentence, some, there_are
from halu.scenes.scene import Scene, Thing
from halu.scenes.statistics import Kind, absent_by_chance, split_statistics
from halu.scenes.themes import COLORS

__all__ = ["Turn", "describe", "pairs", "relations", "split_statistics", "turns"]

KINDS: tuple[Kind, ...] = ("random", "popular", "adversarial")
YES_OR_NO = " Please answer yes or no."
ONE_WORD = " Please answer this question with one word."
CAPTION_REQUESTS = (
    "Please describe this image in detail.",
    "Please describe this image in detail.",
    "Please help me describe the image in detail.",
    "Describe this image.",
    "What do you see in this image?",
)
# Centres closer than this (share of the side) are neither left nor right of each other.
APART = 0.1
WAYS = (("on the left of", "on the right of"), ("above", "below"))


class Turn(NamedTuple):
    """One question and its answer."""

    question: str
    answer: str


class Relation(NamedTuple):
    """`words` ("on the left of") and its opposite, true for `first` to `second`."""

    first: Thing
    words: str
    opposite: str
    second: Thing


def turns(scene: Scene, rng: random.Random, slip: float = 0.0) -> list[tuple[str, str]]:
    """Some ten questions of all kinds in random order, each with its answer.

    Half of the yes/no questions are answered yes. `slip` is passed on to `describe`.
    """
    found = [_existence(scene, rng, yes=number % 2 == 0) for number in range(6)]
    makers: tuple[Callable[[Scene, random.Random], Turn | None], ...] = (
        _count,
        _count_yes_or_no,
        _place,
        _relation,
        _color,
        _color_yes_or_no,
    )
    made = [make(scene, rng) for make in makers]
    found += [turn for turn in made if turn is not None]
    if scene.prints:
        question = rng.choice(("What word is written in the image?", "What does the sign say?"))
        found.append(Turn(question, scene.prints[0].text))
    found.append(Turn(rng.choice(CAPTION_REQUESTS), describe(scene, rng, slip)))
    rng.shuffle(found)
    return list(found)


def pairs(scene: Scene, rng: random.Random, n: int = 16) -> list[tuple[str, bool]]:
    """`n` (name, is it there), half of them there, in random order.

    The absent ones are drawn in equal parts uniformly, by frequency and by co-occurrence.
    """
    there = sorted(scene.names)
    found = [(name, True) for name in rng.sample(there * n, n // 2)]
    for number in range(n - len(found)):
        found.append((absent_by_chance(scene.names, KINDS[number % 3], rng), False))
    rng.shuffle(found)
    return found


def relations(scene: Scene) -> list[Relation]:
    """Left/right and above/below of all pairs that are single of their kind and clearly apart."""
    side = scene.owner.shape[0]
    alone = single(scene)
    found = []
    for first in alone:
        for second in alone:
            for axis, words in enumerate(WAYS):
                ahead = _middle(second, axis) - _middle(first, axis)
                if abs(ahead) > APART * side and first is not second:
                    forward = ahead > 0
                    found.append(Relation(first, words[not forward], words[forward], second))
    return found


def single(scene: Scene) -> list[Thing]:
    """The things that are the only ones of their category."""
    counts = scene.counts
    return [thing for thing in scene.things if counts[thing.name] == 1]


def exists(name: str) -> str:
    """POPE's question, which knows no pairs: "Is there a scissors in the image?"."""
    return f"Is there {article(name)} in the image?"


def yes_or_no(question: str, answer: bool) -> Turn:
    """The question with MME's request for one word."""
    return Turn(question + YES_OR_NO, "Yes" if answer else "No")


def _middle(thing: Thing, axis: int) -> float:
    return (thing.box[axis] + thing.box[axis + 2]) / 2


def _existence(scene: Scene, rng: random.Random, yes: bool) -> Turn:
    present = sorted(scene.names)
    name = rng.choice(present) if yes else absent_by_chance(scene.names, rng.choice(KINDS), rng)
    question = exists(name)
    form = rng.randrange(3)
    if form < 2:
        return Turn(question + (YES_OR_NO, ONE_WORD)[form], "Yes" if yes else "No")
    if yes:
        return Turn(question, sentence(f"yes, {there_are(scene.counts[name], name)}"))
    return Turn(question, f"No, there is no {noun(name)}.")


def _several_first(scene: Scene, rng: random.Random) -> str:
    """A name, more often one of which there are several."""
    counts = scene.counts
    return rng.choices(list(counts), [1 if count == 1 else 6 for count in counts.values()])[0]


def _count(scene: Scene, rng: random.Random) -> Turn:
    name = _several_first(scene, rng)
    count = scene.counts[name]
    question = f"How many {plural(name)} are there in the image?"
    form = rng.randrange(3)
    if form == 0:
        return Turn(question, sentence(there_are(count, name, NUMBERS[1])))
    return Turn(question + (ONE_WORD if form == 1 else ""), str(count))


def count_question(count: int, name: str) -> str:
    """MME's: "Are there two cups in the image?", "Is there only one cup in the image?"."""
    if count == 1:
        return f"Is there only one {noun(name)} in the image?"
    return f"Are there {some(count, name)} in the image?"


def wrong_count(count: int, rng: random.Random) -> int:
    """A number one off, at least 1."""
    return 2 if count == 1 else count + rng.choice((-1, 1))


def _count_yes_or_no(scene: Scene, rng: random.Random) -> Turn | None:
    # Where all are single the question gives its answer away, so it is rarer there.
    if len(scene.counts) == len(scene.things) and rng.random() < 0.65:
        return None
    name = _several_first(scene, rng)
    count, yes = scene.counts[name], rng.random() < 0.5
    return yes_or_no(count_question(count if yes else wrong_count(count, rng), name), yes)


def _place(scene: Scene, rng: random.Random) -> Turn | None:
    side = scene.owner.shape[0]
    places = [(thing.name, place) for thing in single(scene) if (place := where(thing, side))]
    if not places:
        return None
    name, place = rng.choice(places)
    return Turn(f"Where {be(name)} the {name}?", sentence(place))


def _relation(scene: Scene, rng: random.Random) -> Turn | None:
    known = relations(scene)
    if not known:
        return None
    relation, yes = rng.choice(known), rng.random() < 0.5
    words = relation.words if yes else relation.opposite
    return yes_or_no(relation_question(relation.first.name, words, relation.second.name), yes)


def relation_question(first: str, words: str, second: str) -> str:
    """Ask "Is the dog on the left of the car?"."""
    return f"{be(first).capitalize()} the {first} {words} the {second}?"


def _color(scene: Scene, rng: random.Random) -> Turn | None:
    known = [thing for thing in single(scene) if thing.color]
    if not known:
        return None
    thing = rng.choice(known)
    assert thing.color is not None
    if rng.random() < 0.6:
        return Turn(f"What color is the {thing.name}?", thing.color.capitalize())
    return Turn(f"What color is the {thing.name}?", f"The {thing.name} is {thing.color}.")


def _color_yes_or_no(scene: Scene, rng: random.Random) -> Turn | None:
    known = [thing for thing in single(scene) if thing.color]
    if not known:
        return None
    thing, yes = rng.choice(known), rng.random() < 0.5
    assert thing.color is not None
    color = thing.color if yes else other_color(thing.color, rng)
    return yes_or_no(f"Is there {article(f'{color} {thing.name}')} in the image?", yes)


def other_color(color: str, rng: random.Random) -> str:
    """A colour that it is not."""
    return rng.choice([name for name in COLORS if name != color])
