"""POPE from the official question files and a folder of pictures.

Questions: `coco_pope_random.json` and its siblings (data sets coco, aokvqa, gqa or any other name;
splits random, popular, adversarial), as JSON lines or as one array, in the data folder or up to two
folders below. RePOPE's files (`coco_repope_random.json`, also with `.gz`), where they lie there,
label the same questions a second time, and the metrics `repope_*` are by those labels, over the
questions that RePOPE kept. Pictures: beside the questions or in the usual places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval import yesno
from halu.eval.benchmark import Counts, Metric, Sample, Score, Total, benchmarks, chosen
from halu.eval.pope import KINDS, METRICS, TOTALS, Pope
from halu.eval.pope_questions import (
    generations,
    question_files,
    read_questions,
    relabelled,
    relabelled_files,
)

_PLACES = ("", "images", "val2014", "{set}", "{set}/images", "images/{set}")
_HINT = "Put question files such as coco_pope_random.json and their pictures there."
_AGAIN = tuple(f"re_{name}" for name in yesno.COUNTS)
_REPOPE = (
    Metric("repope_accuracy", "higher", "right by RePOPE's labels", hits=("re_tp", "re_tn")),
    Metric("repope_f1", "higher", "F1 by RePOPE's labels"),
)


@dataclass(frozen=True, slots=True)
class PopeFiles(Pope):
    """The official questions; splits are called "coco/random" and so on."""

    version: int = 2
    metrics: tuple[Metric, ...] = (*METRICS, *_REPOPE)
    counts: tuple[str, ...] = (*yesno.COUNTS, *_AGAIN)
    totals: tuple[Total, ...] = (
        *TOTALS,
        Total("mean_repope_f1", "repope_f1", KINDS, "mean", "mean of the three by RePOPE's labels"),
    )

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of every file found, in the order of the files.

        Raises:
            BadInput: for missing files or pictures, or a malformed line.
        """
        folder = files.needed(data, "pope", _HINT)
        questions, again = _question_files(folder), relabelled_files(folder)
        found: list[Sample] = []
        for split in chosen(list(questions), splits):
            own = read_questions(questions[split], split)
            found += islice(relabelled(own, again[split]) if split in again else own, limit)
        _check_pictures(folder, {sample.image for sample in found if sample.image})
        return found

    def doubts(self, samples: Sequence[Sample]) -> list[str]:
        """Name the splits whose files are of another generation than today's."""
        splits: dict[str, list[Sample]] = {}
        for sample in samples:
            splits.setdefault(sample.split, []).append(sample)
        return [f"{split} is {what}." for split, what in generations(splits).items()]

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a picture; its id is the data set and the file name.

        Raises:
            BadImage: if it is truncated or not a picture.
        """
        name = image.partition("/")[2]
        return files.open_picture(files.needed(data, "pope", _HINT), name, places(image))

    def score(self, sample: Sample, text: str) -> Score:
        """Read the answer under this benchmark's rule, by both labels where there are two."""
        first = Pope.score(self, sample, text)
        if sample.detail not in ("yes", "no"):
            return first
        label: yesno.YesNo = "yes" if sample.detail == "yes" else "no"
        again = yesno.outcome(yesno.RULES[self.rules].read(text, label), label)
        counts = {**first.counts, f"re_{again}": 1}
        return Score(first.parsed, first.value, counts, first.marks)

    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute the five metrics, and two by RePOPE's labels; without any they are undefined."""
        every = np.asarray(counts, np.float64)
        own, again = np.split(every, [len(yesno.COUNTS)], axis=-1)
        rule = yesno.RULES[self.rules]
        second = yesno.rates(again, rule)
        return {
            **yesno.rates(own, rule),
            **{metric.name: second[metric.name.removeprefix("repope_")] for metric in _REPOPE},
        }


def _question_files(folder: Path) -> dict[str, Path]:
    found = question_files(folder)
    if not found:
        raise BadInput(
            f"No POPE questions in {folder}.",
            hint="Looked for files such as coco_pope_random.json there and two folders below.",
            param="data",
        )
    return found


def _check_pictures(folder: Path, images: set[str]) -> None:
    for name in sorted({image.partition("/")[0] for image in images}):
        own = [image.partition("/")[2] for image in images if image.startswith(f"{name}/")]
        files.check_pictures(folder, own, places(f"{name}/"))


def places(image: str) -> list[str]:
    """List where a picture may be, by the data set that its id begins with."""
    return [place.format(set=image.partition("/")[0]) for place in _PLACES]


benchmarks.register("pope")(
    PopeFiles(
        "pope",
        "Is there a dog in the image? Official files and pictures (POPE, arXiv:2305.10355)",
        builtin=False,
    )
)
