"""From what a client sent to complete `Request`s: names resolved, limits kept, pictures opened."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from halu.detector import Detector
from halu.errors import BadInput
from halu.examining import prepared
from halu.planning import choose
from halu.service.intake import Intake
from halu.service.options import checks, parameters
from halu.service.refusals import NotFound, placed
from halu.service.schema import (
    MOST_LETTERS,
    Arm,
    ChatMessage,
    ChatRequest,
    CompareRequest,
    Conversation,
    ImagePart,
    ImageUrl,
    TextPart,
)
from halu.service.settings import Settings
from halu.service.shelf import Served
from halu.types import Message, Picture, Request, Sampling, Text, checked

STRATEGY_HEADER = "x-halu-strategy"
"""For apps that can set a header but no field."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be answered: one request for each choice, all about the same conversation."""

    model: Served
    called: str
    requests: tuple[Request, ...]
    images: tuple[Image.Image, ...]
    detectors: tuple[Detector, ...]
    evidence: bool
    places: Mapping[str, str]
    """Where in the body the library's "strategy", "params" and so on stand."""


def named(model: str, served: Mapping[str, Served]) -> tuple[Served, str | None]:
    """`"tiny-llava@vcd"` as the model and the strategy.

    Raises:
        NotFound: no such model here.
        BadInput: an "@" that nothing follows.
    """
    name, at, strategy = model.partition("@") if model not in served else (model, "", "")
    if name not in served:
        raise NotFound(
            f"Model {name[:100]!r} is not served here.",
            hint=f"There is: {', '.join(served)}.",
            param="model",
            code="model_not_found",
        )
    if at and not strategy:
        raise BadInput(f"No strategy follows the '@' of {model[:100]!r}.", param="model")
    return served[name], strategy or None


async def chat(
    asked: ChatRequest,
    header: str | None,
    served: Mapping[str, Served],
    settings: Settings,
    intake: Intake,
) -> Asked:
    """The requests of a chat completion: `n` of them, whose seeds follow one another."""
    model, suffix = named(asked.model, served)
    strategy = _one(asked.halu.strategy, suffix, header)
    if not strategy and any(isinstance(p, ImagePart) for m in asked.messages for p in m.parts):
        strategy = settings.strategy
    arm = Arm(strategy=strategy, params=asked.halu.params)
    n = asked.n or 1
    _most("n", n, settings.max_choices)
    options = (asked.halu.evidence, asked.halu.detectors)
    places = {
        "strategy": _place(asked.halu.strategy, suffix),
        "params": "halu.params",
        "evidence": "halu.evidence",
        **dict.fromkeys(("detector", "detectors"), "halu.detectors"),
    }
    with placed(places):
        return await _asked(asked, model, [arm] * n, options, places, settings, intake)


async def compare(
    asked: CompareRequest, served: Mapping[str, Served], settings: Settings, intake: Intake
) -> Asked:
    """The requests of a comparison: one for each strategy, all with the same seed."""
    model, suffix = named(asked.model, served)
    if suffix:
        raise BadInput("A comparison names its strategies in `strategies`.", param="model")
    _most("strategies", len(asked.strategies), settings.max_choices)
    options = (asked.evidence, asked.detectors)
    places = {
        "strategy": "strategies",
        "params": "strategies",
        "detector": "detectors",
    }
    with placed(places):
        return await _asked(asked, model, asked.strategies, options, places, settings, intake)


async def _asked(
    asked: Conversation,
    model: Served,
    arms: Sequence[Arm],
    options: tuple[bool | str, tuple[str, ...]],
    places: Mapping[str, str],
    settings: Settings,
    intake: Intake,
) -> Asked:
    evidence, detectors = options
    _check_size(asked.messages, settings)
    using = checks(detectors, settings)
    sampling = _sampling(asked, settings)
    report = evidence if isinstance(evidence, str) else "map" if evidence else "none"
    apart = isinstance(asked, ChatRequest)
    plain: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": ""}]}]}
    drafts = []
    for i, arm in enumerate(arms):  # before pictures are opened for it
        with placed({} if apart else _arm_places(i)):
            draft = {
                "strategy": arm.strategy or None,
                "params": parameters(
                    arm, settings.strategy_params, sampled=bool(asked.temperature)
                ),
                "sampling": {**sampling, "seed": (sampling["seed"] + apart * i) % 2**63},
                "evidence": report,
            }
            choose(checked(Request, {**plain, **draft}, "field"))
        drafts.append(draft)
    _check_question(asked.messages)
    images = await intake.open(_addresses(asked.messages))
    messages = conversation(asked.messages, images)
    requests = [
        prepared(
            checked(Request, {"messages": messages, **draft}, "field"),
            using,
            told=settings.tells_evidence,
        )
        for draft in drafts
    ]
    return Asked(
        model, asked.model, tuple(requests), tuple(images), using, report != "none", places
    )


