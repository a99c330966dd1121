"""From a text to its claims."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from halu.claims.claim import Claim, Kind, Vocabulary
from halu.claims.mentions import Mention, mentions
from halu.claims.quotes import quoted
from halu.claims.sentences import ENGLISH, Word, is_english, sentences, words
from halu.claims.vocabulary import COLORS, NUMBERS

PLACES = {
    "left": "left",
    "right": "right",
    "middle": "middle",
    "center": "middle",
    "centre": "middle",
    "top": "top",
    "bottom": "bottom",
}
"""Words after "the" that name a place, and the place."""
RELATIONS = {"above": "top", "below": "bottom", "beneath": "bottom", "under": "bottom"}
"""Words that name a place beside another thing, and the place."""
_PICTURE = frozenset({"image", "picture", "photo", "photograph", "scene", "frame"})
_BEFORE_NAME = 5
"""Most words between a number or colour and the object that it belongs to."""
_WITHIN = {"of", "pair", "pairs", "and"}


@lru_cache(maxsize=256)
def claims(text: str, question: str = "", vocabulary: Vocabulary = "coco") -> tuple[Claim, ...]:
    """What a text claims, in order of place.

    Args:
        text: the answer.
        question: what was asked: "Yes", "2", "red" claim something only together with it.
        vocabulary: "coco", the 80 objects and their synonyms, or "open", also other nouns.
    """
    quotes = list(quoted(text))
    found = [Claim(a, b, "text", "", text[a:b].strip(" .,")) for a, b in quotes]
    for start, stop in sentences(text):
        sentence = words(text, start, stop)
        if is_english(sentence):
            found += _said(sentence, vocabulary, quotes)
    if not found and question:
        found = list(_answered(text, question, vocabulary))
    return tuple(sorted(found, key=lambda claim: (claim.start, claim.stop, claim.kind)))


def _said(
    sentence: Sequence[Word], vocabulary: Vocabulary, quotes: Sequence[tuple[int, int]] = ()
) -> Iterator[Claim]:
    """Claims of one sentence about objects."""
    named = mentions(sentence, vocabulary, quotes)
    for mention in named:
        start, stop = sentence[mention.first].start, sentence[mention.last].stop
        yield Claim(start, stop, "object", mention.name, listed=mention.listed)
        yield from _modifiers(sentence, mention)
    yield from _positions(sentence, named)


def _modifiers(sentence: Sequence[Word], mention: Mention) -> Iterator[Claim]:
    """Number and colours in front of a name, and the colour in "the car is red"."""
    for word in reversed(sentence[max(0, mention.first - _BEFORE_NAME) : mention.first]):
        if word.text in NUMBERS or word.text.isdecimal():
            value = str(NUMBERS.get(word.text, word.text))
            yield _about(mention, word, "count", value)
            break
        if word.text in COLORS:
            yield _about(mention, word, "color", word.text)
        elif word.is_mark or (word.text in ENGLISH and word.text not in _WITHIN):
            break
    after = sentence[mention.last + 1 : mention.last + 3]
    if len(after) == 2 and after[0].text in ("is", "are") and after[1].text in COLORS:
        yield _about(mention, after[1], "color", after[1].text)


def _about(mention: Mention, word: Word, kind: Kind, value: str) -> Claim:
    return Claim(word.start, word.stop, kind, mention.name, value, listed=mention.listed)


def _positions(sentence: Sequence[Word], named: Sequence[Mention]) -> Iterator[Claim]:
    """Places in "a dog on the left", "on the left, a dog", "a dog to the left of a cat"."""
    for index, word in enumerate(sentence):
        before = [other.text for other in sentence[max(0, index - 2) : index]]
        if word.text in PLACES and before[-1:] == ["the"] and before[0] in ("on", "to", "in", "at"):
            first, value = index - 2, PLACES[word.text]
        elif word.text in RELATIONS:
            first, value = index, RELATIONS[word.text]
        else:
            continue
        claim = _placed(sentence, named, first, index, value)
        if claim is not None:
            yield claim


def _placed(
    sentence: Sequence[Word], named: Sequence[Mention], first: int, last: int, value: str
) -> Claim | None:
    """The claim that the words [first, last] make of the object before, or else after them."""
    tail = last + 1
    if tail < len(sentence) and sentence[tail].text in ("side", "corner", "part"):
        tail += 1
    relative = value in RELATIONS.values() and first == last
    if relative or (tail < len(sentence) and sentence[tail].text == "of"):
        near = [word.text for word in sentence[tail : tail + 4]]
        other = next((one for one in named if tail <= one.first <= tail + 3), None)
        if other is None and not _PICTURE & set(near):
            return None
    else:
        other = None
    before = [one for one in named if one.last < first]
    after = [one for one in named if one.first > last and one is not other]
    subject = before[-1] if before else after[0] if after else None
    if subject is None:
        return None
    return Claim(
        sentence[first].start,
        sentence[last].stop,
        "position",
        subject.name,
        value,
        other.name if other else "",
        subject.listed,
    )


def _answered(text: str, question: str, vocabulary: Vocabulary) -> Iterator[Claim]:
    """What a short answer claims together with its question."""
    said, lowered = words(text), question.lower()
    asked = list(_asked(question, vocabulary))
    if not said:
        return
    first = said[0]
    if first.text == "yes":
        for claim in asked:
            yield _moved(claim, first, claim.kind, claim.value)
    elif len(said) <= 2 and lowered.startswith("how many") and asked:
        number = NUMBERS.get(first.text, first.text)
        if str(number).isdecimal():
            yield _moved(asked[0], first, "count", str(number))
    elif len(said) <= 2 and first.text in COLORS and "colo" in lowered and asked:
        yield _moved(asked[0], first, "color", first.text)
    elif len(said) <= 4 and re.search(r"\b(word|written|say|says|read|reads|text)\b", lowered):
        yield Claim(first.start, said[-1].stop, "text", "", text.strip(" .,\n"))


def _asked(question: str, vocabulary: Vocabulary) -> Iterator[Claim]:
    """What the question's first sentence would claim; later ones say how to answer."""
    for start, stop in sentences(question):
        sentence = words(question, start, stop)
        return _said(sentence, vocabulary) if is_english(sentence) else iter(())
    return iter(())


def _moved(claim: Claim, word: Word, kind: Kind, value: str) -> Claim:
    return replace(claim, start=word.start, stop=word.stop, kind=kind, value=value)
