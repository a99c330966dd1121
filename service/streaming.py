"""Answers as server-sent events, in the order that OpenAI's clients know.

First a role for each choice, then text as it comes, each choice's reason to end, what detectors
found, usage if asked for, and `[DONE]`. An error after the first byte is an event too.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from halu.errors import HaluError
from halu.service import refusals, reporting
from halu.service.answering import Answering
from halu.service.asking import Asked
from halu.service.replies import Chunk, ChunkChoice, Delta
from halu.types import Answer, Event

BEAT_SECONDS = 10.0
"""Between two comments that keep a silent connection open."""
Check = Callable[[int, Answer], Awaitable[reporting.Findings]]
"""What detectors find in choice `index`; none if none was asked."""
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """A stream that ends its tasks however it ends itself."""

    def __init__(self, answering: Answering, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self.answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the end, or until the client has left."""
        try:
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
        self.common: dict[str, Any] = {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }
        if with_usage:
            self.common["usage"] = None

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
            choice.finish_reason = event.answer.finish_reason
            own = _plain(reporting.report(request, event.answer, None, evidence=False))
        if self.asked.evidence:
            own["tokens"] = [_plain(reporting.seen(token)) for token in event.tokens]
        return self._chunk([choice], **({"halu": {"index": index, **own}} if own else {}))

    def found(self, index: int, findings: reporting.Findings) -> bytes:
        """What detectors found."""
        plain = [_plain(finding) for finding in findings or ()]
        return self._chunk([], halu={"index": index, "findings": plain})

    def usage(self, answers: Sequence[Answer]) -> bytes:
        """Usage, in a chunk without choices."""
        return self._chunk([], usage=reporting.usage(answers))

    def _choice(self, index: int, delta: Delta, logprobs: Any = None) -> ChunkChoice:
        return ChunkChoice(index=index, delta=delta, finish_reason=None, logprobs=logprobs)

    def _chunk(self, choices: list[ChunkChoice], **more: Any) -> bytes:
        chunk = Chunk(**{**self.common, "choices": choices, **more})
        return format_sse_event(data_str=chunk.model_dump_json(exclude_unset=True))


async def stream(
    answering: Answering, asked: Asked, check: Check, *, with_usage: bool
) -> AsyncIterator[bytes]:
    """The events of one reply."""
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
            if event.answer is not None:
                answers[index] = event.answer
            yield chunks.said(index, event)
        if asked.detectors:
            for index in sorted(answers):
                yield chunks.found(index, await check(index, answers[index]))
        if with_usage:
            yield chunks.usage([answers[index] for index in sorted(answers)])
        yield format_sse_event(data_str="[DONE]")
    except HaluError as error:
        yield format_sse_event(data_str=_json(refusals.body(error)))


def _plain(record: BaseModel) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_none=True)


def _json(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document)
