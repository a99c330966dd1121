"""`POST /v1/chat/completions` and `POST /v1/compare`: a conversation in, answers out."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from halu.service import asking, refusals, reporting
from halu.service.answering import Answering, unless_gone
from halu.service.asking import Asked
from halu.service.deployment import Deployment
from halu.service.documented import REFUSALS, STREAMED
from halu.service.replies import Comparison, Completion
from halu.service.schema import ChatRequest, CompareRequest, Conversation
from halu.service.streaming import Check, EventStream, stream
from halu.types import Answer

router = APIRouter(tags=["answers"])


@router.post(
    "/v1/chat/completions",
    response_model=Completion,
    responses={**STREAMED, **REFUSALS},
    response_model_exclude_none=False,
)
async def chat_completions(
    body: ChatRequest, http: Request, x_halu_strategy: Annotated[str | None, Header()] = None
) -> Any:
    """Answers a conversation, as OpenAI's chat completions do.

    A strategy is named by `halu.strategy`, by the model's name (`tiny-llava@vcd`), or by the header
    `x-halu-strategy`. Without one decoding is plain: greedy, or sampled with a temperature.
    """
    site: Deployment = http.app.state.deployment
    asked = await asking.chat(body, x_halu_strategy, site.models, site.settings, site.intake)
    return await answer(site, body, asked, http, reporting.completion)


@router.post("/v1/compare", response_model=Comparison, responses={**STREAMED, **REFUSALS})
async def compare(body: CompareRequest, http: Request) -> Any:
    """Answers a conversation under several strategies at once: a choice for each, in order."""
    site: Deployment = http.app.state.deployment
    asked = await asking.compare(body, site.models, site.settings, site.intake)
    return await answer(site, body, asked, http, reporting.comparison)


async def answer(
    site: Deployment, body: Conversation, asked: Asked, http: Request, reply: Any
) -> Any:
    """Has it answered: the reply, or a stream of its pieces.

    Args:
        site: who answers.
        body: what the client sent.
        asked: the same, checked.
        http: whose connection it is; its state says whose request this is and since when.
        reply: makes the reply of all answers.

    Raises:
        HaluError: if it cannot be answered.
    """
    with refusals.placed(asked.places):
        return await _answer(site, body, asked, http, reply)


async def _answer(
    site: Deployment, body: Conversation, asked: Asked, http: Request, reply: Any
) -> Any:
    state = http.scope["state"]
    end = state["arrived"] + site.settings.deadline_seconds
    _note(state["told"], asked)
    answering = Answering(
        site.worker(asked.model),
        asked.requests,
        asked.model.name,
        state["tenant"],
        state["arrived"],
        site.settings.deadline_seconds,
    )
    check = partial(
        site.checks.answer,
        asked,
        worker=site.worker(asked.model),
        tenant=state["tenant"],
        end=end,
    )
    if body.stream:
        return await _streamed(answering, body, asked, check, http, end)
    answers, findings = await unless_gone(http.receive, _whole(answering, check))
    state["told"]["tokens"] = sum(answer.usage.completion_tokens for answer in answers)
    return reply(asked, answers, findings)


async def _streamed(
    answering: Answering, body: Conversation, asked: Asked, check: Check, http: Request, end: float
) -> Response:
    await answering.__aenter__()
    try:
        await unless_gone(http.receive, answering.started())
    except BaseException:
        answering.cancel()
        raise
    wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
    told = http.scope["state"]["told"]
    events = stream(answering, asked, check, told, with_usage=wanted)
    return EventStream(answering, events, end)


async def _whole(
    answering: Answering, check: Check
) -> tuple[Sequence[Answer], Sequence[reporting.Findings]]:
    async with answering:
        answers = await answering.answers()
    return answers, [await check(index, answer) for index, answer in enumerate(answers)]


def _note(told: dict[str, Any], asked: Asked) -> None:
    """For the log: what was asked for, not what was said or shown."""
    told["model"] = asked.model.name
    told["strategies"] = [request.strategy or "plain" for request in asked.requests]
    told["pixels"] = sum(image.width * image.height for image in asked.images)