def _addresses(messages: Sequence[ChatMessage]) -> dict[str, ImageUrl]:
    """Pictures by their paths in the body."""
    return {
        f"messages.{i}.content.{j}.image_url": part.image_url
        for i, message in enumerate(messages)
        for j, part in enumerate(message.parts)
        if isinstance(part, ImagePart)
    }


def _place(field: str | None, suffix: str | None) -> str:
    """Where a chat's strategy is named."""
    return "halu.strategy" if field else "model" if suffix else STRATEGY_HEADER


def _arm_places(number: int) -> dict[str, str]:
    return {one: f"strategies.{number}.{one}" for one in ("strategy", "params")}


def conversation(
    messages: Sequence[ChatMessage], images: Sequence[Image.Image]
) -> tuple[Message, ...]:
    """The messages with their pictures, which come in the order of their parts."""
    left = iter(images)
    return tuple(
        Message(
            role="system" if message.role == "developer" else message.role,
            content=tuple(
                Picture(image=next(left)) if isinstance(part, ImagePart) else Text(text=part.text)
                for part in message.parts
            ),
        )
        for message in messages
    )


def _sampling(asked: Conversation, settings: Settings) -> dict[str, Any]:
    name = "max_completion_tokens" if asked.max_completion_tokens else "max_tokens"
    tokens = getattr(asked, name)
    if tokens is not None:
        _most(name, tokens, settings.max_new_tokens)
    drawn = secrets.randbits(53) if asked.temperature else 0
    given = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "repetition_penalty": asked.repetition_penalty,
        "stop": asked.stop or None,
        "seed": drawn if asked.seed is None else asked.seed % 2**63,
        "max_new_tokens": tokens or min(settings.default_tokens, settings.max_new_tokens),
        "logprobs": (asked.top_logprobs or 0) if asked.logprobs else None,
    }
    values = {key: value for key, value in given.items() if value is not None}
    return checked(Sampling, values, "field").model_dump()


def _check_size(messages: Sequence[ChatMessage], settings: Settings) -> None:
    _most("messages", len(messages), settings.max_messages)
    texts = [part.text for m in messages for part in m.parts if isinstance(part, TextPart)]
    if sum(len(text) for text in texts) > settings.max_text:
        raise BadInput(
            f"The messages have more than {settings.max_text:,} characters.", param="messages"
        )
    for i, message in enumerate(messages):
        if not message.parts:
            raise BadInput("A message is empty.", param=f"messages.{i}.content")


def _check_question(messages: Sequence[ChatMessage]) -> None:
    """Something must be asked: in the user's last turn, or of a picture there by what was said
    before.
    """
    last = max((i for i, one in enumerate(messages) if one.role == "user"), default=None)
    if last is None or _says(messages[last]):
        return
    shows = any(isinstance(part, ImagePart) for part in messages[last].parts)
    if not (shows and any(_says(one) for one in messages[:last])):
        raise BadInput("The question is empty.", param=f"messages.{last}.content")


def _says(message: ChatMessage) -> bool:
    return any(isinstance(part, TextPart) and part.text.strip() for part in message.parts)


def _one(field: str | None, suffix: str | None, header: str | None) -> str:
    """The strategy, which may be named in three places; empty: none is.

    Raises:
        BadInput: if two places disagree, or a name is longer than any.
    """
    given = {name for name in (field, suffix, header) if name}
    if any(len(name) > MOST_LETTERS for name in given):
        raise BadInput(
            f"A strategy's name has more than {MOST_LETTERS} letters.", param="halu.strategy"
        )
    if len(given) > 1:
        raise BadInput(
            f"Two strategies are named: {' and '.join(sorted(given))}.", param="halu.strategy"
        )
    return given.pop() if given else ""


def _most(what: str, value: int, most: int) -> None:
    if value > most:
        raise BadInput(f"{what}={value} is too many; at most {most}.", param=what)
