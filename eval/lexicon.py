"""The rules `chair-words`, which ship with halu: COCO's 80 names, everyday synonyms, plurals by
table.

CHAIR's own synonym table, WordNet and tagger weights are not ours to ship (`chair_tables` reads
them from a folder). Captions of the built-in world use COCO's names, so a small list of our own
reads them exactly. It knows no parts of speech: every word is taken for a noun. Do not compare its
figures with published ones.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files

from halu.eval.objects import Lexicon, Piece, Rules

_PIECE = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s-]")
"""Words and punctuation marks; a hyphen separates, so that "teddy-bear" is two words."""


@lru_cache(maxsize=1)
def words_rules() -> Rules:
    """Load the shipped rules."""
    table = json.loads(files("halu.eval").joinpath("data/objects.json").read_text("utf-8"))
    rows: dict[str, list[str]] = table["names"]
    names = {word: name for name, synonyms in rows.items() for word in (name, *synonyms)}
    pairs = {word: word for word in names if " " in word}
    pairs |= {f"{age} {animal}": animal for animal in table["young"] for age in ("baby", "adult")}
    pairs |= {f"{colour} {word}": word for colour in table["colours"] for word in names}
    pairs |= {words: words for words in table["not_objects"]}
    singular = table["irregular"] | dict(_plurals(set(" ".join([*names, *pairs]).split())))

    def reduce(words: list[str]) -> list[str]:
        return [singular.get(word, word) for word in words]

    return Rules("chair-words", Lexicon(names, pairs), _split, reduce)


def _split(text: str) -> list[Piece]:
    return [Piece(found[0], found.start(), found.end()) for found in _PIECE.finditer(text)]


def _plurals(words: set[str]) -> Iterator[tuple[str, str]]:
    """Regular plurals of `words`, unless the plural is an entry of its own (skis)."""
    for word in sorted(words):
        if word.endswith("y") and word[-2] not in "aeiou":
            plural = word[:-1] + "ies"
        elif word.endswith(("s", "x", "z", "ch", "sh")):
            plural = word + "es"
        else:
            plural = word + "s"
        if plural not in words:
            yield plural, word
