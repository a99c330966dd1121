"""Benchmarks whose open answers a judge model rates: what they all do alike.

What is asked, what the judge is told and how its reply is read is up to the subclass, which gives
`hint`, what a data folder must hold, and `places`, where in it pictures may be.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from halu.eval import folder as files
from halu.eval.benchmark import Counts, Metric, Sample, Score, chosen, summed
from halu.eval.judge import Judge, no_judge


@dataclass(frozen=True, slots=True)
class Rated(ABC):
    """Questions from a data folder, in one split, each answer rated by the judge."""

    hint: ClassVar[str]
    places: ClassVar[tuple[str, ...]]

    name: str
    about: str
    rules: str
    metrics: tuple[Metric, ...]
    counts: tuple[str, ...]
    splits: tuple[str, ...] = ("test",)
    version: int = 1
    builtin: bool = False
    judged: bool = True
    judge: Judge | None = None
    suffix: str = ""
    max_new_tokens: int = 512

    @abstractmethod
    def questions(self, folder: Path) -> list[Sample]:
        """Read the questions, in the order of their file.

        Raises:
            BadInput: for missing files or a malformed entry.
        """

    @abstractmethod
    def ask(self, judge: Judge, sample: Sample, text: str) -> str:
        """Have the judge rate one answer; returns its reply."""

    @abstractmethod
    def read(self, reply: str) -> Score:
        """Read the judge's reply."""

    @abstractmethod
    def rates(self, counts: Counts) -> dict[str, NDArray[np.float64]]:
        """Compute every metric from added-up counts."""

    def with_judge(self, judge: Judge) -> "Rated":
        """Return the same benchmark, scored by this judge."""
        return replace(self, judge=judge, rules=f"{self.rules}, judge {judge.model}")

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions in the order of the file.

        Raises:
            BadInput: for missing files or pictures, or a malformed entry.
        """
        folder = files.needed(data, self.name, self.hint)
        wanted = chosen(self.splits, splits)
        return files.limited(folder, self.questions(folder), wanted, limit, self.places)

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a picture by the path that its question names."""
        folder = files.needed(data, self.name, self.hint)
        return files.open_picture(folder, image, self.places)

    def score(self, sample: Sample, text: str) -> Score:
        """Have the judge rate one answer.

        Raises:
            BadInput: without a judge.
            Failed: if the judge does not answer.
        """
        if self.judge is None:
            raise no_judge(self.name)
        return self.read(self.ask(self.judge, sample, text))

    def tally(self, counts: Iterable[Mapping[str, int]]) -> list[float]:
        """Add up the answers about one picture, which may have several questions."""
        return summed(self.counts, counts)
