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
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from halu.errors import BadInput, Unavailable
from halu.eval.objects import Lexicon, Piece, Reduce, Rules, Split

_FILES = ("synonyms.txt", "double_words.json", "lemma_table_wordnet.json", "nltk_data")
_PUNKT = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
_TAGGER = ("weights", "tagdict", "classes")


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
    if find_spec("nltk") is None:
        raise Unavailable("The rules 'chair-nltk' need nltk.", hint="Install halu[eval].")
    data = folder / "nltk_data"
    return Rules(
        "chair-nltk",
        Lexicon(read_synonyms(folder / "synonyms.txt"), _table(folder / "double_words.json")),
        _splitter(_archive(data / "punkt_tab_english.zip", _PUNKT)),
        _lemmatiser(
            _archive(
                data / "averaged_perceptron_tagger_eng.zip",
                tuple(f"averaged_perceptron_tagger_eng.{part}.json" for part in _TAGGER),
            ),
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


def _archive(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Read the named members of a zip file, wherever in it they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = {PurePosixPath(member).name: member for member in archive.namelist()}
            return {name: archive.read(found[name]).decode("utf-8") for name in names}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is not the archive it should be: {error}.") from error


def _splitter(files: dict[str, str]) -> Split:
    """NLTK's word tokenizer: Punkt sentences, then Treebank words."""
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(files["abbrev_types.txt"].split())
    parameters.sent_starters = set(files["sent_starters.txt"].split())
    parameters.collocations = {
        (first, second) for first, second in _columns(files["collocations.tab"])
    }
    for word, context in _columns(files["ortho_context.tab"]):
        parameters.ortho_context[word] = int(context)
    sentences = PunktSentenceTokenizer(parameters)
    words = NLTKWordTokenizer()

    def split(text: str) -> list[Piece]:
        found = (word for part in sentences.tokenize(text) for word in words.tokenize(part))
        return list(_placed(text, found))

    return split


def _columns(text: str) -> Iterator[list[str]]:
    return (line.split("\t") for line in text.splitlines() if line)


def _placed(text: str, words: Iterator[str]) -> Iterator[Piece]:
    """Find each word's place again: the tokenizer only rewrites double quotes."""
    place = 0
    for word in words:
        forms = ('"', "``", "''") if word in {"``", "''"} else (word,)
        found = [(start, form) for form in forms if (start := text.find(form, place)) >= 0]
        start, form = min(found, default=(place, ""))
        place = start + len(form)
        yield Piece(word, start, place)


def _lemmatiser(files: dict[str, str], lemmas: dict[str, dict[str, str]]) -> Reduce:
    """Tag each word, then take its lemma for that part of speech; a noun when unknown."""
    tag = _tagger(files)
    speech = {"J": "a", "V": "v", "N": "n", "R": "r"}

    def reduce(words: list[str]) -> list[str]:
        return [
            lemmas[word][speech.get(kind[0], "n")] if word in lemmas else word
            for word, kind in tag(words)
        ]

    return reduce


def _tagger(files: dict[str, str]) -> Callable[[list[str]], list[tuple[str, str]]]:
    """NLTK's perceptron, filled here: it refuses to load from a folder of the user's choice."""
    from nltk.tag.perceptron import PerceptronTagger

    tagger = PerceptronTagger(load=False)
    weights, tagdict, classes = (
        json.loads(files[f"averaged_perceptron_tagger_eng.{part}.json"]) for part in _TAGGER
    )
    tagger.model.weights, tagger.tagdict = weights, tagdict
    tagger.classes = tagger.model.classes = set(classes)

    def tag(words: list[str]) -> list[tuple[str, str]]:
        return [(word, kind) for word, kind in tagger.tag(words)]

    return tag
