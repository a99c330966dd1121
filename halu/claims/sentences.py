"""Text cut into sentences and words with their places, and whether a sentence is English."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?|[^\w\s-]")
_END = re.compile(r"[.!?。！？]+[\"”')\]]*(?=\s|$)|\n+")

ENGLISH = frozenset(
    """
    the a an is are was were of and with there this that it its his her their in on at to by for
    from has have which while near next some several two three yes no not can be
    """.split()
)
_FOREIGN = frozenset(
    """
    der das und ein eine einen einem einer ist sind mit auf nicht dem den zwei sich von bei im
    le la les et un une est sont avec dans sur il elle du des aux qui deux pas el los las y con
    en una unos es está están hay por para que dos del o os um uma e é são com na não em dois di
    che gli lo sono per nella del della non due het een en zijn van op met niet och ett det på
    är i na w z się jest są nie и в на с не это
    """.split()
) - {"i", "a"}


@dataclass(frozen=True, slots=True)
class Word:
    """A word or mark in lower case, and its place in the text."""

    text: str
    start: int
    stop: int

    @property
    def is_mark(self) -> bool:
        """Whether it is punctuation."""
        return not self.text[0].isalnum()


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """The places of a text's sentences, without the space around them."""
    start = 0
    for stop in (*(found.end() for found in _END.finditer(text)), len(text)):
        piece = text[start:stop]
        if piece.strip():
            lead = len(piece) - len(piece.lstrip())
            yield start + lead, start + len(piece.rstrip())
        start = stop


def words(text: str, start: int = 0, stop: int | None = None) -> list[Word]:
    """Words and marks between two places; a hyphen separates."""
    found = _WORD.finditer(text, start, len(text) if stop is None else stop)
    return [Word(match[0].lower().replace("’", "'"), match.start(), match.end()) for match in found]


def is_english(sentence: list[Word]) -> bool:
    """Whether nothing speaks against it: function words of another language outnumber English
    ones.
    """
    texts = [word.text for word in sentence]
    foreign = sum(text in _FOREIGN for text in texts)
    return foreign <= sum(text in ENGLISH for text in texts)
