"""From what a client sent to complete `Request`s: names resolved, limits kept, pictures opened."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from halu.detector import Detector, chosen
from halu.errors import BadInput
from halu.examining import prepared
from halu.planning import choose
from halu.service.intake import Intake
from halu.service.refusals import NotFound
from halu.service.schema import (
    Arm,
    ChatMessage,
    ChatRequest,
    CompareRequest,
    Conversation,
    ImagePart,
    TextPart,
)
from halu.service.settings import Settings
from halu.service.shelf import Served
from halu.strategy import strategies
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


def named(model: str, served: Mapping[str, Served]) -> tuple[Served, str | None]:
    """`"tiny-llava@vcd"` as the model and the strategy.

    Raises:
        NotFound: no such model here.
    """
    name, _, strategy = model.partition("@") if model not in served else (model, "", "")
    if name not in served:
        raise NotFound(
            f"Model {name[:100]!r} is not served here.",
            hint=f"There is: {', '.join(served)}.",
            param="model",
            code="model_not_found",
        )
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
    arms = [arm] * n
    return await _asked(asked, model, arms, options, settings, intake)


async def compare(
    asked: CompareRequest, served: Mapping[str, Served], settings: Settings, intake: Intake
) -> Asked:
    """The requests of a comparison: one for each strategy, all with the same seed."""
    model, suffix = named(asked.model, served)
    if suffix:
        raise BadInput("A comparison names its strategies in `strategies`.", param="model")
    _most("strategies", len(asked.strategies), settings.max_choices)
    options = (asked.evidence, asked.detectors)
    return await _asked(asked, model, asked.strategies, options, settings, intake)


async def _asked(
    asked: Conversation,
    model: Served,
    arms: Sequence[Arm],
    options: tuple[bool | str, tuple[str, ...]],
    settings: Settings,
    intake: Intake,
) -> Asked:
    evidence, detectors = options
    _check_size(asked.messages, settings)
    _most("detectors", len(detectors), settings.max_detectors)
    using = chosen(detectors)
    sampling = _sampling(asked, settings)
    report = evidence if isinstance(evidence, str) else "map" if evidence else "none"
    apart = isinstance(asked, ChatRequest)
    plain: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": ""}]}]}
    drafts = [
        {
            "strategy": arm.strategy or None,
            "params": parameters(arm, settings.strategy_params, sampled=bool(asked.temperature)),
            "sampling": {**sampling, "seed": (sampling["seed"] + apart * i) % 2**63},
            "evidence": report,
        }
        for i, arm in enumerate(arms)
    ]
    for draft in drafts:  # before pictures are opened for it
        choose(checked(Request, {**plain, **draft}, "field"))
    addresses = [
        part.image_url for m in asked.messages for part in m.parts if isinstance(part, ImagePart)
    ]
    images = await intake.open(addresses)
    messages = conversation(asked.messages, images)
    requests = [
        prepared(
            checked(Request, {"messages": messages, **draft}, "field"),
            using,
            told=settings.tells_evidence,
        )
        for draft in drafts
    ]
    return Asked(model, asked.model, tuple(requests), tuple(images), using, report != "none")


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


def parameters(
    arm: Arm, defaults: Mapping[str, Mapping[str, Any]], *, sampled: bool
) -> dict[str, Any]:
    """What the client says, and under it what the operator has set.

    Raises:
        Unknown: no such strategy.
        BadInput: a parameter that is the operator's alone.
    """
    found = dict(arm.params)
    for part in (arm.strategy or ("sample" if sampled else "greedy")).split("+"):
        strategy = strategies.get(part)
        for key, field in strategy.Params.model_fields.items():
            given = {key, f"{strategy.name}.{key}"} & set(arm.params)
            extra = field.json_schema_extra
            if given and isinstance(extra, dict) and extra.get("operator"):
                raise BadInput(
                    f"Parameter {key!r} of {strategy.name} is set by the operator.",
                    param=f"params.{key}",
                )
            own = defaults.get(strategy.name, {})
            if not given and key in own:
                found[f"{strategy.name}.{key}"] = own[key]
    return found


def _sampling(asked: Conversation, settings: Settings) -> dict[str, Any]:
    tokens = asked.max_completion_tokens or asked.max_tokens
    if tokens is not None:
        _most("max_tokens", tokens, settings.max_new_tokens)
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
    if any(not message.parts for message in messages):
        raise BadInput("A message is empty.", param="messages")


def _one(field: str | None, suffix: str | None, header: str | None) -> str:
    """The strategy, which may be named in three places; empty: none is.

    Raises:
        BadInput: if two places disagree.
    """
    given = {name for name in (field, suffix, header) if name}
    if len(given) > 1:
        raise BadInput(
            f"Two strategies are named: {' and '.join(sorted(given))}.", param="halu.strategy"
        )
    return given.pop() if given else ""


def _most(what: str, value: int, most: int) -> None:
    if value > most:
        raise BadInput(f"{what}={value} is too many; at most {most}.", param=what)
