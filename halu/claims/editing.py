"""Takes objects out of a text, so that its sentences stay sentences.

Objects that stand in a list, with commas and "and" between them, are a group; what is left of a
group is listed anew. A group of which nothing is left goes with the words up to the next one, and a
sentence of which no object is left goes whole.
"""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from halu.claims.mentions import Mention, mentions
from halu.claims.sentences import Word, sentences, words
from halu.claims.vocabulary import NUMBERS

Place = tuple[int, int]

_ARTICLES = frozenset({"a", "an", "the", "some", "several", "one", *NUMBERS})
_BREAKS = frozenset({"and", "with", "of", "is", "are"})
_BEFORE = 5
"""Most words between an object and its article."""
_GLUE = re.compile(r"\s*,?\s*(?:and\s+)?")
_TAIL = re.compile(r"(?:[\s,]|\b(?:and|with|near|next to|beside|while))*$")
_THERE = re.compile(r"\b([Tt]here) (is|are)( also)? (\w+)")


class Edited(NamedTuple):
    """The text that is left, and for each object that was taken out, in order, the place of its
    sentence in the new text, empty where that is gone.
    """

    text: str
    places: list[Place]


class Item(NamedTuple):
    """An object with its article and what belongs to it: characters [start, stop)."""

    start: int
    stop: int
    goes: bool


def without(text: str, gone: Collection[Place]) -> Edited:
    """The text without the objects named at these places; sentences without them stay letter by
    letter.
    """
    kept, end = "", 0
    places: list[Place] = []
    for start, stop in sentences(text):
        between, end = text[end:start], stop
        own = [place for place in gone if start <= place[0] < stop]
        sentence = _sentence(text, (start, stop), own) if own else text[start:stop]
        if sentence:
            kept += between if kept else ""
        places += [(len(kept), len(kept) + len(sentence))] * len(own)
        kept += sentence
    return Edited(kept + (text[end:] if kept else ""), places)


def _sentence(text: str, place: Place, gone: Sequence[Place]) -> str:
    """What is left of one sentence."""
    sentence = words(text, *place)
    groups: list[list[Item]] = []
    for item in (_item(sentence, one, gone) for one in mentions(sentence, "coco")):
        if groups and _GLUE.fullmatch(text[groups[-1][-1].stop : item.start]):
            groups[-1].append(item)
        else:
            groups.append([item])
    edges = [*(group[0].start for group in groups[1:]), place[1]]
    gaps = [text[group[-1].stop : edge] for group, edge in zip(groups, edges, strict=True)]
    left = [
        (_listed([text[item.start : item.stop] for item in group if not item.goes]), gap)
        for group, gap in zip(groups, gaps, strict=True)
        if not all(item.goes for item in group)
    ]
    if not left:
        return ""
    whole = text[place[0] : groups[0][0].start] + "".join(part + gap for part, gap in left)
    if all(item.goes for item in groups[-1]):
        whole = _TAIL.sub("", whole) + "."
    return _agreeing(whole[0].upper() + whole[1:])


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _item(sentence: Sequence[Word], mention: Mention, gone: Sequence[Place]) -> Item:
    first = mention.first
    for place in range(mention.first - 1, max(-1, mention.first - _BEFORE - 1), -1):
        word = sentence[place]
        pair = word.text == "of" and sentence[place - 1].text in ("pair", "pairs")
        if word.is_mark or (word.text in _BREAKS and not pair):
            break
        if word.text in _ARTICLES or word.text.isdecimal():
            first = place
            break
    last = mention.last
    tail = [word.text for word in sentence[last + 1 : last + 4]]
    if tail[:2] in (["on", "the"], ["in", "the"]) and tail[2:] in (["left"], ["right"], ["middle"]):
        last += 3
    named = sentence[mention.first].start, sentence[mention.last].stop
    return Item(sentence[first].start, sentence[last].stop, named in gone)


def _agreeing(sentence: str) -> str:
    """Make "There are a dog" into "There is a dog"."""

    def agreed(match: re.Match[str]) -> str:
        several = NUMBERS.get(match[4], 1) > 1 or match[4] in ("several", "some")
        return f"{match[1]} {'are' if several else 'is'}{match[3] or ''} {match[4]}"

    return _THERE.sub(agreed, sentence)
