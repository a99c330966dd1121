"""Woodpecker: finish the answer, check what it names against the picture, correct it.

Yin et al., arXiv:2310.16045. The answer is written by plain decoding; every object it names is
checked by detectors; what they say becomes a list of facts ("There is no dog."), and a language
model rewrites the answer by it. corrector="model": the model itself does, with the picture;
"endpoint": a model behind an OpenAI-compatible endpoint, as in the release; "rules": objects that
are not there are taken out of their sentences (halu.claims.editing), which needs no model that
follows instructions, and "Yes" to a question about such an object becomes "No". Nothing is
rewritten where detectors find nothing. Every change is a finding of the answer, with its reason, at
the sentence as it now stands. What a corrector wrote is read again: an object that it goes on
naming is said to be named still, and a reply that drops an object which is there is not taken.
Ours: the detectors (the release has GroundingDINO; objects with finders="open" has it too), "rules"
and "model", the wording. Not reproduced: pronoun resolution, questions about attributes and their
visual answers, counts, boxes in the corrected text (those that a corrector writes are taken out).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from halu.claims import claims
from halu.claims.editing import without
from halu.conversation import instead, question_of
from halu.detector import Asked, Detector, detectors, find, stated
from halu.endpoint import Endpoint
from halu.errors import BadInput, Failed, Unsupported
from halu.search import Choice, Pick, Policies
from halu.strategy import OPERATOR, Context, Paper, Plan, Strategy, StrategyParams, strategies
from halu.types import Finding, Sampling

KEY = "HALU_CORRECTOR_KEY"
WISH = (
    "Somebody was asked: {question}\nThe answer was: {answer}\nThe picture has been examined:\n"
    "{facts}\nWrite the answer again so that it agrees with these facts. Change nothing else, and"
    " write the answer alone."
)
_BOX = re.compile(r"\s*\(?\[(?:\s*[01](?:\.\d+)?\s*,){3}\s*[01](?:\.\d+)?\s*\]\)?")
_YES = re.compile(r"\s*yes\b", re.IGNORECASE)
NO = "No."
GONE, STILL = "was taken out", "is still said"
Name = Annotated[str, Field(max_length=64)]


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

        detectors: Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)] = Field(
            ("objects",), description="Detectors that look at the picture."
        )
        threshold: float = Field(
            0.5, ge=0, le=1, description="Least score of what is corrected; 1: nothing is."
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
        using = [detectors.get(name).configured({"threshold": 0.0}) for name in p.detectors]
        if blind := [one.name for one in using if one.kind != "picture"]:
            raise Unsupported(
                f"Strategy 'woodpecker' checks by the picture; {blind[0]!r} does not.",
                param="params.detectors",
            )
        if other := [one.name for one in using if one.judges != "objects"]:
            raise Unsupported(
                f"Strategy 'woodpecker' corrects objects; {other[0]!r} judges quoted words.",
                param="params.detectors",
            )
        if p.corrector == "endpoint" and not p.url:
            raise BadInput("The corrector 'endpoint' needs a url.", param="params.url")
        if p.threshold == 1:
            return Plan(ctx.main)
        return Plan(ctx.main, search=Finished(Corrector(ctx, p, using), p.corrector == "model"))


@dataclass
class Corrector:
    """Corrects one answer."""

    ctx: Context
    params: Woodpecker.Params
    using: Sequence[Detector]

    def __call__(self, text: str) -> tuple[str, tuple[Finding, ...]]:
        """The corrected text, and every change."""
        request = self.ctx.request
        asked = Asked(request)
        found = find(stated(text), request.images, self.using, asked)
        worst = {
            (one.start, one.stop): one
            for one in sorted(found, key=lambda one: one.score)
            if one.score >= self.params.threshold
        }
        named = _named(text, asked.question)
        wrong = {place: one for place, one in sorted(worst.items()) if place in named}
        if not wrong:
            return text, ()
        if self.params.corrector == "rules":
            return _cut(text, wrong, asked.question)
        absent = {named[place] for place in wrong}
        facts = [f"There is no {name} in the picture." for name in sorted(absent)]
        facts += [f"There is {name}." for name in sorted({*named.values()} - absent)]
        new = self._rewritten(text, facts)
        there = {*_named(new, asked.question).values()}
        if lost := sorted({*named.values()} - absent - there):
            how = f"is still said, since the corrector dropped {lost[0]!r}, which is there"
            return text, tuple(
                _change(one, (one.start, one.stop), text, how) for one in wrong.values()
            )
        return new, tuple(
            _change(one, (0, len(new)), text, STILL if named[place] in there else GONE)
            for place, one in wrong.items()
        )

    def _rewritten(self, text: str, facts: Sequence[str]) -> str:
        """What the corrector writes."""
        p, messages = self.params, self.ctx.request.messages
        values = {"question": question_of(messages), "answer": text, "facts": "\n".join(facts)}
        wish = p.wish
        for key, value in values.items():
            wish = wish.replace(f"{{{key}}}", value)
        if p.corrector == "model":
            branch = self.ctx.branch("corrector", messages=instead(messages, wish), steered=False)
            reply = self.ctx.say(branch, self.ctx.request.sampling.max_new_tokens).text
        else:
            reply = _replied(p, wish, self.ctx.request.sampling.max_new_tokens)
        new = _BOX.sub("", reply).strip()
        if not new:
            raise Failed("The corrector wrote nothing.")
        return new


@dataclass
class Finished:
    """The search: plain decoding, its answer corrected once it is whole."""

    correct: Corrector
    asks: bool
    streams: bool = False
    goes_back: bool = False
    pick: Pick = field(default_factory=Pick)
    findings: tuple[Finding, ...] = ()

    @property
    def most(self) -> int:
        """One hypothesis."""
        return 1

    def start(
        self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]
    ) -> "Finished":
        """A fresh search for one request."""
        return Finished(self.correct, self.asks, pick=Pick().start(sampling, ends, prompt))

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """One token."""
        return self.pick.advance(rows, seen, policies)

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The tokens of the corrected answer."""
        tokens = self.pick.best(live, final=final)
        if tokens is None:
            return None
        ctx = self.correct.ctx
        said = ctx.text(tokens).strip()
        new, self.findings = self.correct(said)
        ended = [token for token in tokens[-1:] if token in self.pick.ends]
        return tokens if new == said else [*spelled(ctx, new), *ended]


