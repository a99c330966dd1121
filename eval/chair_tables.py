"""CHAIR's published word rules, from word tables in a folder: `nltk` and `pattern`.

The tables and tagger weights belong to others and are not shipped. The family `nltk` (OPERA,
less-is-more, lmms-eval) tags every word and takes its WordNet lemma; `pattern` (the original of
2018, the POPE paper) takes the singular of every word by pattern's rules. A table stands in for
WordNet and for pattern; a word that is not in it cannot touch the vocabulary and stays as it is.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from halu.errors import BadInput
from halu.eval.objects import Lexicon, Reduce, Rules, Split
from halu.eval.records import read_json, read_text
from halu.eval.tagging import PUNKT, TAGGER, Tag, require_nltk, splitter, tagger

SYNONYMS, PAIRS = "synonyms.txt", "double_words.json"
LEMMAS, SINGULARS = "lemma_table_wordnet.json", "singular_table_pattern.json"
_PUNKT, _TAGGER = f"nltk_data/{PUNKT[0]}", f"nltk_data/{TAGGER[0]}"
TABLES = {
    SYNONYMS: "the 80 objects and their synonyms, as in LisaAnne/Hallucination data/synonyms.txt",
    PAIRS: "pairs of words that read as one, as JSON",
    LEMMAS: "word to part of speech (n v a r) to WordNet lemma, as JSON",
    SINGULARS: "word to its singular by the rules of pattern, as JSON",
    _PUNKT: "NLTK's English sentence tables (punkt_tab)",
    _TAGGER: "NLTK's English tagger (averaged_perceptron_tagger_eng)",
}
FAMILIES = {
    "nltk": (SYNONYMS, PAIRS, LEMMAS, _PUNKT, _TAGGER),
    "pattern": (SYNONYMS, PAIRS, SINGULARS, _PUNKT),
}


@lru_cache(maxsize=8)
def family_rules(family: str, folder: Path) -> Rules:
    """Build the word rules of a family of `FAMILIES` from the tables in `folder`.

    Raises:
        BadInput: if a table is missing or damaged, with what it is.
        Unavailable: if the extra `eval` is not installed.
    """
    if missing := [name for name in FAMILIES[family] if not (folder / name).exists()]:
        raise BadInput(
            f"The CHAIR tables folder {folder} lacks {missing[0]}: {TABLES[missing[0]]}.",
            hint=f"The {family} words need {', '.join(FAMILIES[family])}; halu does not ship them.",
            param="--tables",
        )
    name = f"chair-{family}"
    require_nltk(name)
    lexicon = Lexicon(read_synonyms(folder / SYNONYMS), _table(folder / PAIRS))
    if family == "pattern":
        return Rules(name, lexicon, _split(folder), _singulariser(_table(folder / SINGULARS)))
    reduce = _lemmatiser(tagger(folder / _TAGGER), read_json(folder / LEMMAS))
    return Rules(name, lexicon, _split(folder), reduce)


def read_synonyms(path: Path) -> dict[str, str]:
    """Map every synonym to its row's first entry.

    Entries are split at comma and blank and not stripped: two begin with a blank and so never
    match, as in the original.
    """
    rows = (row.strip().split(", ") for row in read_text(path).splitlines())
    return {word: row[0] for row in rows for word in row}


@lru_cache(maxsize=2)
def _split(folder: Path) -> Split:
    """Both families split alike, so a caption is split once."""
    return lru_cache(maxsize=16384)(splitter(folder / _PUNKT))


def _table(path: Path) -> dict[str, str]:
    table: dict[str, Any] = read_json(path)
    return {str(key): str(value) for key, value in table.items()}


def _singulariser(singular: dict[str, str]) -> Reduce:
    def reduce(words: list[str]) -> list[str]:
        return [singular.get(word, word) for word in words]

    return reduce


def _lemmatiser(tag: Tag, lemmas: dict[str, dict[str, str]]) -> Reduce:
    """Tag each word, then take its lemma for that part of speech; a noun when unknown."""
    speech = {"J": "a", "V": "v", "N": "n", "R": "r"}

    def reduce(words: list[str]) -> list[str]:
        return [
            lemmas[word][speech.get(kind[0], "n")] if word in lemmas else word
            for word, kind in tag(words)
        ]

    return reduce
