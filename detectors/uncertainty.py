"""Words of which the model itself was unsure.

Absent objects are named at uncertain and late places of an answer (Zhou et al., LURE,
arXiv:2310.00754). For each claim, from the evidence that decoding has anyway: the largest entropy
and the least log-probability of its tokens, the entropy just before it, how far the strategy's rule
moved its rows (Jensen-Shannon) and the worst rank of its tokens in the model's own rows, and how
far into the answer it stands. A logistic curve makes a probability of it.
"""

from collections.abc import Iterable
from math import exp, log1p

from pydantic import Field

from halu.claims import Vocabulary, claims
from halu.detector import Detector, DetectorContext, DetectorParams, Images, detectors
from halu.errors import Unsupported
from halu.logistic import Measured, scored
from halu.types import Answer, Evidence, Finding, Token


@detectors.register("uncertainty")
class Uncertainty(Detector):
    """How sure the model was of each claim; costs nothing."""

    name = "uncertainty"
    kind = "trace"
    paper = "2310.00754"

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
        """Entropies, probabilities, shifts and ranks of every claim's tokens."""
        found = []
        for claim in claims(answer.text, asked.question, self.params.vocabulary):
            own = answer.tokens_of(claim.start, claim.stop)
            seen = [_evidence(token) for token in own] or [_evidence(None)]
            start = own[0].start
            before = answer.tokens_of(start - 1, start)
            features = {
                "entropy": max(one.entropy for one in seen),
                "logprob": min(token.logprob or 0.0 for token in own),
                "before": max([_evidence(token).entropy for token in before], default=0.0),
                "shift": max(one.shift for one in seen),
                "rank": log1p(max(one.rank for one in seen)),
                "late": claim.start / len(answer.text),
            }
            found.append(Measured(claim, features, {**features}))
        return found


def _reason(one: Measured) -> str:
    p, entropy = exp(one.features["logprob"]), one.features["entropy"]
    return (
        f"The model gave {one.claim.said!r} a probability of {p:.0%} (entropy {entropy:.2f} nats)."
    )


def _evidence(token: Token | None) -> Evidence:
    if token is None or token.evidence is None:
        raise Unsupported(
            "Detector 'uncertainty' reads how sure each token was; this answer does not say it.",
            hint="Name it where a model answers: halu ask -d uncertainty, or detectors in a chat.",
            param="detectors",
        )
    return token.evidence
