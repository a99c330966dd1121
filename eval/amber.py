"""AMBER: descriptions, and yes/no questions on existence, attributes and relations.

Wang et al., 2023, arXiv:2311.07397. Of a description (`amber_words` reads it): CHAIR = made-up
objects / objects named; Cover = annotated objects that are named; Hal = descriptions with a made-up
object; Cog = objects named of those that models tend to add. Of a question: the answer must be
"Yes" or "No" to the letter, anything else is wrong and neither; no is the positive class of
precision and recall.

Quirks kept, since they move the last digit: every denominator starts at 0.001, and F1 is made from
precision and recall rounded to a tenth of a percent, with 0.0001 added to their sum (0.001 if all
questions are on existence, whose answers are all no). A metric that a split does not have is NaN.

Ours: since only the bare word counts, yes/no questions end in a request for one word, which the
authors' queries do not have.

The data folder holds the authors' `data` (`annotations.json`, `query/query_all.json`, for
descriptions also `relation.json` and `safe_words.txt`), the pictures `AMBER_1.jpg` ..., and for
descriptions NLTK's archives of Punkt, tagger and WordNet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.amber_words import RULES, Description, Words, objects, read_words
from halu.eval.benchmark import Counts, Metric, Sample, Score, benchmarks, chosen, ratio, summed
from halu.eval.records import Entry, read_entries
from halu.eval.yesno import readable

GENERATIVE, EXISTENCE = "generative", "existence"
SPLITS = (GENERATIVE, EXISTENCE, "attribute", "relation")
KINDS = {
    "generative": (GENERATIVE, None),
    "discriminative-hallucination": (EXISTENCE, None),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation", None),
    "relation": ("relation", None),
}
"""The annotations' `type` -> split and category of a sample."""

COUNTS = (
    *("captions", "captions_wrong", "mentions", "mentions_wrong"),
    *("truth", "covered", "lures", "lured"),
    *("questions", "right", "label_no", "said_no", "said_no_right", "on_existence"),
)
METRICS = (
    Metric("chair", "lower", "named objects that are not there"),
    Metric("cover", "higher", "annotated objects that are named"),
    Metric("hal", "lower", "descriptions with an object that is not there"),
    Metric("cog", "lower", "likely but absent objects that are named"),
    Metric("accuracy", "higher", "answers that are right", hits=("right",)),
    Metric("precision", "higher", "said no and it is no"),
    Metric("recall", "higher", "it is no and said no"),
    Metric("f1", "higher", "harmonic mean of rounded precision and recall of no"),
)
QUERIES = "query_all.json"
ANNOTATIONS = ("annotations.json", "annotations.json.gz")
_PLACES = ("", "image", "images", "AMBER", "data/image")
_HINT = f"It must hold AMBER's {ANNOTATIONS[0]}, {QUERIES} and pictures."
_START = 0.001
_ONE_WORD = " Please answer this question with one word."


@dataclass(frozen=True, slots=True)
class Amber:
    """AMBER from the authors' files; a sample's `category` tells attribute questions apart."""

    name: str = "amber"
    about: str = "Descriptions and yes/no questions of 1,004 pictures (AMBER, arXiv:2311.07397)"
    splits: tuple[str, ...] = SPLITS
    version: int = 1
    rules: str = RULES
    builtin: bool = False
    judged: bool = False
    suffix: str = ""
    max_new_tokens: int = 512
    metrics: tuple[Metric, ...] = METRICS
    counts: tuple[str, ...] = COUNTS

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of each split, in the order of the query file.

        Raises:
            BadInput: for missing files or pictures, or a malformed entry.
        """
        folder = files.needed(data, self.name, _HINT)
        wanted = chosen(self.splits, splits)
        words = read_words(folder, folder) if GENERATIVE in wanted else None
        truth = read_truth(files.file(folder, *ANNOTATIONS))
        asked = read_entries(files.file(folder, QUERIES))
        found = questions(asked, truth, words)
        return files.limited(folder, found, wanted, limit, _PLACES)

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a picture by its file name."""
        return files.open_picture(files.needed(data, self.name, _HINT), image, _PLACES)

    def score(self, sample: Sample, text: str) -> Score:
        """Score a description or an answer."""
        if isinstance(sample.detail, Description):
            return sample.detail.score(text)
        return score_answer(text, str(sample.label), sample.split == EXISTENCE)

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up the answers about one picture."""
        return summed(self.counts, counts)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the eight metrics, each NaN if nothing of its kind was asked."""
        total = dict(zip(COUNTS, np.moveaxis(np.asarray(counts, np.float64), -1, 0), strict=True))
        precision = _share(total["said_no_right"], total["said_no"], total["questions"])
        recall = _share(total["said_no_right"], total["label_no"], total["questions"])
        only_existence = total["on_existence"] == total["questions"]
        return {
            "chair": _share(total["mentions_wrong"], total["mentions"], total["captions"]),
            "cover": _share(total["covered"], total["truth"], total["captions"]),
            "hal": 1 - _share(total["captions"] - total["captions_wrong"], total["captions"]),
            "cog": _share(total["lured"], total["lures"], total["captions"]),
            "accuracy": _share(total["right"], total["questions"]),
            "precision": precision,
            "recall": recall,
            "f1": _f1(_rounded(precision), _rounded(recall), np.where(only_existence, 1e-3, 1e-4)),
        }


