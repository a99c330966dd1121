"""POPE from the official question files and a folder of pictures.

Questions: `coco_pope_random.json` and its siblings (data sets coco, aokvqa, gqa or any other name;
splits random, popular, adversarial), as JSON lines or as one array, in the data folder or up to two
folders below. Pictures: beside them or in the usual places. Nothing is downloaded.
"""

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from PIL import Image

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.benchmark import Sample, benchmarks, chosen
from halu.eval.pope import KINDS, Pope
from halu.eval.records import Entry, read_entries

_FILE = re.compile(rf"(?:([a-z0-9]+)_)?pope_({'|'.join(KINDS)})\.jsonl?", re.IGNORECASE)
_PLACES = ("", "images", "val2014", "{set}", "{set}/images", "images/{set}")
_HINT = "Put question files such as coco_pope_random.json and their pictures there."


class PopeFiles(Pope):
    """The official questions; splits are called "coco/random" and so on."""

    __slots__ = ()

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of every file found, in the order of the files.

        Raises:
            BadInput: for missing files or pictures, or a malformed line.
        """
        folder = files.needed(data, "pope", _HINT)
        questions = _question_files(folder)
        found: list[Sample] = []
        for split in chosen(list(questions), splits):
            found += _questions(questions[split], split, limit)
        _check_pictures(folder, {sample.image for sample in found if sample.image})
        return found

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a picture; its id is the data set and the file name.

        Raises:
            BadImage: if it is truncated or not a picture.
        """
        name = image.partition("/")[2]
        return files.open_picture(files.needed(data, "pope", _HINT), name, _places(image))


def _question_files(folder: Path) -> dict[str, Path]:
    """Map split name to file, data sets in order of name, splits in POPE's order."""
    found: dict[str, Path] = {}
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(folder.glob(f"{pattern}pope_*.json*")):
            if match := _FILE.fullmatch(path.name):
                split = f"{(match[1] or 'pope').lower()}/{match[2].lower()}"
                if split in found:
                    raise BadInput(f"Two files are {split}: {found[split]} and {path}.")
                found[split] = path
    if not found:
        raise BadInput(
            f"No POPE questions in {folder}.",
            hint="Looked for files such as coco_pope_random.json there and two folders below.",
            param="data",
        )
    return dict(
        sorted(
            found.items(), key=lambda it: (it[0].split("/")[0], KINDS.index(it[0].split("/")[1]))
        )
    )


def _questions(path: Path, split: str, limit: int | None) -> list[Sample]:
    """Read a file whole, so that a malformed line is found whatever the limit."""
    samples: dict[str, Sample] = {}
    for entry in read_entries(path):
        sample = _question(entry, split)
        if sample.id in samples:
            raise BadInput(f"{entry.where}: question id {sample.id} occurs twice.")
        samples[sample.id] = sample
    return list(islice(samples.values(), limit))


def _question(entry: Entry, split: str) -> Sample:
    label = entry.text("label").strip().lower()
    if label not in ("yes", "no"):
        raise BadInput(f"{entry.where}: label {label!r} is neither yes nor no.")
    return Sample(
        id=f"{split}/{entry.text('question_id')}",
        split=split,
        image=f"{split.split('/')[0]}/{entry.text('image')}",
        prompt=entry.text("text"),
        label=label,
    )


def _check_pictures(folder: Path, images: set[str]) -> None:
    for name in sorted({image.partition("/")[0] for image in images}):
        own = [image.partition("/")[2] for image in images if image.startswith(f"{name}/")]
        files.check_pictures(folder, own, _places(f"{name}/"))


def _places(image: str) -> list[str]:
    return [place.format(set=image.partition("/")[0]) for place in _PLACES]


benchmarks.register("pope")(
    PopeFiles(
        "pope",
        "Is there a dog in the image? Official files and pictures (POPE, arXiv:2305.10355)",
        builtin=False,
    )
)
