"""WordNet's lemma of a noun, by its published detachment rules ("Morphy"), from NLTK's archive.

An exception list comes first (mice, mouse), else endings are cut (boxes, box; men, man); of the
word itself and what that gives, the shortest that WordNet has as a noun wins, as NLTK's lemmatizer
picks it: "glasses" has an entry of its own but is longer than "glass". WordNet's lemmas are in
lower case, so a capitalised word stays as it is.
"""

from collections.abc import Callable
from pathlib import Path

from halu.eval.tagging import members

ARCHIVE = "wordnet.zip"
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


def noun_lemmatizer(archive: Path) -> Callable[[str], str]:
    """Build the lemmatizer from `index.noun` and `noun.exc` of WordNet's archive.

    Raises:
        BadInput: if it is not that archive.
    """
    files = members(archive, ("index.noun", "noun.exc"))
    lines = files["index.noun"].splitlines()
    nouns = {line.partition(" ")[0] for line in lines if not line.startswith(" ")}  # licence text
    exceptions = {word: bases for word, *bases in map(str.split, files["noun.exc"].splitlines())}

    def lemma(word: str) -> str:
        bases = exceptions.get(word) or [
            word.removesuffix(ending) + base for ending, base in _ENDINGS if word.endswith(ending)
        ]
        known = [form for form in (word, *bases) if form in nouns]
        return min(known, key=len, default=word)

    return lemma
