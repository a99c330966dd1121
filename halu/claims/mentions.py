"""Objects named in a sentence: COCO's by the word list, others by the small noun rule."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from halu.claims.claim import Vocabulary
from halu.claims.negation import denied
from halu.claims.sentences import ENGLISH, Word
from halu.claims.vocabulary import COLORS, NUMBERS, words
from halu.grounding.nouns import is_noun, singular

_NOT_THINGS = frozenset(
    """
    image picture photo photograph scene view background foreground side middle center centre
    corner area part piece group variety number couple pair row set front distance edge end space
    surface color colour shape size way time day night moment activity atmosphere ambiance
    setting environment position addition angle appearance arrangement style shade lot bit kind
    type sort sense feeling focus detail presence order use top bottom bunch location overview
    composition depiction interaction conversation attention event experience impression
    """.split()
)
_MOST_COLORS = 4
"""Colours in a row that may stand before a thing."""
_LONGEST_NAME = 3
"""Most nouns in a row that name one thing."""


@dataclass(frozen=True, slots=True)
class Mention:
    """An object named by the words [first, last] of a sentence."""

    first: int
    last: int
    name: str
    listed: bool


def mentions(
    sentence: Sequence[Word], vocabulary: Vocabulary, quotes: Iterable[tuple[int, int]] = ()
) -> list[Mention]:
    """What a sentence names and does not deny, in order; `quotes` are places of quoted words, which
    name nothing.
    """
    known = words()
    base = [known.singular.get(word.text, word.text) for word in sentence]
    found: list[Mention] = []
    place = 0
    while place < len(base):
        size, name = _listed(base, place)
        if size and name:
            found.append(Mention(place, place + size - 1, name, listed=True))
        elif not size and vocabulary == "open":
            size = _nouns(sentence, base, place)
            if size:
                last = place + size - 1
                name = " ".join([*base[place:last], singular(base[last])])
                found.append(Mention(place, last, name, listed=False))
        place += max(size, 1)
    gone = denied(sentence, [(one.first, one.last) for one in found])
    places = tuple(quotes)
    return [
        one
        for one, off in zip(found, gone, strict=True)
        if not off and not any(a <= sentence[one.first].start < b for a, b in places)
    ]


def _listed(base: Sequence[str], place: int, colors: int = 0) -> tuple[int, str]:
    """How many words from here are one entry of the list, and the object that they name; `colors`
    stand before it.
    """
    known = words()
    described = colors < _MOST_COLORS and base[place] in COLORS and place + 1 < len(base)
    if described and _listed(base, place + 1, colors + 1)[1]:
        return 0, ""  # an orange car
    for size in range(min(known.longest, len(base) - place), 0, -1):
        name = known.names.get(" ".join(base[place : place + size]))
        if name is not None:
            return size, name
    return 0, ""


def _nouns(sentence: Sequence[Word], base: Sequence[str], place: int) -> int:
    """How many words from here are nouns outside the list that together name a thing."""
    size = 0
    while (
        size < _LONGEST_NAME
        and place + size < len(base)
        and _is_thing(sentence[place + size].text)
        and not _listed(base, place + size)[0]
    ):
        size += 1
    return size


def _is_thing(word: str) -> bool:
    plain = word.isascii() and word not in COLORS and word not in NUMBERS and word not in ENGLISH
    return plain and singular(word) not in _NOT_THINGS and is_noun(word)
