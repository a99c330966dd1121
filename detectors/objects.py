"""Objects that detectors of objects do not find, or find in other numbers and places.

Two detectors that know nothing of each other are asked for every claimed object, as SENTINEL does
(Peng et al., arXiv:2507.12455): if both find it, it is real; if both miss it, hallucinated; else
uncertain. An object that a detector does not know is not missed by it. Of an object that at least
one finds, a claimed number is compared with the boxes, and a claimed place ("on the left", "above
the cat") with their centres. finders="built-in": the towers of tiny-llava and tiny-qwen with heads
that name patches, boxes around connected patches; they know the built-in world and no photographs.
finders="open": GroundingDINO and OWLv2 at the thresholds 0.35 and 0.2. A logistic curve for each
kind of claim makes a probability of the two best scores, of the boxes that are too few or too many,
or of how far inside the place the object lies; those that ship were fitted for the built-in
finders. Ours: the two detectors (SENTINEL's second is a closed-set one), numbers and places.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, JsonValue, ValidationInfo, field_validator

from halu.claims import Claim, Vocabulary, claims
from halu.detector import Detector, DetectorContext, DetectorParams, Images, detectors
from halu.grounding import FinderKind, Sighting
from halu.grounding.pixels import Pixels
from halu.grounding.places import margin, named, opposite
from halu.grounding.spotted import spotted
from halu.logistic import Measured, scored
from halu.types import OPERATOR, Answer, Finding

BUILT_IN = "tiny-towers"
PUBLISHED = "published"
KINDS: dict[str, tuple[FinderKind, FinderKind]] = {
    "built-in": ("tiny-llava", "tiny-qwen"),
    "open": ("grounding-dino", "owlv2"),
}
ACCEPTED = {"tiny-llava": 0.5, "tiny-qwen": 0.5, "grounding-dino": 0.35, "owlv2": 0.2}
"""Least score with which a finder finds something."""
LEAST = 0.02
"""Below, a sighting is not told at all."""
DIGITS = 6
"""Longer numbers are not compared with boxes."""


class Found(NamedTuple):
    """What one finder says of one object: sightings, the surest first; none: it is not known."""

    kind: str
    seen: list[Sighting] | None

    @property
    def score(self) -> float:
        """Of the surest sighting."""
        return self.seen[0].score if self.seen else LEAST

    @property
    def accepted(self) -> list[Sighting]:
        """The sightings that count."""
        return [one for one in self.seen or () if one.score >= ACCEPTED[self.kind]]


Pair = tuple[Found, Found]
Table = Mapping[str, Pair]
"""What both finders say of each object in one picture."""


@detectors.register("objects")
class Objects(Detector):
    """Whether two object detectors find each claimed object, as many, and there."""

    name = "objects"
    kind = "picture"
    paper = "2507.12455"

    class Params(DetectorParams):
        """Which detectors, and what counts as missed."""

        finders: Literal["built-in", "open"] = Field(
            "built-in",
            description="The built-in world's, or GroundingDINO and OWLv2.",
            json_schema_extra=OPERATOR,
        )
        dino: str | None = Field(
            None,
            max_length=4096,
            description="GroundingDINO's folder or hub id; none: published.",
            json_schema_extra=OPERATOR,
        )
        owl: str | None = Field(
            None,
            max_length=4096,
            description="OWLv2's folder or hub id; none: published.",
            json_schema_extra=OPERATOR,
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
                raise ValueError("it is used with finders=open alone")
            return weights

    def judge(self, answer: Answer, images: Images, asked: DetectorContext) -> Iterable[Finding]:
        """A finding for each object, number and place."""
        found = self.measure(answer, images, asked)
        wanted = {
            "any": ("real", "uncertain", "hallucinated"),
            "either": ("uncertain", "hallucinated"),
            "both": ("hallucinated",),
        }[self.params.missed_by]
        kept = [one for one in found if one.evidence.get("verdict", wanted[0]) in wanted]
        return scored(self.name, self.rests_on(answer, asked), kept, _reason)

    def rests_on(self, answer: Answer, asked: DetectorContext) -> str:
        """The two finders."""
        p = self.params
        if p.finders == "built-in":
            return BUILT_IN
        pairs = zip(KINDS[p.finders], (p.dino, p.owl), strict=True)
        return " and ".join(f"{kind} {weights or PUBLISHED}" for kind, weights in pairs)

    def measure(self, answer: Answer, images: Images, asked: DetectorContext) -> list[Measured]:
        """Of every object the log-odds of both best scores, in the picture that has more; of a
        number the boxes too few and too many, of a place how far inside it lies, in the picture
        that fits best.
        """
        told = claims(answer.text, asked.question, self.params.vocabulary)
        told = tuple(claim for claim in told if claim.kind in _MEASURES)
        subjects = dict.fromkeys(name for one in told for name in (one.subject, one.other) if name)
        if not subjects:
            return []
        p = self.params
        weights = (p.dino, p.owl) if p.finders == "open" else (None, None)
        tables = [_table(Pixels(image), [*subjects], KINDS[p.finders], weights) for image in images]
        found = (_MEASURES[claim.kind](claim, tables) for claim in told)
        return [one for one in found if one is not None]


def _table(
    pixels: Pixels,
    subjects: Sequence[str],
    kinds: tuple[FinderKind, FinderKind],
    weights: tuple[str | None, str | None],
) -> Table:
    a, b = kinds
    one, other = (
        spotted(pixels, subjects, kind, source, LEAST)
        for kind, source in zip(kinds, weights, strict=True)
    )
    return {name: (Found(a, one[name]), Found(b, other[name])) for name in subjects}


def _object(claim: Claim, tables: Sequence[Table]) -> Measured | None:
    pairs = [table[claim.subject] for table in tables]
    pair = max(pairs, key=lambda two: sum(one.score for one in two))
    if all(one.seen is None for one in pair):
        return None
    scores = [min(max(one.score, LEAST), 1 - LEAST) for one in pair]
    features = {side: log(s / (1 - s)) for side, s in zip(("one", "other"), scores, strict=True)}
    shown: dict[str, JsonValue] = {
        "verdict": verdict(pair),
        "scores": {one.kind: round(one.score, 4) for one in pair if one.seen is not None},
        "boxes": {one.kind: list(one.accepted[0].box) for one in pair if one.accepted},
    }
    return Measured(claim, features, shown)


def _count(claim: Claim, tables: Sequence[Table]) -> Measured | None:
    if len(claim.value) > DIGITS:
        return None
    wanted = int(claim.value)
    pairs = [table[claim.subject] for table in tables]
    numbers = [
        {one.kind: len(one.accepted) for one in pair if one.seen is not None} for pair in pairs
    ]
    known = [one for one in numbers if any(one.values())]
    if not known or not wanted:
        return None
    best = min(known, key=lambda one: sum(abs(number - wanted) for number in one.values()))
    off = np.array([*best.values()]) - wanted
    features = {"fewer": float(-off.clip(max=0).mean()), "more": float(off.clip(min=0).mean())}
    agreed = {*best.values()} if len({*best.values()}) == 1 else set()
    instead = next((str(number) for number in agreed - {wanted}), None)
    return Measured(claim, features, {"counts": {**best}, "instead": instead})


def _position(claim: Claim, tables: Sequence[Table]) -> Measured | None:
    if claim.other and claim.value == "middle":
        return None  # between its parts, or in its midst
    found = [place for table in tables if (place := _places(claim, table))]
    if not found:
        return None
    best = max(found, key=lambda places: float(np.mean([inside for inside, _ in places.values()])))
    inside = float(np.mean([one for one, _ in best.values()]))
    seen = [sighting for _, sighting in best.values()]
    surest = max(seen, key=lambda one: one.score).box
    other = opposite(claim.value) if claim.other else named(surest, claim.value)
    shown: dict[str, JsonValue] = {
        "boxes": {kind: list(one.box) for kind, (_, one) in best.items()},
        "instead": other if inside < 0 and other != claim.value else None,
    }
    return Measured(claim, {"inside": inside}, shown)


def _places(claim: Claim, table: Table) -> dict[str, tuple[float, Sighting]]:
    """How far inside the place each finder's boxes lie, and its surest box, by finder."""
    others = table[claim.other] if claim.other else (None, None)
    found = {}
    for one, other in zip(table[claim.subject], others, strict=True):
        beside = [box.box for box in other.accepted] if other else []
        if one.accepted and (beside or not claim.other):
            boxes = [sighting.box for sighting in one.accepted]
            found[one.kind] = margin(boxes, claim.value, beside), one.accepted[0]
    return found


_MEASURES = {"object": _object, "count": _count, "position": _position}


def verdict(pair: Sequence[Found]) -> str:
    """SENTINEL's: "real" if both find it or do not know it, "hallucinated" if both miss it, else
    "uncertain".
    """
    accepted = [bool(one.accepted) or one.seen is None for one in pair]
    return "real" if all(accepted) else "uncertain" if any(accepted) else "hallucinated"


def _reason(one: Measured) -> str:
    said, shown = one.claim.said, one.evidence
    if one.claim.kind == "count":
        counts = shown["counts"]
        assert isinstance(counts, dict)
        return f"{said!r}: {' and '.join(f'{kind} finds {n}' for kind, n in counts.items())}."
    if one.claim.kind == "position":
        where = f"outside; rather {shown['instead']}" if shown["instead"] else "inside"
        return f"{said!r}: the middle of the box that is found lies {where}."
    scores = shown["scores"]
    assert isinstance(scores, dict)
    told = " and ".join(f"{kind} with {score}" for kind, score in scores.items())
    how = {"real": "is found", "uncertain": "is not surely found", "hallucinated": "is not found"}
    return f"{said!r} {how[str(shown['verdict'])]}: best by {told}."