def spelled(ctx: Context, text: str) -> list[int]:
    """The text's tokens: what comes into the prompt when the text takes the picture's place."""
    bare, full = (ctx.branch("text", words=words).prompt.ids for words in ("", text))
    count = (len(full) - len(bare)) // len(ctx.main.prompt.layout.images)
    for first in range(len(bare) + 1):
        tokens = full[first : first + count]
        if bare[:first] == full[:first] and ctx.text(tokens).strip() == text:
            return list(tokens)
    raise Failed("The model's tokenizer cannot write the corrected answer.")


def _named(text: str, question: str) -> dict[tuple[int, int], str]:
    """The objects that a text names, by place; "Yes" names those of its question."""
    found = claims(text, question)
    return {(one.start, one.stop): one.subject for one in found if one.kind == "object"}


def _cut(
    text: str, wrong: dict[tuple[int, int], Finding], question: str
) -> tuple[str, tuple[Finding, ...]]:
    """By rules; of a text of which nothing would be left, nothing is taken, but that "Yes" becomes
    "No" if what was asked for is not there.
    """
    if _YES.match(text) and _named("Yes", question):
        affirmed = {*_named("Yes", question).values()}
        said = _named(text, question)
        if affirmed & {said[place] for place in wrong}:
            how = f"is not there, and {text!r} became {NO!r}"
            return NO, tuple(_change(one, (0, len(NO)), text, how) for one in wrong.values())
    edited = without(text, wrong)
    if not edited.text:
        return text, ()
    return edited.text, tuple(
        _change(one, place, text, GONE)
        for one, place in zip(wrong.values(), edited.places, strict=True)
    )


def _change(one: Finding, place: tuple[int, int], text: str, how: str) -> Finding:
    return Finding(
        start=place[0],
        stop=place[1],
        score=one.score,
        reason=f"{text[one.start : one.stop]!r} {how}: {one.reason}",
        detector="woodpecker",
        evidence={**one.evidence, "before": text, "by": one.detector},
    )


def _replied(p: Woodpecker.Params, wish: str, most: int) -> str:
    endpoint = Endpoint(p.url or "", key=KEY, who="corrector")
    reply = endpoint.complete(
        model=p.model,
        messages=[{"role": "user", "content": wish}],
        temperature=0.1,
        max_tokens=most,
    )
    return str(reply.choices[0].message.content or "")
