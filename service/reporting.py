"""From answers to replies: texts, log-probabilities, usage, and what halu has to tell."""

import hashlib
import platform
import time
import uuid
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

from halu.service.asking import Asked
from halu.service.replies import (
    Choice,
    Comparison,
    Completion,
    HaluReport,
    Logprobs,
    PromptDetails,
    Said,
    SeenToken,
    TokenLogprob,
    TopLogprob,
    UsageReply,
)
from halu.types import Answer, Finding, Request, Token
from halu.weights import fingerprint

Findings = Sequence[Finding] | None
"""What detectors found; none: no detector was asked."""


class Heading:
    """What all parts of one reply share."""

    def __init__(self, asked: Asked) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = asked.called
        names = " ".join(repr((r.strategy, sorted(r.params.items()))) for r in asked.requests)
        mark = hashlib.sha256(names.encode()).hexdigest()[:8]
        weights = _weights(asked.model.source)
        self.system_fingerprint = f"halu-{_version()}-{weights}-{mark}"


@cache
def _version() -> str:
    """Read once: the package's metadata takes a millisecond to read."""
    return version("halu")


@lru_cache(maxsize=64)
def _weights(source: str) -> str:
    return (fingerprint(source) or platform.machine())[:8]


def completion(asked: Asked, answers: Sequence[Answer], findings: Sequence[Findings]) -> Completion:
    """The reply of a chat completion."""
    head = Heading(asked)
    reports = _reports(asked, answers, findings)
    return Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            _choice(index, request, answer, reports[index] if index else None)
            for index, (request, answer) in enumerate(zip(asked.requests, answers, strict=True))
        ],
        usage=usage(answers),
        halu=reports[0],
    )


def comparison(asked: Asked, answers: Sequence[Answer], findings: Sequence[Findings]) -> Comparison:
    """The reply of a comparison."""
    head = Heading(asked)
    reports = _reports(asked, answers, findings)
    return Comparison(
        id=head.id.replace("chatcmpl", "compare"),
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            _choice(index, request, answer, report)
            for index, (request, answer, report) in enumerate(
                zip(asked.requests, answers, reports, strict=True)
            )
        ],
        usage=usage(answers),
    )


def _reports(
    asked: Asked, answers: Sequence[Answer], findings: Sequence[Findings]
) -> list[HaluReport]:
    return [
        report(request, answer, found, evidence=asked.evidence)
        for request, answer, found in zip(asked.requests, answers, findings, strict=True)
    ]


def report(request: Request, answer: Answer, findings: Findings, *, evidence: bool) -> HaluReport:
    """What really ran for one choice, and what was found."""
    return HaluReport(
        strategy=answer.strategy,
        seed=request.sampling.seed,
        forwards=answer.usage.forwards,
        image_tokens=answer.usage.image_tokens,
        findings=None if findings is None else list(findings),
        tokens=[seen(token) for token in answer.tokens] if evidence else None,
    )


def seen(token: Token) -> SeenToken:
    """A token with its evidence."""
    return SeenToken(
        text=token.text,
        start=token.start,
        stop=token.stop,
        logprob=token.logprob,
        evidence=token.evidence,
    )


def usage(answers: Iterable[Answer]) -> UsageReply:
    """Tokens of all answers; their common prompt counts once, as OpenAI counts it."""
    each = [answer.usage for answer in answers]
    prompt = each[0].prompt_tokens
    said = sum(one.completion_tokens for one in each)
    return UsageReply(
        prompt_tokens=prompt,
        completion_tokens=said,
        total_tokens=prompt + said,
        prompt_tokens_details=PromptDetails(cached_tokens=0, image_tokens=each[0].image_tokens),
    )


def logprobs(request: Request, tokens: Iterable[Token]) -> Logprobs | None:
    """Log-probabilities as OpenAI writes them, if they were asked for."""
    if request.sampling.logprobs is None:
        return None
    return Logprobs(
        content=[
            TokenLogprob(
                **_likely(
                    token.text if token.spelling is None else token.spelling,
                    token.logprob if token.logprob is not None else -9999.0,
                ),
                top_logprobs=[
                    TopLogprob(**_likely(other.text, other.logprob)) for other in token.top or ()
                ],
            )
            for token in tokens
        ]
    )


def _likely(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _choice(index: int, request: Request, answer: Answer, own: HaluReport | None) -> Choice:
    return Choice(
        index=index,
        message=Said(content=answer.text),
        finish_reason=answer.finish_reason,
        logprobs=logprobs(request, answer.tokens),
        halu=own,
    )
