"""Woodpecker: finish the answer, check what it claims against the picture, correct it.

Yin et al., arXiv:2310.16045. The answer is written by plain decoding; every object it names is
checked by detectors, and every number, colour and place by detectors or by asking the model a
question about it ("What color is the car?"); what they say becomes a list of facts, and a language
model rewrites the answer by it. corrector="model": the model itself does, with the picture;
"endpoint": a model behind an OpenAI-compatible endpoint, as in the release; "rules": objects that
are not there are taken out of their sentences and wrong words replaced (halu.correcting), which
needs no model that follows instructions, and "Yes" to a question about such an object becomes "No".
Nothing is rewritten where nothing is doubted. Every change is a finding of the answer, with its
reason, at the words as they now stand.
The built-in finders know drawings and no photographs, for which detectors="objects:finders=open"
asks GroundingDINO, as the release does, and OWLv2. Ours: the choice of detectors, "rules" and
"model", the wording, questions made of claims (the release asks a language model for them and
BLIP-2 for the answers). Not reproduced: pronoun resolution (a pronoun names no object, so that
nothing is asked about it), boxes in the corrected text (those that a corrector writes are taken
out).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from halu.conversation import instead, question_of
from halu.correcting import Corrector
from halu.detector import LOOKS, Lookers, lookers
from halu.endpoint import Endpoint
from halu.errors import BadInput, Unsupported
from halu.finishing import Finished
from halu.strategy import Context, Paper, Plan, Strategy, StrategyParams, strategies
from halu.types import OPERATOR

KEY = "HALU_CORRECTOR_KEY"
WISH = (
    "Somebody was asked: {question}\nThe answer was: {answer}\nThe picture has been examined:\n"
    "{facts}\nWrite the answer again so that it agrees with these facts. Change nothing else, and"
    " write the answer alone."
)
PATIENCE = 20.0
"""Seconds for the endpoint's answer: whoever decodes beside this one waits as well."""
SHORT = 16
"""Tokens of the model's answer about a number, colour or place."""


@strategies.register("woodpecker")
class Woodpecker(Strategy):
    """Correction of a finished answer."""

    name = "woodpecker"
    kind = "control"
    takes_back = True
    paper = Paper(short="Woodpecker", arxiv="2310.16045", venue="SCIS 2024")
    off = {"threshold": 1.0}

    class Params(StrategyParams):
        """Who checks, and who corrects."""

        detectors: Lookers = Field(
            ("objects",),
            description="Detectors that look at the picture.",
            json_schema_extra=LOOKS,
        )
        threshold: float = Field(
            0.5, ge=0, le=1, description="Least score of what is corrected; 1: nothing is."
        )
        attributes: Literal["none", "detectors", "model"] = Field(
            "detectors", description="Who is asked about numbers, colours and places."
        )
        corrector: Literal["rules", "model", "endpoint"] = Field(
            "rules", description="Who writes the corrected answer."
        )
        url: str | None = Field(
            None,
            max_length=2048,
            description="Endpoint: address of its chat completions API.",
            json_schema_extra=OPERATOR,
        )
        model: str = Field(
            "default",
            max_length=256,
            description="Endpoint: the model's name.",
            json_schema_extra=OPERATOR,
        )
        wish: str = Field(
            WISH,
            min_length=1,
            max_length=4000,
            description="How a corrected answer is asked for; {question}, {answer}, {facts}.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, its answer corrected at the end."""
        p = self.params
        using = lookers(p.detectors, self.name)
        if other := [one.name for one in using if one.judges != "objects"]:
            raise Unsupported(
                f"Strategy 'woodpecker' corrects objects; {other[0]!r} judges quoted words.",
                param="params.detectors",
            )
        if p.corrector == "endpoint" and not p.url:
            raise BadInput("The corrector 'endpoint' needs a url.", param="params.url")
        if p.threshold == 1:
            return Plan(ctx.main)
        words = Words(ctx, p)
        correct = Corrector(
            ctx.request,
            using,
            p.threshold,
            p.attributes,
            words.ask,
            None if p.corrector == "rules" else words.rewrite,
        )
        asks = "model" in (p.corrector, p.attributes)
        return Plan(ctx.main, search=Finished(ctx, correct, asks))


@dataclass(frozen=True, slots=True)
class Words:
    """What language models say while an answer is corrected."""

    ctx: Context
    params: Woodpecker.Params

    def ask(self, question: str, most: int = SHORT) -> str:
        """The model's own answer to a question about the pictures."""
        messages = instead(self.ctx.request.messages, question)
        branch = self.ctx.branch("corrector", messages=messages, steered=False)
        return self.ctx.say(branch, most).text

    def rewrite(self, text: str, facts: Sequence[str]) -> str:
        """What the corrector writes."""
        p, request = self.params, self.ctx.request
        asked = question_of(request.messages)
        values = {"question": asked, "answer": text, "facts": "\n".join(facts)}
        wish, most = p.wish, request.sampling.max_new_tokens
        for key, value in values.items():
            wish = wish.replace(f"{{{key}}}", value)
        return self.ask(wish, most) if p.corrector == "model" else _replied(p, wish, most)


def _replied(p: Woodpecker.Params, wish: str, most: int) -> str:
    endpoint = Endpoint(p.url or "", key=KEY, who="corrector", retries=0, seconds=PATIENCE)
    reply = endpoint.complete(
        model=p.model,
        messages=[{"role": "user", "content": wish}],
        temperature=0.1,
        max_tokens=most,
    )
    return str(reply.choices[0].message.content or "")
