"""Objects that detectors of objects do not find.

Two detectors that know nothing of each other are asked for every claimed object, as SENTINEL does
(Peng et al., arXiv:2507.12455): if both find it, it is real; if both miss it, hallucinated; else
uncertain. An object that a detector does not know is not missed by it. finders="built-in": the
towers of tiny-llava and tiny-qwen with heads that name patches, boxes around connected patches;
they know the built-in world and no photographs. finders="open": GroundingDINO and OWLv2 at the
thresholds 0.35 and 0.2. A logistic curve makes a probability of the two best scores; it was fitted
for the built-in ones. Ours: the two detectors; SENTINEL's second is a closed-set one.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import log
from typing import Literal, NamedTuple

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from halu.claims import Claim, Vocabulary, claims
from halu.detector import Asked, Detector, DetectorParams, Images, detectors
from halu.grounding import FinderKind, Sighting, open_finder
from halu.grounding.pixels import Pixels
from halu.logistic import Measured, scored
from halu.types import Answer, Finding

FITTED_FOR = {"built-in": "tiny-towers", "open": "open"}
KINDS: dict[str, tuple[FinderKind, FinderKind]] = {
    "built-in": ("tiny-llava", "tiny-qwen"),
    "open": ("grounding-dino", "owlv2"),
}
ACCEPTED = {"tiny-llava": 0.5, "tiny-qwen": 0.5, "grounding-dino": 0.35, "owlv2": 0.2}
"""Least score with which a finder finds something."""
LEAST = 0.02
"""Below, a sighting is not told at all."""


class Found(NamedTuple):
    """What one finder says of one object; `best` none: it does not know the object."""

    kind: str
    best: Sighting | None
    known: bool

    @property
    def accepted(self) -> bool:
        """Whether it finds it."""
        return self.best is not None and self.best.score >= ACCEPTED[self.kind]


@detectors.register("objects")
class Objects(Detector):
    """Whether two object detectors find each claimed object."""

    name = "objects"
    kind = "picture"
    paper = "2507.12455"

    class Params(DetectorParams):
        """Which detectors, and what counts as missed."""

        finders: Literal["built-in", "open"] = Field(
            "built-in", description="The built-in world's, or GroundingDINO and OWLv2."
        )
        dino: str | None = Field(
            None, max_length=4096, description="GroundingDINO's folder or hub id; none: published."
        )
        owl: str | None = Field(
            None, max_length=4096, description="OWLv2's folder or hub id; none: published."
        )
        missed_by: Literal["any", "both", "either"] = Field(
            "any",
            description="Report an object that both miss, or either; any: by its score alone.",
        )
        vocabulary: Vocabulary = Field("coco", description="COCO's objects, or any noun.")

        @field_validator("dino", "owl")
        @classmethod
        def _is_used(cls, weights: str | None, info: ValidationInfo) -> str | None:
            if weights is not None and info.data.get("finders") != "open":
                raise ValueError("is used with finders=open alone")
            return weights

    def judge(self, answer: Answer, images: Images, asked: Asked) -> Iterable[Finding]:
        """A finding for each object."""
        found = self.measure(answer, images, asked)
        wanted = {
            "any": ("real", "uncertain", "hallucinated"),
            "either": ("uncertain", "hallucinated"),
            "both": ("hallucinated",),
        }[self.params.missed_by]
        kept = [one for one in found if one.evidence["verdict"] in wanted]
        model = FITTED_FOR[self.params.finders]
        return scored(self.name, model, kept, _reason)

    def measure(self, answer: Answer, images: Images, asked: Asked) -> list[Measured]:
        """The log-odds of both best scores for every object, of the picture that has more."""
        named = [
            claim
            for claim in claims(answer.text, asked.question, self.params.vocabulary)
            if claim.kind == "object"
        ]
        subjects = tuple(dict.fromkeys(claim.subject for claim in named))
        if not subjects:
            return []
        p = self.params
        weights = (p.dino, p.owl) if p.finders == "open" else (None, None)
        tables = [_table(Pixels(image), subjects, KINDS[p.finders], weights) for image in images]
        found = []
        for claim in named:
            pairs = [table[claim.subject] for table in tables]
            pair = max(pairs, key=lambda two: sum(_score(one) for one in two))
            if any(one.known for one in pair):
                found.append(_measured(claim, pair))
        return found


Pair = tuple[Found, Found]


@lru_cache(maxsize=64)
def _table(
    pixels: Pixels,
    subjects: tuple[str, ...],
    kinds: tuple[FinderKind, FinderKind],
    weights: tuple[str | None, str | None],
) -> dict[str, Pair]:
    """What both finders say of each object."""
    sides = []
    for kind, source in zip(kinds, weights, strict=True):
        seen = open_finder(source, kind).spot(pixels.image, list(subjects), LEAST)
        sides.append([Found(kind, one[0] if one else None, one is not None) for one in seen])
    return {subject: (a, b) for subject, a, b in zip(subjects, *sides, strict=True)}


def _score(one: Found) -> float:
    return one.best.score if one.best else LEAST


def _measured(claim: Claim, pair: Pair) -> Measured:
    scores = [min(max(_score(one), LEAST), 1 - LEAST) for one in pair]
    features = {side: log(s / (1 - s)) for side, s in zip(("one", "other"), scores, strict=True)}
    boxes: dict[str, JsonValue] = {
        one.kind: list(one.best.box) for one in pair if one.best and one.accepted
    }
    shown: dict[str, JsonValue] = {
        "verdict": verdict(pair),
        "scores": {one.kind: round(_score(one), 4) for one in pair if one.known},
        "boxes": boxes,
    }
    return Measured(claim, features, shown)


def verdict(pair: Sequence[Found]) -> str:
    """SENTINEL's: "real" if both find it or do not know it, "hallucinated" if both miss it, else
    "uncertain".
    """
    accepted = [one.accepted or not one.known for one in pair]
    return "real" if all(accepted) else "uncertain" if any(accepted) else "hallucinated"


def _reason(one: Measured) -> str:
    scores = one.evidence["scores"]
    assert isinstance(scores, dict)
    told = " and ".join(f"{kind} with {score}" for kind, score in scores.items())
    said = {"real": "is found", "uncertain": "is not surely found", "hallucinated": "is not found"}
    return f"{one.claim.subject!r} {said[str(one.evidence['verdict'])]}: best by {told}."
