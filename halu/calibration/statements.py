"""What is true and what is false of a built-in scene: its numbers, colours and places, and texts
that claim them, every other claim false.
"""

import random
from collections.abc import Callable, Iterator

from halu.claims import Claim
from halu.scenes import Scene
from halu.scenes.captions import where
from halu.scenes.grammar import NUMBERS, article, noun, sentence, there_are
from halu.scenes.language import Relation, other_color, relations, single, wrong_count

Truth = Callable[[Claim], bool | None]
"""Whether a claim is made up; none: nobody knows."""

_PLACES = ("left", "middle", "right")
_SIDES = {"on the left of": "left", "on the right of": "right", "above": "top", "below": "bottom"}


def truth(scene: Scene) -> Truth:
    """What is made up of numbers, colours and places that are claimed of the scene. Nothing is
    known of what is not there, of a place near a border, of places and colours of one among
    several, and of claims that name an object alone.
    """
    alone = {thing.name: thing for thing in single(scene)}
    sides = {(one.first.name, _SIDES[one.words], one.second.name) for one in relations(scene)}

    def made_up(claim: Claim) -> bool | None:
        thing = alone.get(claim.subject)
        if claim.kind == "count" and claim.subject in scene.names:
            return int(claim.value) != scene.counts[claim.subject]
        if claim.kind == "color" and thing and thing.color:
            return claim.value != thing.color
        if claim.kind == "position" and claim.other:
            if (claim.subject, claim.value, claim.other) in sides:
                return False
            return True if (claim.other, claim.value, claim.subject) in sides else None
        if claim.kind == "position" and claim.value in _PLACES and thing:
            place = where(thing, scene.owner.shape[0])
            return None if place is None else place.split()[-1] != claim.value
        return None

    return made_up


def text(scene: Scene, rng: random.Random) -> str:
    """Sentences about numbers, colours and places of what is there."""
    return " ".join(sentence(words) for words in _said(scene, rng))


def _said(scene: Scene, rng: random.Random) -> Iterator[str]:
    for name, count in scene.counts.items():
        yield there_are(count if rng.random() < 0.5 else wrong_count(count, rng), name, NUMBERS[1])
    for thing in single(scene):
        if place := where(thing, scene.owner.shape[0]):
            true = place.split()[-1]
            said = true if rng.random() < 0.5 else rng.choice([o for o in _PLACES if o != true])
            yield f"{article(noun(thing.name))} is {'in' if said == 'middle' else 'on'} the {said}"
        if thing.color:
            shade = thing.color if rng.random() < 0.5 else other_color(thing.color, rng)
            yield f"there is {article(f'{shade} {noun(thing.name)}')}"
    known = relations(scene)
    for relation in rng.sample(known, min(2, len(known))):
        yield _related(relation, rng.random() < 0.5)


def _related(one: Relation, true: bool) -> str:
    words = one.words if true else one.opposite
    return f"the {one.first.name} is {words.replace('on the', 'to the')} the {one.second.name}"
