"""POPE's question files: where they are, what a line means, RePOPE's labels, and which generation.

Files of one name are not one data set. The first generation (2023; in OPERA's and LLaVA's
repositories) has 2,910 random COCO questions, 90 negatives short, and asks "Is there an apple in
the imange?"; today's has 3,000 and is spelt right. VCD's copy has today's random and popular files
and misspelt adversarial ones. Ids do not carry over between generations, so a question is also
known by its picture and the object it asks about.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from halu.errors import BadInput
from halu.eval.benchmark import Sample
from halu.eval.pope import KINDS, asked_object
from halu.eval.records import Entry, read_entries

Key = tuple[str, str]
"""File name of the picture, object asked about."""

FIRST_RANDOM = 2910
_VCD_MISSPELT = 57  # one was mended before VCD took its copy
_KINDS = "|".join(KINDS)
_FILE = re.compile(rf"(?:([a-z0-9]+)_)?pope_(?:seem_)?({_KINDS})\.jsonl?(?:\.gz)?", re.IGNORECASE)
_REPOPE = re.compile(rf"(?:([a-z0-9]+)_)?repope_({_KINDS})\.jsonl?(?:\.gz)?", re.IGNORECASE)


def split_of(path: Path) -> str | None:
    """Name the split of a question file after its file name: "coco/random"."""
    return _named(_FILE, path)


def relabelled_split_of(path: Path) -> str | None:
    """Name the split that a RePOPE file labels again."""
    return _named(_REPOPE, path)


def question_files(folder: Path) -> dict[str, Path]:
    """Map split to file, two folders down, data sets in order of name, splits in POPE's order.

    Raises:
        BadInput: if two files are the same split.
    """
    return _found(folder, _FILE)


def relabelled_files(folder: Path) -> dict[str, Path]:
    """Map split to RePOPE's file for it.

    Raises:
        BadInput: if two files are the same split.
    """
    return _found(folder, _REPOPE)


def read_questions(path: Path, split: str) -> list[Sample]:
    """Read a file whole, so that a malformed line is found whatever the limit.

    Raises:
        BadInput: naming the line, if one is malformed, has an odd label or repeats an id.
    """
    samples: dict[str, Sample] = {}
    for entry in read_entries(path):
        sample = _question(entry, split)
        if sample.id in samples:
            raise BadInput(f"{entry.where}: question id {sample.id} occurs twice.")
        samples[sample.id] = sample
    return list(samples.values())


def relabelled(samples: Iterable[Sample], path: Path) -> list[Sample]:
    """Give the samples of a split RePOPE's labels as `detail`; dropped questions get none."""
    labels = {
        (entry.text("image"), asked_object(entry.text("text"))): label_of(entry)
        for entry in read_entries(path)
    }
    return [replace(sample, detail=labels.get(key_of(sample))) for sample in samples]


def label_of(entry: Entry) -> str:
    """Return the label of a line.

    Raises:
        BadInput: if it is neither yes nor no.
    """
    label = entry.text("label").strip().lower()
    if label not in ("yes", "no"):
        raise BadInput(f"{entry.where}: label {label!r} is neither yes nor no.")
    return label


def key_of(sample: Sample) -> Key:
    """Know a question by its picture and object, in any file it stands in."""
    return ((sample.image or "").rpartition("/")[2], sample.category or "")


def generations(questions: Mapping[str, Sequence[Sample]]) -> dict[str, str]:
    """Tell which splits are not today's files, and what they are instead."""
    found = {}
    for split, samples in questions.items():
        misspelt = sum("imange" in sample.prompt for sample in samples)
        if split == "coco/random" and len(samples) == FIRST_RANDOM:
            found[split] = "first generation: 2,910 questions, 90 negatives fewer than today's"
        elif split.endswith("/adversarial") and misspelt == _VCD_MISSPELT:
            found[split] = f"VCD's copy: {misspelt} questions ask for an imange"
        elif misspelt:
            found[split] = f"first generation: {misspelt} questions ask for an imange"
    return found


def _question(entry: Entry, split: str) -> Sample:
    label, text = label_of(entry), entry.text("text")
    return Sample(
        id=f"{split}/{entry.text('question_id')}",
        split=split,
        image=f"{split.split('/')[0]}/{entry.text('image')}",
        prompt=text,
        label=label,
        category=asked_object(text),
    )


def _named(pattern: re.Pattern[str], path: Path) -> str | None:
    match = pattern.fullmatch(path.name)
    return None if match is None else f"{(match[1] or 'pope').lower()}/{match[2].lower()}"


def _found(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for depth in ("*", "*/*", "*/*/*"):
        for path in sorted(folder.glob(f"{depth}pope_*.json*")):
            split = _named(pattern, path)
            if split in found:
                raise BadInput(f"Two files are {split}: {found[split]} and {path}.")
            if split is not None:
                found[split] = path
    return dict(sorted(found.items(), key=lambda it: _order(it[0])))


def _order(split: str) -> tuple[str, int]:
    source, _, kind = split.partition("/")
    return source, KINDS.index(kind)
