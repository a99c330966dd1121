"""The rules `chair-words`, which ship with halu: COCO's 80 names, everyday synonyms, plurals by
table.

CHAIR's own synonym table, WordNet and tagger weights are not ours to ship (`chair_tables` reads
them from a folder). Captions of the built-in world use COCO's names, so a small list of our own
reads them exactly. It knows no parts of speech: every word is taken for a noun. Do not compare its
figures with published ones.
"""

import re
from functools import lru_cache

from halu.claims.vocabulary import plurals, table
from halu.eval.objects import Lexicon, Piece, Rules

_PIECE = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s-]")
"""Words and punctuation marks; a hyphen separates, so that "teddy-bear" is two words."""


@lru_cache(maxsize=1)
def words_rules() -> Rules:
    """Load the shipped rules."""
    raw = table()
    rows: dict[str, list[str]] = raw["names"]
    names = {word: name for name, synonyms in rows.items() for word in (name, *synonyms)}
    pairs = {word: word for word in names if " " in word}
    pairs |= {f"{age} {animal}": animal for animal in raw["young"] for age in ("baby", "adult")}
    pairs |= {f"{colour} {word}": word for colour in raw["colours"] for word in names}
    pairs |= {words: words for words in raw["not_objects"]}
    singular = raw["irregular"] | dict(plurals(set(" ".join([*names, *pairs]).split())))

    def reduce(words: list[str]) -> list[str]:
        return [singular.get(word, word) for word in words]

    return Rules("chair-words", Lexicon(names, pairs), _split, reduce)


def _split(text: str) -> list[Piece]:
    return [Piece(found[0], found.start(), found.end()) for found in _PIECE.finditer(text)]
