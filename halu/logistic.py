"""Measurements to a probability: logistic curves that were fitted on the built-in world and ship
with the detectors.

`benchmarks/detectors.py` fits them. A curve belongs to a detector and to what it was fitted for: a
language model for those that read its trace, an image model for those that look at the picture.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from math import exp
from typing import NamedTuple, Protocol

from pydantic import Field, JsonValue

from halu.claims import Claim
from halu.detector import Asked, Images
from halu.types import Answer, Finding, Record

FILE = "calibration.json"


class Measured(NamedTuple):
    """What a detector measured of one claim: numbers that a curve reads, and what to show."""

    claim: Claim
    features: dict[str, float]
    evidence: dict[str, JsonValue]


class Measures(Protocol):
    """A detector whose score is a curve of measurements."""

    def measure(self, answer: Answer, images: Images, asked: Asked) -> list[Measured]:
        """The measurements of each claim that it has an opinion on."""


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
    """Every curve that ships, by detector and what it was fitted for."""
    raw = json.loads(files("halu.detectors").joinpath(FILE).read_text("utf-8"))
    return {
        detector: {name: Curve.model_validate(one) for name, one in own.items()}
        for detector, own in raw.items()
    }


def scored(
    detector: str, wanted: str, found: Iterable[Measured], reason: Callable[[Measured], str]
) -> Iterator[Finding]:
    """Measurements as findings, by the detector's curve for the model that is `wanted`; for want
    of it by the first one fitted, which the reason then says.
    """
    own = curves()[detector]
    fitted = own.get(wanted) or next(iter(own.values()))
    other = f" The score is a guess: it was fitted for {fitted.fitted_for}, not for this model."
    note = other if fitted.fitted_for != wanted else ""
    for one in found:
        yield Finding(
            start=one.claim.start,
            stop=one.claim.stop,
            score=fitted.probability(one.features),
            reason=reason(one) + note,
            detector=detector,
            evidence={**one.evidence, "fitted_for": fitted.fitted_for},
        )
