"""The label files named beside POPE answers: POPE's own labels and RePOPE's, told apart by name.

Whatever is named has to be of use: a file that labels no question that was answered is refused, for
else its figures would be missing without a word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from halu.errors import BadInput
from halu.eval.benchmark import Sample
from halu.eval.pope import KINDS
from halu.eval.pope_questions import (
    question_files,
    read_questions,
    relabelled,
    relabelled_files,
    relabelled_split_of,
    split_of,
)

_PARAM = "--annotations"
_HINT = "RePOPE's files are named such as coco_repope_random.json, POPE's coco_pope_random.json."


@dataclass(frozen=True, slots=True)
class Annotations:
    """Label files: as the user named them, POPE's (`first`), and RePOPE's by split (`again`)."""

    named: tuple[Path, ...]
    first: tuple[Path, ...]
    again: Mapping[str, Path]

    def beside(self, folder: Path) -> "Annotations":
        """Take RePOPE's files in a folder of questions too."""
        return replace(self, again={**relabelled_files(folder), **self.again})

    def add(self, samples: list[Sample], split: str) -> list[Sample]:
        """Add RePOPE's labels to the questions of a split."""
        file = self._again_of(split)
        return samples if file is None else relabelled(samples, file)

    def refuse_unused(self, samples: Sequence[Sample]) -> None:
        """Raise BadInput if something named labels none of these questions, nor asks them."""
        used = {self._again_of(sample.split) for sample in samples if sample.detail is not None}
        splits = {sample.split for sample in samples}
        used |= {file for file in self.first if (split_of(file) or file.stem) in splits}
        for path in self.named:
            if not used.intersection(_files(path)):
                answered = ", ".join(dict.fromkeys(sample.split for sample in samples))
                raise BadInput(
                    f"{path} labels no question that was answered ({answered}).",
                    hint=_HINT,
                    param=_PARAM,
                )

    def _again_of(self, split: str) -> Path | None:
        """A split of unknown name takes the only file given."""
        if split in self.again or split.rpartition("/")[2] in KINDS:
            return self.again.get(split)
        return next(iter(self.again.values())) if len(self.again) == 1 else None


def sorted_out(paths: Sequence[Path]) -> Annotations:
    """Sort label files and folders of them by what they hold, and read POPE's to check them.

    Raises:
        BadInput: for what is missing, is not a file of labels, or a folder without one.
    """
    files = [file for path in paths for file in _files(path)]
    again = {split: file for file in files if (split := relabelled_split_of(file))}
    first = tuple(file for file in files if relabelled_split_of(file) is None)
    for file in first:
        _check(file)
    return Annotations(tuple(paths), first, again)


def _check(file: Path) -> None:
    if not read_questions(file, split_of(file) or file.stem):
        raise BadInput(f"{file} holds no labels.", hint=_HINT, param=_PARAM)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [*question_files(path).values(), *relabelled_files(path).values()]
    if not found:
        raise BadInput(f"No label files of POPE in {path}.", hint=_HINT, param=_PARAM)
    return found
