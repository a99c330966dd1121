"""CHAIR on COCO: captions of pictures in a folder, truth from COCO's annotations.

The data folder holds the pictures, `instances_*.json` and `captions_*.json` (val2014, train2014 or
both), and the word tables of `chair_tables`; up to two folders below. `image_ids.txt`, one id or
file name a line, fixes the pictures. Without it a seeded sample of 500 is drawn, in order of the
ids, from the annotated pictures that are there: lists drawn from a directory listing depend on the
file system, which is why published ones cannot be had again.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.benchmark import Sample, Score, benchmarks, chosen
from halu.eval.chair import Chair, score_caption
from halu.eval.chair_rules import NAMES, WHOLE, rule_set
from halu.eval.chair_tables import SYNONYMS, TABLES
from halu.eval.chair_truth import truth
from halu.eval.coco import Coco, annotation_files, image_id, read_coco
from halu.eval.records import read_text

IMAGES = 500
LIST = "image_ids.txt"
PLACES = ("", "images", "val2014", "train2014", "images/val2014", "images/train2014")
_HINT = "Put COCO's pictures, instances_*.json, captions_*.json and CHAIR's word tables there."


@dataclass(frozen=True, slots=True)
class ChairFiles(Chair):
    """COCO captions under one of the published rule sets, whose name is `rules`."""

    name: str = "chair"
    about: str = "Captions of COCO pictures: which objects are made up (CHAIR, arXiv:1809.02156)"
    splits: tuple[str, ...] = ("captions",)
    rules: str = "chair-nltk"
    builtin: bool = False
    max_new_tokens: int = 512
    known_rules: tuple[str, ...] = (*NAMES, *(f"{name}:{WHOLE}" for name in NAMES))

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the pictures, at most `limit` or 500.

        Raises:
            BadInput: if annotations, tables or pictures are missing.
        """
        chosen(self.splits, splits)
        folder = files.needed(data, self.name, _HINT)
        tables, coco = tables_of(folder), _coco(folder)
        images = _listed(folder, coco) or _drawn(folder, coco, seed)
        images = images[: IMAGES if limit is None and not (folder / LIST).exists() else limit]
        coco.check(images)
        files.check_pictures(folder, [coco.files[image] for image in images], PLACES)
        return self.asked(coco, images, tables)

    def asked(self, coco: Coco, images: Sequence[int], tables: Path | None) -> list[Sample]:
        """Ask for a caption of each image; the truth is that of this benchmark's rules."""
        names = truth(coco, images, rule_set(self.rules, tables).truth)
        return [
            Sample(
                id=str(image),
                split="captions",
                image=coco.files.get(image, str(image)),
                prompt=self.prompt,
                label=tuple(sorted(names[image])),
                detail=tables,
            )
            for image in images
        ]

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a picture by its file name.

        Raises:
            BadImage: if it is missing, truncated or not a picture.
        """
        return files.open_picture(files.needed(data, self.name, _HINT), image, PLACES)

    def score(self, sample: Sample, text: str) -> Score:
        """Score a caption by this benchmark's rules."""
        tables = sample.detail if isinstance(sample.detail, Path) else None
        rules = rule_set(self.rules, tables)
        return score_caption(rules.trimmed(text), sample.label, rules.words)


def tables_of(folder: Path) -> Path:
    """Find the word tables in a data folder or up to two folders below.

    Raises:
        BadInput: naming the file that is looked for.
    """
    for depth in ("", "*/", "*/*/"):
        for path in sorted(folder.glob(depth + SYNONYMS)):
            return path.parent
    raise BadInput(
        f"There is no {SYNONYMS} in {folder}: {TABLES[SYNONYMS]}.",
        hint="CHAIR's word tables belong to others and are not shipped.",
        param="data",
    )


@lru_cache(maxsize=2)
def _coco(folder: Path) -> Coco:
    found = annotation_files([folder])
    for kind in ("instances", "captions"):
        if not any(path.name.startswith(kind) for path in found):
            raise BadInput(f"There is no {kind}_*.json of COCO in {folder}.", param="data")
    return read_coco(found)


def _listed(folder: Path, coco: Coco) -> list[int]:
    path = folder / LIST
    if not path.exists():
        return []
    lines = enumerate(read_text(path).splitlines(), 1)
    found = [image_id(line.strip(), f"{path}:{number}") for number, line in lines if line.strip()]
    coco.check(found)
    return found


def _drawn(folder: Path, coco: Coco, seed: int) -> list[int]:
    there = [
        image
        for image in sorted(coco.files)
        if image in coco.captions and files.find_picture(folder, coco.files[image], PLACES)
    ]
    if not there:
        raise BadInput(
            f"None of the {len(coco.files)} annotated pictures is in {folder}.",
            hint=f"Looked in {', '.join(str(folder / place) for place in PLACES)}.",
            param="data",
        )
    random.Random(f"chair {seed}").shuffle(there)
    return there


benchmarks.register("chair")(ChairFiles())
