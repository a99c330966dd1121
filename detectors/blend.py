"""What several detectors say together, as one probability.

The log-odds of `attention`, `uncertainty`, `clip` and `objects` for each object, weighed by a
logistic curve that was fitted on other pictures than theirs. Of an answer whose tokens are not
known, the two that look at the picture alone. `weights` goes to `clip`, `finders`, `dino` and `owl`
to `objects`.
"""

from collections.abc import Iterable
from math import log
from typing import Any, Literal

from pydantic import Field

from halu.claims import Claim, claims
from halu.detector import Detector, DetectorContext, DetectorParams, Images, detectors
from halu.logistic import Measured, scored
from halu.types import OPERATOR, Answer, Finding

TRACE, PICTURE = ("attention", "uncertainty"), ("clip", "objects")
ALONE = "picture"
"""The curve of those that look at the picture alone."""
BUILT_IN = ["tiny-clip", "tiny-towers"]
"""What looks at the picture if nothing else is named."""
SURE = 1e-4
"""No part is surer than this."""


@detectors.register("blend")
class Blend(Detector):
    """Several detectors as one probability."""

    name = "blend"
    kind = "picture"
    reads_trace = True

    class Params(DetectorParams):
        """What its parts look with; see there."""

        weights: str | None = Field(
            None,
            max_length=4096,
            description="Weights of clip; none: built-in tiny-clip.",
            json_schema_extra=OPERATOR,
        )
        finders: Literal["built-in", "open"] = Field(
            "built-in", description="Finders of objects.", json_schema_extra=OPERATOR
        )
        dino: str | None = Field(
            None, max_length=4096, description="As of objects.", json_schema_extra=OPERATOR
        )
        owl: str | None = Field(
            None, max_length=4096, description="As of objects.", json_schema_extra=OPERATOR
        )

    def __init__(self, params: DetectorParams | None = None) -> None:
        super().__init__(params)
        given = self.params.model_dump()
        own = {"clip": ["weights"], "objects": ["finders", "dino", "owl"]}
        self._parts: dict[str, Any] = {
            name: detectors.get(name).configured(
                {"threshold": 0.0, **{key: given[key] for key in own.get(name, ())}}
            )
            for name in (*TRACE, *PICTURE)
        }

    def judge(self, answer: Answer, images: Images, asked: DetectorContext) -> Iterable[Finding]:
        """A finding for each object that all parts judge."""
        found = self.measure(answer, images, asked)
        return scored(self.name, self.rests_on(answer, asked), found, _reason)

    def rests_on(self, answer: Answer, asked: DetectorContext) -> str:
        """The model that answered, or what looks at the picture alone, if no trace is left; and
        what looks, if that is not built in.
        """
        model = asked.model if _traced(answer) else ALONE
        looking = [str(self._parts[name].rests_on(answer, asked)) for name in PICTURE]
        return model if looking == BUILT_IN else f"{model} with {' and '.join(looking)}"

    def measure(self, answer: Answer, images: Images, asked: DetectorContext) -> list[Measured]:
        """The parts' log-odds for each object."""
        named: dict[tuple[int, int], Claim] = {
            (claim.start, claim.stop): claim
            for claim in claims(answer.text, asked.question)
            if claim.kind == "object"
        }
        if not named:
            return []
        odds: dict[tuple[int, int], dict[str, float]] = {place: {} for place in named}
        parts = (*TRACE, *PICTURE) if _traced(answer) else PICTURE
        for part in parts:
            for one in self._parts[part](answer, images, asked):
                if (one.start, one.stop) in odds and one.evidence["kind"] == "object":
                    p = min(max(one.score, SURE), 1 - SURE)
                    odds[one.start, one.stop][part] = log(p / (1 - p))
        return [
            Measured(named[place], own, {part: round(value, 3) for part, value in own.items()})
            for place, own in odds.items()
            if len(own) == len(parts)
        ]


def _traced(answer: Answer) -> bool:
    """Whether each token says how sure it was and where it looked."""
    return bool(answer.tokens) and all(
        token.evidence is not None and token.evidence.look for token in answer.tokens
    )


def _reason(one: Measured) -> str:
    against = [part for part, odds in one.features.items() if odds > 0]
    told = f"{', '.join(against)} doubt" if against else "no part doubts"
    return f"Of {len(one.features)} detectors together: {told} {one.claim.subject!r}."