def score_answer(text: str, label: str, on_existence: bool) -> Score:
    """Score a yes/no answer; `value` is None when a person finds neither yes nor no."""
    said = {"Yes": "yes", "No": "no"}.get(text)
    right = said == label
    counts = {
        "questions": 1,
        "right": int(right),
        "label_no": int(label == "no"),
        "said_no": int(said == "no"),
        "said_no_right": int(said == "no" == label),
        "on_existence": int(on_existence),
    }
    return Score(said or "neither", float(right) if readable(text) else None, counts)


def read_truth(path: Path) -> dict[str, Entry]:
    """Read the annotations by id.

    Raises:
        BadInput: for a malformed entry, an unknown type, or an id that occurs twice.
    """
    found: dict[str, Entry] = {}
    for entry in read_entries(path):
        name, kind = entry.text("id"), entry.text("type")
        if kind not in KINDS:
            raise BadInput(f"{entry.where}: type {kind!r} is not one of AMBER's.")
        if name in found:
            raise BadInput(f"{entry.where}: id {name} occurs twice.")
        found[name] = entry
    return found


def questions(
    asked: Iterable[Entry], truth: Mapping[str, Entry], words: Words | None
) -> list[Sample]:
    """Join queries with annotations; without `words`, descriptions are left out.

    Raises:
        BadInput: for an id that is not annotated or occurs twice.
    """
    found: dict[str, Sample] = {}
    for entry in asked:
        name = entry.text("id")
        if name not in truth:
            raise BadInput(f"{entry.where}: id {name} is not in the annotations.")
        if name in found:
            raise BadInput(f"{entry.where}: id {name} occurs twice.")
        told = truth[name]
        if words is not None or told.text("type") != GENERATIVE:
            found[name] = _sample(entry, told, words)
    return list(found.values())


def _sample(asked: Entry, told: Entry, words: Words | None) -> Sample:
    split, category = KINDS[told.text("type")]
    name, image, query = asked.text("id"), asked.first("image"), asked.first("query") or ""
    if split == GENERATIVE:
        assert words is not None
        annotated = told.fields.get("truth"), told.fields.get("hallu")
        shown = objects(*annotated, words.associates, told.where)
        return Sample(name, split, image, query, shown.truth, detail=Description(shown, words))
    label = told.text("truth")
    if label not in ("yes", "no"):
        raise BadInput(f"{told.where}: truth {label!r} is neither yes nor no.")
    return Sample(name, split, image, query + _ONE_WORD, label, category)


def _share(
    top: NDArray[np.float64],
    bottom: NDArray[np.float64],
    asked: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Divide with AMBER's denominator; NaN if nothing was asked (by default, none in `bottom`)."""
    there = (bottom if asked is None else asked) > 0
    return ratio(top, np.where(there, bottom + _START, 0))


def _rounded(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to a tenth of a percent as Python does, and make it a share again."""
    flat = [round(value * 100, 1) / 100 for value in np.ravel(share).tolist()]
    return np.reshape(np.array(flat), np.shape(share))


def _f1(
    precision: NDArray[np.float64], recall: NDArray[np.float64], added: NDArray[np.float64]
) -> NDArray[np.float64]:
    return 2 * precision * recall / (precision + recall + added)


benchmarks.register("amber")(Amber())
