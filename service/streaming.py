"""Answers as server-sent events, in the order that OpenAI's clients know.

First a role for each choice, then text as it comes, each choice's reason to end, what detectors
found, usage if asked for, and `[DONE]`. An error after the first byte is an event too.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
from fastapi.sse import KEEPALIVE_COMMENT
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from halu.errors import Failed, HaluError
from halu.service import refusals, reporting
from halu.service.answering import Answering
from halu.service.asking import Asked
from halu.service.logs import log
from halu.service.replies import Chunk, ChunkChoice, Delta
from halu.types import Answer, Event, Finding

READING_SECONDS = 10.0
"""For a client to read the last of an answer whose time is up."""
BEAT_SECONDS = 10.0
"""Between two comments that keep a silent connection open."""
Check = Callable[[int, Answer], Awaitable[reporting.Findings]]
"""What is found in choice `index`; none if nobody looked."""
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """A stream that ends its tasks however it ends itself.

    Args:
        answering: the tasks.
        events: what is sent.
        end: when the answer is over at the latest (monotonic).
    """

    def __init__(self, answering: Answering, events: AsyncIterator[bytes], end: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self.answering = answering
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the end, or until the client has left or no longer reads."""
        try:
            with anyio.move_on_after(self.end - time.monotonic() + READING_SECONDS):
                await super().__call__(scope, receive, send)
        finally:
            self.answering.cancel()


class Chunks:
    """Makes the chunks of one stream.

    Args:
        asked: what is answered.
        with_usage: whether the client wants usage.
    """

    def __init__(self, asked: Asked, with_usage: bool) -> None:
        self.asked = asked
        head = reporting.Heading(asked)
        self.head = Chunk(
            id=head.id,
            object="chat.completion.chunk",
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
        )
        if with_usage:
            self.head["usage"] = None

    def opening(self, index: int) -> bytes:
        """The role."""
        return self._chunk([self._choice(index, Delta(role="assistant", content=""))])

    def said(self, index: int, event: Event) -> bytes:
        """New text with its tokens; with the answer also why it ended and what really ran."""
        request = self.asked.requests[index]
        logprobs = reporting.logprobs(request, event.tokens)
        delta = Delta(content=event.text) if event.text or event.tokens else Delta()
        choice = self._choice(index, delta, logprobs=logprobs)
        own: dict[str, Any] = {}
        if event.answer is not None:
            choice["finish_reason"] = event.answer.finish_reason
            own = _plain(reporting.report(request, event.answer, None, evidence=False))
        if self.asked.evidence:
            own["tokens"] = [_plain(reporting.seen(token)) for token in event.tokens]
        return self._chunk([choice], Chunk(halu={"index": index, **own}) if own else None)

    def found(self, index: int, findings: Sequence[Finding]) -> bytes:
        """What detectors, or the strategy itself, found."""
        plain = [_plain(finding) for finding in findings]
        return self._chunk([], Chunk(halu={"index": index, "findings": plain}))

    def usage(self, answers: Sequence[Answer]) -> bytes:
        """Usage, in a chunk without choices."""
        return self._chunk([], Chunk(usage=reporting.usage(answers)))

    def _choice(self, index: int, delta: Delta, logprobs: Any = None) -> ChunkChoice:
        return ChunkChoice(index=index, delta=delta, finish_reason=None, logprobs=logprobs)

    def _chunk(self, choices: list[ChunkChoice], more: Chunk | None = None) -> bytes:
        return _event({**self.head, "choices": choices, **(more or {})})


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(document, inf_nan_mode="null") + b"\n\n"


async def stream(
    answering: Answering, asked: Asked, check: Check, told: dict[str, Any], *, with_usage: bool
) -> AsyncIterator[bytes]:
    """The events of one reply; how many tokens were said is kept in `told`."""
    chunks = Chunks(asked, with_usage)
    answers: dict[int, Answer] = {}
    try:
        for index in range(len(asked.requests)):
            yield chunks.opening(index)
        async for heard in answering.events(BEAT_SECONDS):
            if heard is None:
                yield KEEPALIVE_COMMENT
                continue
            index, event = heard
            told["tokens"] = told.get("tokens", 0) + len(event.tokens)
            if event.answer is not None:
                answers[index] = event.answer
            yield chunks.said(index, event)
        for index in sorted(answers):
            found = await check(index, answers[index])
            if found is not None:
                yield chunks.found(index, found)
        if with_usage:
            yield chunks.usage([answers[index] for index in sorted(answers)])
        yield DONE
    except HaluError as error:
        yield _event(refusals.body(error))
    except Exception as error:
        log.error("failed", exc_info=error)
        yield _event(refusals.body(Failed("")))


def _plain(record: BaseModel) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_none=True)
