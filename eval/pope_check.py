"""What a POPE folder holds: which generation of the question files, RePOPE's labels, pictures."""

from collections.abc import Sequence
from pathlib import Path

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.benchmark import Sample
from halu.eval.data_check import Finding, checks, checksum, digest, pictures, published
from halu.eval.pope import KINDS
from halu.eval.pope_files import places
from halu.eval.pope_questions import (
    generations,
    key_of,
    question_files,
    read_questions,
    relabelled_files,
)

TODAY = "today's"
_GET = "The questions are in AoiDragon/POPE, output/."
_AGAIN = "RePOPE's labels are in YanNeu/RePOPE, annotations/."
_PICTURES = {
    "coco": "They are pictures of COCO's val2014.zip.",
    "aokvqa": "They are pictures of COCO's val2014.zip.",
    "gqa": "They are pictures of GQA's images.zip.",
}


@checks.register("pope")
def check(folder: Path) -> list[Finding]:
    """Check question files, labels and pictures of every data set that is there."""
    found = question_files(folder)
    if not found:
        return [Finding("missing", "POPE's question files, such as coco_pope_random.json", _GET)]
    told: list[Finding] = []
    read: dict[str, list[Sample]] = {}
    for split, path in found.items():
        try:
            read[split] = read_questions(path, split)
        except BadInput as error:
            told.append(Finding("wrong", error.message, _GET))
    told += [_file(split, found[split], read) for split in read]
    told += _kinds(set(found))
    told += _labels(folder, read)
    for source in dict.fromkeys(split.partition("/")[0] for split in read):
        told += _pictures(folder, source, read)
    return told


def content(samples: Sequence[Sample]) -> str:
    """Compute a digest of the questions that does not depend on spelling or layout."""
    return digest((*key_of(sample), str(sample.label)) for sample in samples)


def _file(split: str, path: Path, read: dict[str, list[Sample]]) -> Finding:
    facts = published()["pope"].get(split)
    what = f"{split}: {path.name}, {len(read[split])} questions"
    if facts is None:
        return Finding("note", f"{what}; no published file of this name is known")
    known = {own: name for name, own in facts["files"].items()}
    name = known.get(checksum(path)) or generations(read).get(split)
    if name == TODAY:
        return Finding("fine", f"{what}, as published today")
    if name is None and content(read[split]) == facts["content"]:
        return Finding("fine", f"{what}, the items published today in another layout")
    if name is None:
        hint = f"The checksum differs from every published one. {_GET}"
        return Finding("wrong", f"{what}, not as published", hint)
    return Finding("note", f"{what}: {name}", "Compare only with scores on the same file.")


def _kinds(splits: set[str]) -> list[Finding]:
    return [
        Finding("missing", f"{source}/{kind}", _GET)
        for source in sorted({split.partition("/")[0] for split in splits})
        for kind in KINDS
        if f"{source}/{kind}" not in splits
    ]


def _labels(folder: Path, read: dict[str, list[Sample]]) -> list[Finding]:
    found = relabelled_files(folder)
    told = []
    for split, path in found.items():
        right = published()["repope"].get(split) == checksum(path)
        told.append(
            Finding("fine", f"RePOPE {split}, as published")
            if right
            else Finding("wrong", f"RePOPE {split}, not as published", _AGAIN)
        )
    if not found and any(split.startswith("coco/") for split in read):
        told.append(Finding("note", "no RePOPE labels, so no second column", _AGAIN))
    return told


def _pictures(folder: Path, source: str, read: dict[str, list[Sample]]) -> list[Finding]:
    names = {
        (sample.image or "").partition("/")[2]: None
        for split, samples in read.items()
        if split.startswith(f"{source}/")
        for sample in samples
    }
    found = [files.find_picture(folder, name, places(f"{source}/")) for name in names]
    return pictures(found, source, _PICTURES.get(source, ""))
