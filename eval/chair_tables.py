"""The `chair-nltk` rules of OPERA, less-is-more, lmms-eval: tagged words, WordNet lemmas, COCO
synonyms.

The word tables and tagger weights belong to others and are not shipped: they are read from a
folder. The lemma table stands in for WordNet; a word that is not in it cannot touch the vocabulary
and stays as it is.

    synonyms.txt                 the 80 categories and their synonyms, one row each
    double_words.json            pairs of words that read as one
    lemma_table_wordnet.json     word -> part of speech (n v a r) -> lemma
    nltk_data/                   punkt_tab_english.zip and averaged_perceptron_tagger_eng.zip
"""

import json
from pathlib import Path

from halu.errors import BadInput
from halu.eval.objects import Lexicon, Reduce, Rules
from halu.eval.tagging import PUNKT, TAGGER, Tag, require_nltk, splitter, tagger

_FILES = ("synonyms.txt", "double_words.json", "lemma_table_wordnet.json", "nltk_data")


def nltk_rules(folder: Path) -> Rules:
    """Build the `chair-nltk` rules from the tables in `folder`.

    Raises:
        BadInput: if a table is missing, with the list of what is looked for.
        Unavailable: if the extra `eval` is not installed.
    """
    missing = [name for name in _FILES if not (folder / name).exists()]
    if missing:
        raise BadInput(
            f"The CHAIR tables folder {folder} lacks {', '.join(missing)}.",
            hint=f"It must hold {', '.join(_FILES)}.",
        )
    require_nltk("chair-nltk")
    data = folder / "nltk_data"
    return Rules(
        "chair-nltk",
        Lexicon(read_synonyms(folder / "synonyms.txt"), _table(folder / "double_words.json")),
        splitter(data / PUNKT[0]),
        _lemmatiser(
            tagger(data / TAGGER[0]),
            json.loads((folder / "lemma_table_wordnet.json").read_text("utf-8")),
        ),
    )


def read_synonyms(path: Path) -> dict[str, str]:
    """Map every synonym to its row's first entry.

    Entries are split at comma and blank and not stripped: two begin with a blank and so never
    match, as in the original.
    """
    rows = (row.strip().split(", ") for row in path.read_text("utf-8").splitlines())
    return {word: row[0] for row in rows for word in row}


def _table(path: Path) -> dict[str, str]:
    return {str(key): str(value) for key, value in json.loads(path.read_text("utf-8")).items()}


def _lemmatiser(tag: Tag, lemmas: dict[str, dict[str, str]]) -> Reduce:
    """Tag each word, then take its lemma for that part of speech; a noun when unknown."""
    speech = {"J": "a", "V": "v", "N": "n", "R": "r"}

    def reduce(words: list[str]) -> list[str]:
        return [
            lemmas[word][speech.get(kind[0], "n")] if word in lemmas else word
            for word, kind in tag(words)
        ]

    return reduce
