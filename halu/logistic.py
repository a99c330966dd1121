"""Measurements to a probability: logistic curves, those that ship with the detectors and those that
a user has fitted.

A curve belongs to a detector and to what it was fitted for: a language model for those that read
its trace, an image model for those that look at the picture. `benchmarks/detectors.py` fits those
that ship, on the built-in world; `halu calibrate` fits others, which then go first.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from math import exp
from pathlib import Path
from re import sub
from typing import NamedTuple

from pydantic import Field, JsonValue, ValidationError

from halu.claims import Claim
from halu.errors import Failed
from halu.folder import folder
from halu.types import Finding, Record

FILE = "calibration.json"


class Measured(NamedTuple):
    """What a detector measured of one claim: numbers that a curve reads, and what to show."""

    claim: Claim
    features: dict[str, float]
    evidence: dict[str, JsonValue]


class Term(Record):
    """A measurement's part: weight (x - mean) / scale."""

    mean: float
    scale: float = Field(gt=0)
    weight: float


class Curve(Record):
    """p = 1 / (1 + exp(-(bias + sum of terms))).

    Attributes:
        fitted_for: what its measurements come from.
        claims: how many claims it was fitted on.
    """

    fitted_for: str
    claims: int
    bias: float
    terms: dict[str, Term]

    def probability(self, features: Mapping[str, float]) -> float:
        """Of a claim with these measurements; others than the curve's are not read."""
        total = self.bias + sum(
            term.weight * (features[name] - term.mean) / term.scale
            for name, term in self.terms.items()
        )
        return 1 / (1 + exp(-max(-50.0, min(50.0, total))))


@lru_cache(maxsize=1)
def curves() -> dict[str, dict[str, Curve]]:
    """Every curve that ships: by detector, where it has several also the kind of claim ("objects
    count"); and by what it was fitted for.
    """
    raw = json.loads(files("halu.detectors").joinpath(FILE).read_text("utf-8"))
    return {
        detector: {name: Curve.model_validate(one) for name, one in own.items()}
        for detector, own in raw.items()
    }


def table(detector: str, kind: str) -> str:
    """The detector's curve for a kind of claim: its own if it has one, else that of objects."""
    return f"{detector} {kind}" if f"{detector} {kind}" in curves() else detector


def called(model: str) -> str:
    """A model's name; of a folder, the whole path."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else model


def place(detector: str, model: str) -> Path:
    """The file of a curve that a user has fitted; `detector` as in `table`."""
    full = f"{detector}-{called(model)}"
    name = sub(r"[^\w.-]+", "-", full)[-80:].strip("-")
    return folder() / f"{name}-{sha256(full.encode()).hexdigest()[:8]}.json"


def chosen(detector: str, kind: str, model: str, measured: Collection[str]) -> Curve:
    """The curve for a model: a user's, else the one that ships, else the first that ships and reads
    nothing but what was measured.

    Raises:
        Failed: if a user's file is damaged.
    """
    name = table(detector, kind)
    file = place(name, model)
    if file.is_file():
        try:
            return Curve.model_validate_json(file.read_text("utf-8"))
        except (OSError, ValidationError) as error:
            raise Failed(f"{file} is damaged.", hint="Delete it, or run halu calibrate.") from error
    own = curves()[name]
    readable = (curve for curve in own.values() if {*curve.terms} <= {*measured})
    return own.get(model) or next(readable)


def scored(
    detector: str, model: str, found: Iterable[Measured], reason: Callable[[Measured], str]
) -> Iterator[Finding]:
    """Measurements as findings, by the detector's curve for the model; for want of it by another,
    which the reason then says.
    """
    known: dict[str, Curve] = {}
    for one in found:
        kind, subject = one.claim.kind, one.claim.subject
        curve = known[kind] = known.get(kind) or chosen(detector, kind, model, one.features)
        other = f" The score is a guess: it was fitted for {curve.fitted_for}, not for this model."
        yield Finding(
            start=one.claim.start,
            stop=one.claim.stop,
            score=curve.probability(one.features),
            reason=reason(one) + (other if curve.fitted_for != called(model) else ""),
            detector=detector,
            evidence={
                **one.evidence,
                "kind": kind,
                "subject": subject,
                "fitted_for": curve.fitted_for,
            },
        )
