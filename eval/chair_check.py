"""What a CHAIR folder holds: COCO's annotations, word tables, pictures."""

from pathlib import Path

from halu.eval import folder as files
from halu.eval.chair_files import PLACES
from halu.eval.chair_rules import PUBLISHED
from halu.eval.chair_tables import SYNONYMS, TABLES
from halu.eval.coco import annotation_files, read_coco
from halu.eval.data_check import Finding, checks, checksum, published

_COCO = "It is in COCO's annotations_trainval2014.zip."
_PICTURES = "They are pictures of COCO's val2014.zip and train2014.zip."
_HALVES = {40504: "val2014", 82783: "train2014", 123287: "train2014 and val2014"}


@checks.register("chair")
def check(folder: Path) -> list[Finding]:
    """Check annotations, tables and pictures."""
    found = annotation_files([folder])
    told = [
        Finding("missing", f"COCO's {kind}_val2014.json", _COCO)
        for kind in ("instances", "captions")
        if not any(path.name.startswith(kind) for path in found)
    ]
    told += _tables(folder)
    if found:
        coco = read_coco(found)
        both = coco.categories.keys() & coco.captions.keys()
        part = _HALVES.get(len(both), "no known part of COCO")
        told.append(Finding("fine", f"annotations of {len(both)} images: {part}"))
        if odd := len(coco.categories.keys() ^ coco.captions.keys()):
            told.append(Finding("wrong", f"{odd} images have only one kind of annotation", _COCO))
        there = sum(
            files.find_picture(folder, name, PLACES) is not None for name in coco.files.values()
        )
        told.append(
            Finding("fine", f"{there} of {len(coco.files)} annotated pictures")
            if there
            else Finding("missing", "pictures of the annotated images", _PICTURES)
        )
    return told


def _tables(folder: Path) -> list[Finding]:
    places = [path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(depth + SYNONYMS)]
    if not places:
        hint = f"They belong to others; {', '.join(PUBLISHED)} need them."
        return [Finding("missing", f"word tables: {SYNONYMS}, {TABLES[SYNONYMS]}", hint)]
    told = [
        Finding("missing", f"word table {name}: {what}")
        for name, what in TABLES.items()
        if not (places[0] / name).exists()
    ]
    right = checksum(places[0] / SYNONYMS) == published()["chair"][SYNONYMS]
    hint = "Trimmed blanks in it change scores. Take LisaAnne/Hallucination, data/synonyms.txt."
    told.append(
        Finding("fine", f"{SYNONYMS} as published")
        if right
        else Finding("wrong", f"{SYNONYMS} is not as published", hint)
    )
    return told
