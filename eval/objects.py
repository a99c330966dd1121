"""CHAIR's reading of a caption: the mentions of COCO objects, in order, with their places in the
text.

Rohrbach et al., EMNLP 2018, arXiv:1809.02156. The steps after reducing words are the same in every
published version; how a word is reduced and which words count is what `Rules` names. The quirks are
part of the metric and are kept. Ours: every mention carries character offsets, so that a report can
mark it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Piece:
    """A word or punctuation mark of the lower-cased caption, and where it is."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Mention:
    """An object named in a caption: the reduced `word` found, and the category's `name`."""

    start: int
    stop: int
    word: str
    name: str


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Which words are objects: synonym to category, and pairs of words that read as one."""

    names: Mapping[str, str]
    pairs: Mapping[str, str]


Split = Callable[[str], list[Piece]]
Reduce = Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """A named way to read captions: split into pieces, reduce each, look the words up.

    Each is equal to itself alone, which makes it a key of what was read.
    """

    name: str
    lexicon: Lexicon
    split: Split
    reduce: Reduce


@dataclass(frozen=True, slots=True)
class Caption:
    """What a caption names, and its length: joined words and marks, toilet seats included."""

    mentions: tuple[Mention, ...]
    length: int


@lru_cache(maxsize=16384)
def read_caption(text: str, rules: Rules) -> Caption:
    """Find the object mentions of a caption under `rules`; remembered, as tagging is slow."""
    lowered, origin = _lowered(text)
    pieces = rules.split(lowered)
    words = rules.reduce([piece.text for piece in pieces])
    joined = _join(pieces, words, rules.lexicon.pairs)
    found = _drop_toilet_seats(joined)
    mentions = tuple(
        Mention(
            origin[piece.start], origin[piece.stop], piece.text, rules.lexicon.names[piece.text]
        )
        for piece in found
        if piece.text in rules.lexicon.names
    )
    return Caption(mentions, len(joined))


def _lowered(text: str) -> tuple[str, list[int]]:
    """Lower-case, with the original offset of every character: some letters become two."""
    origin = [place for place, letter in enumerate(text) for _ in letter.lower()]
    return "".join(letter.lower() for letter in text), [*origin, len(text)]


def _join(pieces: list[Piece], words: list[str], pairs: Mapping[str, str]) -> list[Piece]:
    """Left to right, let two neighbours that form a known pair read as one word."""
    joined: list[Piece] = []
    place = 0
    while place < len(words):
        pair = pairs.get(" ".join(words[place : place + 2]))
        last = place if pair is None else place + 1
        text = words[place] if pair is None else pair
        joined.append(Piece(text, pieces[place].start, pieces[last].stop))
        place = last + 1
    return joined


def _drop_toilet_seats(pieces: list[Piece]) -> list[Piece]:
    """With both words left, no seat is a chair ("the seat of the toilet")."""
    words = {piece.text for piece in pieces}
    if not {"toilet", "seat"} <= words:
        return pieces
    return [piece for piece in pieces if piece.text != "seat"]
