"""Sentences labelled by detectors, as SENTINEL does (Peng et al., arXiv:2507.12455).

A sentence is hallucinated if it names something that is not there, clean if it names something and
all of it is there, and uncertain or empty otherwise. Numbers, colours and places play no part.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from halu.claims import ATTRIBUTES, claims
from halu.detector import Detector, DetectorContext, Images, find, stated


class Label(NamedTuple):
    """What a sentence names, and how many of its claims are not there or uncertain."""

    names: frozenset[str]
    hallucinated: int
    uncertain: int

    @property
    def clean(self) -> bool:
        """Whether it names something, and nothing that is not surely there."""
        return bool(self.names) and not self.hallucinated and not self.uncertain

    def rank(self, known: Collection[str]) -> tuple[int, int]:
        """The better, the smaller: clean with a new object, clean, empty, uncertain, hallucinated;
        `known` are the objects named before.
        """
        if self.hallucinated:
            return 4, self.hallucinated
        if self.uncertain:
            return 3, self.uncertain
        return (int(self.names <= set(known)), 0) if self.names else (2, 0)


@dataclass
class Judge:
    """Labels the sentences about some pictures; the same sentence once.

    Attributes:
        using: detectors that tell whatever they measure.
        hallucinated: least score of what is not there.
        uncertain: least score of what is not surely there.
    """

    using: Sequence[Detector]
    images: Images
    asked: DetectorContext
    hallucinated: float
    uncertain: float
    labels: dict[str, Label] = field(default_factory=dict)

    def __call__(self, sentence: str) -> Label:
        """The label of a sentence."""
        if sentence not in self.labels:
            self.labels[sentence] = self._label(sentence)
        return self.labels[sentence]

    def _label(self, sentence: str) -> Label:
        names = {one.subject for one in claims(sentence) if one.kind == "object"}
        worst: dict[tuple[int, int], float] = {}
        for one in find(stated(sentence), self.images, self.using, self.asked):
            if one.evidence.get("kind") in ATTRIBUTES:
                continue
            place = one.start, one.stop
            worst[place] = max(worst.get(place, 0.0), one.score)
        wrong = sum(score >= self.hallucinated for score in worst.values())
        unsure = sum(score >= min(self.uncertain, self.hallucinated) for score in worst.values())
        return Label(frozenset(names), wrong, unsure - wrong)
