"""Words during which the model looked away from the picture.

Large models name absent objects when their attention has left the picture for their own words
(Huo et al., arXiv:2408.02032; Jiang et al., arXiv:2411.16724). For each claim, from the evidence
that decoding has anyway: the attention mass on picture, question and answer while its tokens were
chosen (mean of layers and heads), the picture's against the whole answer's mean, how far the look
differs from the answer's mean look, how much of it lies on one patch, and how much on the patches
that the whole answer looks at most (visual sinks). A logistic curve makes a probability of it.
Attention says where the model read from, not why it said something.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue

from halu.claims import Vocabulary, claims
from halu.detector import Detector, DetectorContext, DetectorParams, Images, detectors
from halu.errors import Unsupported
from halu.logistic import Measured, scored
from halu.types import Answer, Evidence, Finding, Token

SINKS = 1 / 16
"""Share of a picture's patches that count as its sinks."""

Look = npt.NDArray[np.float64]


@detectors.register("attention")
class Attention(Detector):
    """Where the model looked while it said each claim; costs nothing."""

    name = "attention"
    kind = "trace"
    paper = "2411.16724"

    class Params(DetectorParams):
        """Which nouns count."""

        vocabulary: Vocabulary = Field("coco", description="COCO's objects, or any noun.")

    def judge(self, answer: Answer, images: Images, asked: DetectorContext) -> Iterable[Finding]:
        """A finding for each claim."""
        found = self.measure(answer, images, asked)
        return scored(self.name, self.rests_on(answer, asked), found, _reason)

    def rests_on(self, answer: Answer, asked: DetectorContext) -> str:
        """The model that answered."""
        return asked.model

    def measure(self, answer: Answer, images: Images, asked: DetectorContext) -> list[Measured]:
        """Masses and looks of every claim's tokens."""
        named = claims(answer.text, asked.question, self.params.vocabulary)
        if not named:
            return []
        seen = {token.start: _evidence(token.evidence) for token in _words(answer)}
        if not seen:
            _evidence(None)
        looks = np.stack([_look(evidence) for evidence in seen.values()])
        shares = looks.mean(0) / max(float(looks.mean(0).sum()), 1e-9)
        sinks = np.argsort(-shares)[: max(1, round(len(shares) * SINKS))]
        usual = float(np.mean([_mass(evidence)["image"] for evidence in seen.values()]))
        found = []
        for claim in named:
            own = [seen[token.start] for token in answer.tokens_of(claim.start, claim.stop)]
            if not own:
                continue
            mass = {key: float(np.mean([_mass(one)[key] for one in own])) for key in _mass(own[0])}
            first = _look(own[0])
            share = first / max(float(first.sum()), 1e-9)
            features = {
                **mass,
                "more": mass["image"] - usual,
                "apart": float(np.abs(first - looks.mean(0)).sum()),
                "peak": float(share.max()),
                "sinks": float(share[sinks].sum()),
            }
            shown: dict[str, JsonValue] = {"masses": {**mass}, "sinks": features["sinks"]}
            found.append(Measured(claim, features, shown))
        return found


def _reason(one: Measured) -> str:
    image, usual = one.features["image"], one.features["image"] - one.features["more"]
    return (
        f"While it said {one.claim.said!r}, {image:.0%} of the model's attention lay on the"
        f" picture; over the whole answer {usual:.0%}."
    )


def _words(answer: Answer) -> list[Token]:
    return [token for token in answer.tokens if token.stop > token.start]


def _evidence(evidence: Evidence | None) -> Evidence:
    if evidence is None or evidence.mass is None or not evidence.look:
        raise Unsupported(
            "Detector 'attention' reads where each token looked; this answer does not say it.",
            hint="Name it where a model answers: halu ask -d attention, or detectors in a chat.",
            param="detectors",
        )
    return evidence


def _mass(evidence: Evidence) -> dict[str, float]:
    assert evidence.mass is not None
    return evidence.mass


def _look(evidence: Evidence) -> Look:
    return np.concatenate([np.asarray(heat.values) for heat in evidence.look or ()])
