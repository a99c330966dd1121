"""NLTK's word tokenizer and part-of-speech tagger, filled from archives in a folder.

The Punkt tables and tagger weights belong to others and are not shipped, and NLTK would fetch them
at run time. They are read from the zip files that NLTK's own downloader leaves, or from ones that
hold English alone.
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from halu.errors import BadInput, Unavailable
from halu.eval.objects import Piece, Split

Tag = Callable[[list[str]], list[tuple[str, str]]]
"""Gives each word of a text its Penn Treebank tag."""

PUNKT = ("punkt_tab_english.zip", "punkt_tab.zip")
TAGGER = ("averaged_perceptron_tagger_eng.zip",)

_PUNKT_FILES = ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt")
_TAGGER_FILES = ("weights", "tagdict", "classes")


def require_nltk(rules: str) -> None:
    """Check that NLTK is installed.

    Raises:
        Unavailable: if the extra `eval` is not.
    """
    if find_spec("nltk") is None:
        raise Unavailable.without("eval", f"The rules {rules!r} need nltk.")


def members(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Read the named members of a zip file, wherever in it they are; English before others.

    Raises:
        BadInput: if it is no zip file or lacks one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sorted(
                map(PurePosixPath, archive.namelist()), key=lambda m: "english" in m.parts
            )
            found = {member.name: str(member) for member in inside}
            return {name: archive.read(found[name]).decode("utf-8") for name in names}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is not the archive it should be: {error}.") from error


def splitter(punkt: Path) -> Split:
    """Build NLTK's word tokenizer: Punkt sentences, then Treebank words.

    Raises:
        BadInput: if the archive is not Punkt's.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    files = members(punkt, _PUNKT_FILES)
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


def tagger(archive: Path) -> Tag:
    """Build NLTK's perceptron tagger; it refuses to load from a folder of the user's choice.

    Raises:
        BadInput: if the archive is not the tagger's.
    """
    from nltk.tag.perceptron import PerceptronTagger

    names = tuple(f"averaged_perceptron_tagger_eng.{part}.json" for part in _TAGGER_FILES)
    files = members(archive, names)
    weights, tagdict, classes = (json.loads(files[name]) for name in names)
    tagger = PerceptronTagger(load=False)
    tagger.model.weights, tagger.tagdict = weights, tagdict
    tagger.classes = tagger.model.classes = set(classes)

    def tag(words: list[str]) -> list[tuple[str, str]]:
        return [(word, kind) for word, kind in tagger.tag(words)]

    return tag


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
