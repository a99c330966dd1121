"""Says a number, a colour or a place otherwise, in the words that stand around it."""

import re
from itertools import pairwise
from typing import NamedTuple

from halu.claims.claim import Claim
from halu.claims.vocabulary import NUMBERS

PHRASES = {
    "left": "on the left",
    "middle": "in the middle",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
_BESIDE = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
_PART = re.compile(r"\s+(?:side|corner|part)\b")
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)
_LAST_WORD = re.compile(r"\w+$")


class Edit(NamedTuple):
    """Characters [start, stop) and what comes in their place."""

    start: int
    stop: int
    words: str


def reworded(text: str, claim: Claim, value: str) -> Edit | None:
    """The change that makes a claim of the text say this value; none where other words would have
    to change along, as between one and several.
    """
    edit = {"count": _number, "color": _color, "position": _place}[claim.kind](text, claim, value)
    if edit is None:
        return None
    first = text[edit.start]
    words = edit.words[0].upper() + edit.words[1:] if first.isupper() else edit.words
    return edit._replace(words=words)


def changed(text: str, edits: list[Edit]) -> str:
    """The text with changes, which must not overlap."""
    ordered = sorted(edits)
    assert all(one.stop <= after.start for one, after in pairwise(ordered)), ordered
    for start, stop, words in reversed(ordered):
        text = text[:start] + words + text[stop:]
    return text


def _number(text: str, claim: Claim, value: str) -> Edit | None:
    if "1" in (value, claim.value) or "0" in (value, claim.value):
        return None
    said = text[claim.start : claim.stop]
    word = next((name for name, number in NUMBERS.items() if str(number) == value), value)
    return Edit(claim.start, claim.stop, value if said.isdecimal() else word)


def _color(text: str, claim: Claim, value: str) -> Edit:
    article = _ARTICLE.search(text, 0, claim.start)
    an = "an" if value[0] in "aeiou" else "a"
    if article is None or article[1].lower() == an:
        return Edit(claim.start, claim.stop, value)
    return Edit(article.start(), claim.stop, f"{an}{article[2]}{value}")


def _place(text: str, claim: Claim, value: str) -> Edit | None:
    said = text[claim.start : claim.stop]
    if claim.other:
        return Edit(claim.start, claim.stop, _LAST_WORD.sub(_BESIDE.get(value, value), said))
    if not _PART.match(text, claim.stop):
        return Edit(claim.start, claim.stop, PHRASES[value])
    if "middle" in (value, claim.value):
        return None
    return Edit(claim.start, claim.stop, _LAST_WORD.sub(value, said))
