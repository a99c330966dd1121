"""Claims that the model does not make again when asked again.

The request is answered several more times by plain sampling, and each claim of the answer is looked
for in the others; the score is the share of them that do not make it (after SelfCheckGPT, Manakul
et al., arXiv:2303.08896, which compares sentences by a language model; here claims are compared).
Works for any model that can be asked again, also one behind a URL.
"""

from collections.abc import Iterable

from pydantic import Field

from halu.claims import Claim, Vocabulary, claims
from halu.detector import Detector, DetectorContext, DetectorParams, Images, detectors
from halu.errors import Unsupported
from halu.types import Answer, Finding


@detectors.register("consistency")
class Consistency(Detector):
    """Whether the model says the same when it is asked again."""

    name = "consistency"
    kind = "model"
    paper = "2303.08896"

    class Params(DetectorParams):
        """How often, and how freely."""

        samples: int = Field(5, ge=1, le=32, description="Further answers.")
        temperature: float = Field(1.0, gt=0, le=5, description="At which they are drawn.")
        vocabulary: Vocabulary = Field("coco", description="COCO's objects, or any noun.")

    @property
    def samples(self) -> int:
        """Each is an answer."""
        found: int = self.params.samples
        return found

    def judge(self, answer: Answer, images: Images, asked: DetectorContext) -> Iterable[Finding]:
        """A finding for each claim."""
        own = claims(answer.text, asked.question, self.params.vocabulary)
        if not own:
            return
        others = self._again(asked)
        for claim in own:
            silent = sum(_key(claim) not in other for other in others)
            share = silent / len(others)
            yield Finding(
                start=claim.start,
                stop=claim.stop,
                score=share,
                reason=f"{silent} of {len(others)} other answers of the same model do not say"
                f" {claim.said!r}.",
                detector=self.name,
                evidence={"silent": silent, "answers": len(others), "kind": claim.kind},
            )

    def _again(self, asked: DetectorContext) -> list[set[tuple[str, ...]]]:
        """What other answers to the same request claim."""
        p, request = self.params, asked.request
        if request is None or asked.generate is None:
            raise Unsupported(
                "Detector 'consistency' asks the model again, and here there is none to ask.",
                hint="Name the detector when asking a model.",
                param="detectors",
            )
        again = [
            request.model_copy(
                update={
                    "strategy": None,
                    "params": {},
                    "evidence": "none",
                    "sampling": request.sampling.model_copy(
                        update={
                            "temperature": p.temperature,
                            "seed": (request.sampling.seed + 1 + number) % 2**63,
                            "logprobs": None,
                        }
                    ),
                }
            )
            for number in range(p.samples)
        ]
        return [
            {_key(claim) for claim in claims(other.text, asked.question, p.vocabulary)}
            for _, other in asked.generate(again)
        ]


def _key(claim: Claim) -> tuple[str, ...]:
    """What two claims must share to say the same."""
    return claim.kind, claim.subject, claim.value.lower(), claim.other
