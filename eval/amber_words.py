"""Which objects of a description AMBER counts, which it finds made up, and which annotated objects
it finds covered.

Wang et al., 2023, arXiv:2311.07397. Nouns (by NLTK's tags, reduced by WordNet) count if the
association table knows them. A noun is fine if it is a safe word, an annotated object, or an
associate of one; else it is made up. Besides, AMBER asks spaCy's large vectors whether a noun is
similar to an annotated object. Those vectors cannot be had here, so only equal words match: the
rules are called "amber-exact", and the figures differ by some tenths (one set of captions: CHAIR
7.6 without vectors, 7.1 with medium ones). Quirks kept: the case of a word matters; an associate
credits its annotated object before a word credits itself, and of equal ones only the first.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval import tagging
from halu.eval.benchmark import Mark, Score
from halu.eval.objects import Piece
from halu.eval.wordnet import ARCHIVE, noun_lemmatizer

RULES = "amber-exact"

Associates = Mapping[str, tuple[str, ...]]
Nouns = Callable[[str], list[Piece]]
"""Finds the nouns of a text: each with its lemma as text, and its place."""


@dataclass(frozen=True)
class Words:
    """AMBER's word lists and how nouns are found; `known` are the words that count."""

    associates: Associates
    known: frozenset[str]
    safe: frozenset[str]
    nouns: Nouns


@dataclass(frozen=True)
class Objects:
    """What a picture shows (`truth`) and what models tend to add to it (`lures`)."""

    truth: tuple[str, ...]
    lures: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """What scores a description of one picture."""

    objects: Objects
    words: Words

    def score(self, text: str) -> Score:
        """Score one description. `value`: the share of its objects that are not made up."""
        words = self.words
        there = _credit(self.objects.truth, words.associates)
        lured = _credit(self.objects.lures, words.associates)
        found = [noun for noun in words.nouns(text) if noun.text in words.known]
        marks = tuple(
            Mark(n.start, n.stop, n.text, n.text not in there and n.text not in words.safe)
            for n in found
        )
        named = [noun.text for noun in found if noun.text not in words.safe]
        wrong = sum(mark.wrong for mark in marks)
        counts = {
            "captions": 1,
            "captions_wrong": int(wrong > 0),
            "mentions": len(marks),
            "mentions_wrong": wrong,
            "truth": len(self.objects.truth),
            "covered": len({there[name] for name in named if name in there}),
            "lures": len(self.objects.lures),
            "lured": len({lured[n] for n in named if n in lured and n not in there}),
        }
        spoken = any(letter.isalpha() for letter in text)
        value = 1 - wrong / len(marks) if marks else 1.0
        parsed = tuple(dict.fromkeys(mark.name for mark in marks))
        return Score(parsed, value if spoken else None, counts, marks)


def read_words(folder: Path, tables: Path) -> Words:
    """Read AMBER's lists from `folder`, tokenizer, tagger and WordNet from `tables`.

    Raises:
        BadInput: if a file is missing or malformed.
        Unavailable: if the extra `eval` is not installed.
    """
    tagging.require_nltk(RULES)
    split = tagging.splitter(files.file(tables, *tagging.PUNKT))
    tag = tagging.tagger(files.file(tables, *tagging.TAGGER))
    lemma = noun_lemmatizer(files.file(tables, ARCHIVE))

    def nouns(text: str) -> list[Piece]:
        pieces = split(text)
        tags = tag([piece.text for piece in pieces])
        return [
            Piece(lemma(piece.text), piece.start, piece.stop)
            for piece, (_, kind) in zip(pieces, tags, strict=True)
            if kind.startswith("NN")
        ]

    associates = _associates(files.file(folder, "relation.json"))
    known = frozenset(associates).union(*associates.values())
    safe = files.file(folder, "safe_words.txt").read_text("utf-8").splitlines()
    return Words(associates, known, frozenset(safe), nouns)


def objects(truth: object, lures: object, associates: Associates, where: str) -> Objects:
    """Check one picture's annotated words.

    Raises:
        BadInput: if they are not lists of words that the association table has.
    """
    found = []
    for key, words in (("truth", truth), ("hallu", lures)):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise BadInput(f"{where}: {key!r} is not a list of words.")
        if unknown := [word for word in words if word not in associates]:
            raise BadInput(f"{where}: {unknown[0]!r} is not in relation.json.")
        found.append(tuple(words))
    return Objects(*found)


def _credit(annotated: Iterable[str], associates: Associates) -> dict[str, int]:
    """Map each word that names an annotated object to that object's place."""
    pairs = [(word, at) for at, name in enumerate(annotated) for word in associates[name]]
    pairs += [(name, at) for at, name in enumerate(annotated)]
    credit: dict[str, int] = {}
    for word, at in pairs:
        credit.setdefault(word, at)
    return credit


def _associates(path: Path) -> Associates:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not JSON.", param="data") from error
    if not isinstance(found, dict) or not all(isinstance(row, list) for row in found.values()):
        raise BadInput(f"{path} is not a table of words and their associates.", param="data")
    return {str(word): tuple(map(str, row)) for word, row in found.items()}
