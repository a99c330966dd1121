"""TextHalu-Bench: words to spot in a picture, and questions with options on what they mean.

Shu et al., NeurIPS 2025, arXiv:2506.05551. F1 of words spotted and of options chosen, each over the
whole split (hits, false ones and misses are summed over pictures); the published figure is the mean
of both.

Read in the authors' repository: the layout of `Spotting.json` and `Understanding.json` (JSON lines
with `filename` and `letter_group`, which holds the words, or the question with its options and the
letters that are right), and the rule `texthalu`, that of their evaluation script. Its quirks are
kept. A word in the answer counts once, whatever its case, and "TEXT" never; a word that is there
twice is missed once; "###" is no word; one with a hyphen in it cannot be hit. An option is chosen
if its text or its capital letter occurs anywhere in the answer, so "None of these" chooses nothing
and "All" A. Their script for Qwen reads answers in another way and pools both tasks; it is not
offered. Not found: whether a line says if its words mean anything, so there is no such split.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.benchmark import (
    Counts,
    Metric,
    Sample,
    Score,
    Total,
    benchmarks,
    chosen,
    ratio,
    summed,
)
from halu.eval.records import Entry, read_entries

FILES = {
    "spotting": ("Spotting.json", "spotting.json"),
    "understanding": ("Understanding.json", "understanding.json"),
}
COUNTS = ("hits", "false", "missed")
METRICS = (
    Metric("f1", "higher", "harmonic mean of precision and recall"),
    Metric("precision", "higher", "words or options given that are right"),
    Metric("recall", "higher", "right words or options that are given"),
)
TOTALS = (Total("average_f1", "f1", tuple(FILES), "mean", "mean F1 of both tasks"),)
_SPOT = "Please list all the words in this image. Only output the words, without explanations."
_PLACES = ("", "images", "TextHalu-Bench")
_HINT = "It must hold Spotting.json, Understanding.json and the pictures that they name."


@dataclass(frozen=True, slots=True)
class TextHalu:
    """Both tasks from the authors' files; a task is a split."""

    name: str = "textualhalu"
    about: str = "Words spotted, options chosen on printed text (TextHalu-Bench, arXiv:2506.05551)"
    splits: tuple[str, ...] = tuple(FILES)
    version: int = 1
    rules: str = "texthalu"
    builtin: bool = False
    judged: bool = False
    suffix: str = ""
    max_new_tokens: int = 512
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS
    totals: tuple[Total, ...] = TOTALS

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of each split in the order of its file.

        Raises:
            BadInput: for missing files or pictures, or a malformed line.
        """
        folder = files.needed(data, self.name, _HINT)
        wanted = chosen(self.splits, splits)
        found = [sample for split in wanted for sample in read_questions(folder, split)]
        return files.limited(folder, found, wanted, limit, _PLACES)

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a picture by the path that its line names."""
        return files.open_picture(files.needed(data, self.name, _HINT), image, _PLACES)

    def score(self, sample: Sample, text: str) -> Score:
        """Compare words, or letters of options, with those that are right."""
        if sample.split == "spotting":
            given = spotted(text)
        else:
            given = options_chosen(text, options(sample.prompt))
        return score_given(given, sample.label, text)

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up the answers about one picture."""
        return summed(self.counts, counts)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute F1, precision and recall; F1 is 0 where something was asked and nothing hit."""
        hits, false, missed = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
        return {
            "f1": ratio(2 * hits, 2 * hits + false + missed),
            "precision": ratio(hits, hits + false),
            "recall": ratio(hits, hits + missed),
        }


def read_questions(folder: Path, split: str) -> list[Sample]:
    """Read a task's file; a question's id is its line.

    Raises:
        BadInput: naming the line, if one is malformed.
    """
    read = _spotting if split == "spotting" else _understanding
    found = []
    for number, entry in enumerate(read_entries(files.file(folder, *FILES[split])), 1):
        group = entry.fields.get("letter_group")
        if not isinstance(group, list) or not all(isinstance(word, str) for word in group):
            raise BadInput(f"{entry.where}: 'letter_group' is missing or not a list of texts.")
        prompt, label = read(entry, group)
        image = entry.text("filename").lstrip("./")
        found.append(Sample(f"{split}/{number}", split, image, prompt, label))
    return found


def spotted(text: str) -> tuple[str, ...]:
    """List the words of an answer, upper-case, each once."""
    words = re.findall(r"\w+", text.upper())
    return tuple(word for word in dict.fromkeys(words) if word != "TEXT")


def options(question: str) -> dict[str, str]:
    """Find the options of a question, by letter."""
    found = re.findall(r"([A-D])\.\s*(.+?)(?=\n[A-D]\.|$)", question, re.DOTALL)
    return {letter: " ".join(text.split()) for letter, text in found}


def options_chosen(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """List the letters of the options that occur in an answer."""
    return tuple(letter for letter, words in known.items() if words in text or letter in text)


def score_given(given: Sequence[str], label: str | tuple[str, ...], text: str) -> Score:
    """Count hits; `value` is the answer's own F1, None if it has neither letter nor digit."""
    right = Counter([label] if isinstance(label, str) else label)
    hits = sum(word in right for word in given)
    false, missed = len(given) - hits, right.total() - hits
    value = 2 * hits / (2 * hits + false + missed) if given or right else 1.0
    spoken = any(letter.isalnum() for letter in text)
    counts = {"hits": hits, "false": false, "missed": missed}
    return Score(tuple(given), value if spoken else None, counts)


def _spotting(entry: Entry, group: list[str]) -> tuple[str, tuple[str, ...]]:
    return _SPOT, tuple(word.upper() for word in group if word and word != "###")


def _understanding(entry: Entry, group: list[str]) -> tuple[str, tuple[str, ...]]:
    if len(group) < 2:
        raise BadInput(f"{entry.where}: 'letter_group' lacks a question or its answer.")
    return re.sub(r"(?<!\n)(?=[ABCD]\.)", "\n", group[0]), tuple(group[1].split())


benchmarks.register("textualhalu")(TextHalu())
