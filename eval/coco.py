"""COCO's annotation files: what is annotated in a picture, and what people wrote about it.

Files are told apart by what they hold, not by their names, which vary. A table that maps image ids
to object names (ground truth made elsewhere) is read too. Cached evaluators of other projects are
pickles and are refused.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from halu.errors import BadInput
from halu.eval.records import read_json

_NUMBER = re.compile(r"(\d+)(?:\.\w+)?")
_KINDS = ("instances", "captions")


@dataclass(frozen=True, slots=True)
class Coco:
    """Annotations by image id: file names, categories, captions; `ready` is finished truth."""

    files: dict[int, str] = field(default_factory=dict)
    categories: dict[int, set[str]] = field(default_factory=dict)
    captions: dict[int, list[str]] = field(default_factory=dict)
    ready: dict[int, set[str]] = field(default_factory=dict)

    def check(self, images: Iterable[int]) -> None:
        """Check that everything is known of these images.

        Raises:
            BadInput: if not. The original takes an unknown image for an empty one, in which every
                object is a hallucination.
        """
        wanted = sorted(set(images))
        whole: dict[str, Collection[int]] = {"truth": self.ready}
        parts: dict[str, Collection[int]] = {
            "instances": self.categories,
            "captions": self.captions,
        }
        for kind, known in (whole if self.ready else parts).items():
            if unknown := [image for image in wanted if image not in known]:
                raise BadInput(
                    f"{len(unknown)} of {len(wanted)} images have no {kind} annotations, such as"
                    f" {unknown[0]}.",
                    hint=f"Give the {kind} file of their part of COCO too (val2014, train2014).",
                    param="--annotations",
                )


def image_id(name: str, where: str) -> int:
    """Read an id out of a number or a file name: "COCO_val2014_000000310196.jpg" is 310196.

    Raises:
        BadInput: if there is none.
    """
    match = _NUMBER.fullmatch(re.split(r"[/_]", name)[-1])
    if match is None:
        raise BadInput(f"{where}: {name!r} is not the id or file name of a COCO image.")
    return int(match[1])


def annotation_files(paths: Iterable[Path]) -> list[Path]:
    """List files as they are, and those of folders (also `annotations` in them) by their names."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            for kind in _KINDS:
                found += [
                    file for sub in ("", "*/") for file in sorted(path.glob(f"{sub}{kind}*.json"))
                ]
        else:
            found.append(path)
    return found


def read_coco(paths: Iterable[Path], only: Collection[int] | None = None) -> Coco:
    """Read annotation files of any kind, of all images or `only` of some.

    Raises:
        BadInput: if a file is not in COCO's layout, or finished truth is mixed with annotations.
    """
    coco = Coco()
    for path in paths:
        with _layout(path) as table:
            if "annotations" not in table:
                for image, names in _ready(table).items():
                    coco.ready.setdefault(image, set()).update(names)
            elif "categories" in table:
                _instances(table, coco, only)
            else:
                _captions(table, coco, only)
    if coco.ready and (coco.categories or coco.captions):
        raise BadInput(
            "Finished truth and COCO annotations cannot be mixed.", param="--annotations"
        )
    return coco


def _instances(table: Mapping[str, Any], coco: Coco, only: Collection[int] | None) -> None:
    """Take every image, also one without annotations: it is empty, not unknown."""
    names = {entry["id"]: str(entry["name"]) for entry in table["categories"]}
    for image in table["images"]:
        number = int(image["id"])
        if only is None or number in only:
            coco.categories.setdefault(number, set())
            coco.files[number] = str(image.get("file_name", number))
    for entry in table["annotations"]:
        number = int(entry["image_id"])
        if only is None or number in only:
            coco.categories.setdefault(number, set()).add(names[entry["category_id"]])


def _captions(table: Mapping[str, Any], coco: Coco, only: Collection[int] | None) -> None:
    for entry in table["annotations"]:
        number = int(entry["image_id"])
        if only is None or number in only:
            coco.captions.setdefault(number, []).append(str(entry["caption"]))


def _ready(table: Mapping[str, Any]) -> dict[int, set[str]]:
    found = {image_id(image, "truth"): set(names) for image, names in table.items()}
    if not all(isinstance(names, list) for names in table.values()):
        raise TypeError("neither annotations nor lists of names")
    return found


@contextmanager
def _layout(path: Path) -> Iterator[Any]:
    """Read a file and report whatever in it is not as COCO has it."""
    table = read_json(path)
    try:
        yield table
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not in COCO's layout: {error!r}.") from error
