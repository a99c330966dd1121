"""Takes objects out of a text, so that its sentences stay sentences.

Objects that stand in a list, with commas and "and" between them, are a group; what is left of a
group is listed anew. A group of which nothing is left goes with the words up to the next one, and a
sentence of which no object is left goes whole; so does one whose verb would lose its object ("A man
holds.") or its number ("A cat sleep.").
"""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from halu.claims.mentions import Mention, mentions
from halu.claims.quotes import quoted
from halu.claims.sentences import Word, sentences, words
from halu.claims.vocabulary import NUMBERS
from halu.claims.vocabulary import words as listed_words

Place = tuple[int, int]

_ARTICLES = frozenset({"a", "an", "the", "some", "several", "one", *NUMBERS})
_BREAKS = frozenset({"and", "with", "of", "is", "are"})
_BEFORE = 5
"""Most words between an object and its article."""
_GLUE = re.compile(r"\s*,?\s*(?:and\s+)?")
_CLAUSE = re.compile(r"(?:,|\b(?:and|while))\s*$")
_TAIL = re.compile(
    r"(?:[\s,]|\b(?:and|with|near|next to|beside|while|on|in|at|of|by|to|from|under|over|behind"
    r"|above|below|beneath|against|along|around|through|between|in front of))+$"
)
_VERB = re.compile(r" (is|are|was|were|has|have|does|do)\b")
_ONE = {"are": "is", "were": "was", "have": "has", "do": "does"}
_BARE = re.compile(r" ([a-z]+)\b(?<!ing)(?<!ed)(?<!ly)(?<!s)")
_NOT_VERBS = frozenset(
    """
    and with near next on in at of by to from under over behind above below beneath against along
    around through between beside while that who which or together can could may might will would
    into onto inside outside there here seen shown made
    """.split()
)
"""Words after objects that say nothing of how many they are."""
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
    several: bool


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
    groups = _groups(text, place, gone)
    edges = [*(group[0].start for group in groups[1:]), place[1]]
    if all(item.goes for group in groups for item in group):
        return ""
    whole, between = text[place[0] : groups[0][0].start], ""
    for number, (group, edge) in enumerate(zip(groups, edges, strict=True)):
        left = [item for item in group if not item.goes]
        gap = text[group[-1].stop : edge]
        if left:
            agreed = _agreed(gap, group, left)
            if agreed is None:
                return ""
            whole += between + _listed([text[item.start : item.stop] for item in left])
            between = agreed
        elif number == len(groups) - 1:
            tail = _TAIL.search(between)
            if tail is None or not tail[0].strip():
                return ""  # a verb without its object
            between = _TAIL.sub("", between) + "."
        elif number and not _CLAUSE.search(between):
            between = gap
    whole += between
    return _agreeing(whole[0].upper() + whole[1:])


def _groups(text: str, place: Place, gone: Sequence[Place]) -> list[list[Item]]:
    """The objects of a sentence, those of one list together."""
    sentence = words(text, *place)
    groups: list[list[Item]] = []
    for item in (_item(sentence, one, gone) for one in mentions(sentence, "coco", quoted(text))):
        if groups and _GLUE.fullmatch(text[groups[-1][-1].stop : item.start]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _agreed(gap: str, group: Sequence[Item], left: Sequence[Item]) -> str | None:
    """The words after a group, as they go with what is left of it; none if they do not."""
    if len(left) == len(group) or len(left) > 1 or left[0].several:
        return gap
    if verb := _VERB.match(gap):
        return f" {_ONE.get(verb[1], verb[1])}{gap[verb.end() :]}"
    bare = _BARE.match(gap)
    return None if bare and bare[1] not in _NOT_VERBS else gap


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
    several = sentence[mention.last].text in listed_words().singular
    return Item(sentence[first].start, sentence[last].stop, named in gone, several)


def _agreeing(sentence: str) -> str:
    """Make "There are a dog" into "There is a dog"."""

    def agreed(match: re.Match[str]) -> str:
        several = NUMBERS.get(match[4], 1) > 1 or match[4] in ("several", "some")
        return f"{match[1]} {'are' if several else 'is'}{match[3] or ''} {match[4]}"

    return _THERE.sub(agreed, sentence)
