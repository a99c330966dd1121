"""A model behind an OpenAI-compatible server, used as if it were here.

Any such server answers plain questions. A strategy is asked for in the field `halu`, which a halu
server understands; whether it really ran is read from the answer, since other servers ignore what
they do not know. Pictures travel as lossless PNG.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halu.endpoint import Endpoint, data_uri
from halu.errors import Unknown, Unsupported
from halu.strategy import strategies
from halu.types import Answer, Event, Finding, Message, Request, Resolved, Text, Usage
from halu.vlm import VLM

KEY = "HALU_API_KEY"
"""Environment variable with the server's key, if it wants one."""

PLAIN: dict[str | None, float] = {None: 0.0, "greedy": 0.0, "sample": 1.0}
"""Temperature of strategies that every server has, where the request names none."""


class Remote(VLM):
    """A model on a server.

    Args:
        name: what the server calls it.
        url: address of its API, with or without the closing `/v1`.

    Raises:
        Unavailable: if the openai package is missing.
    """

    tells_evidence = False

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self.endpoint = Endpoint(url, key=KEY)

    @property
    def name(self) -> str:
        """What the server calls it."""
        return self._name

    def run(self, request: Request) -> Iterator[Event]:
        """Streams one request; tokens are the server's own affair, so events have none."""
        said, reason, usage = "", "stop", None
        told: dict[str, Any] = {}
        for chunk in self.endpoint.stream(**_asked(self.name, request)):
            own = getattr(chunk, "halu", None)
            told |= own if isinstance(own, Mapping) else {}
            usage = chunk.usage or usage
            for choice in chunk.choices[:1]:
                reason = choice.finish_reason or reason
                if choice.delta.content:
                    said += choice.delta.content
                    yield Event(text=choice.delta.content)
        yield Event(text="", answer=self._answer(request, said, reason, usage, told))

    def generate_each(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Answers requests one after another; several threads may do so at once."""
        for number, request in enumerate(requests):
            found = self.endpoint.complete(**_asked(self.name, request))
            choice, told = found.choices[0], getattr(found, "halu", None)
            text = choice.message.content or ""
            yield number, self._answer(request, text, choice.finish_reason, found.usage, told)

    def _answer(
        self, request: Request, text: str, reason: str | None, usage: Any, told: Any
    ) -> Answer:
        halu: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
        with self.endpoint.plain_words():
            findings = tuple(map(Finding.model_validate, halu.get("findings") or ()))
        return Answer(
            text=text,
            tokens=(),
            finish_reason="length" if reason == "length" else "stop",
            usage=_usage(usage, halu),
            strategy=self._strategy(request, halu),
            findings=findings,
        )

    def _strategy(self, request: Request, halu: Mapping[str, Any]) -> Resolved:
        """What ran, which must be what was asked for."""
        asked = _plain(request) or str(request.strategy)
        told = halu.get("strategy")
        if not isinstance(told, Mapping):
            if _plain(request):
                return Resolved(name=asked, params={})
            raise self._ignored(asked, "and told nothing")
        ran = Resolved(name=str(told.get("name")), params=dict(told.get("params") or {}))
        if _parts(ran.name) != _parts(asked):
            raise self._ignored(asked, f"and ran {ran.name!r}")
        return ran

    def _ignored(self, asked: str, told: str) -> Unsupported:
        return Unsupported(
            f"The server at {self.endpoint.url} ignored the strategy {asked!r} {told}.",
            hint="Strategies need a halu server, and a model name without one.",
            param="backend",
        )


def _plain(request: Request) -> str | None:
    """Name plain decoding, if that is what is asked for."""
    if request.strategy not in PLAIN:
        return None
    sampled = request.sampling.temperature or PLAIN[request.strategy]
    return "sample" if sampled else "greedy"


def _parts(name: str) -> set[str]:
    """The parts of a strategy by their own names; what is not known here is left as it is."""
    found = set()
    for part in name.split("+"):
        try:
            found.add(strategies.get(part).name)
        except Unknown:
            found.add(part)
    return found


def _asked(name: str, request: Request) -> dict[str, Any]:
    """The body of a request, as arguments of the client.

    Raises:
        Unsupported: for what is told of single tokens, of which an answer from a server has none.
    """
    if request.evidence != "none":
        raise _tokenless("evidence")
    if request.sampling.logprobs is not None:
        raise _tokenless("logprobs")
    sampling = request.sampling
    extra: dict[str, Any] = {}
    if request.strategy not in PLAIN:
        extra["halu"] = {"strategy": request.strategy, "params": request.params}
    if sampling.top_k:
        extra["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1:
        extra["repetition_penalty"] = sampling.repetition_penalty
    asked = {
        "model": name,
        "messages": [_message(message) for message in request.messages],
        "max_tokens": sampling.max_new_tokens,
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop": list(sampling.stop) or None,
        "extra_body": extra,
    }
    if request.strategy in PLAIN and sampling.temperature is None:
        asked["temperature"] = PLAIN[request.strategy]
    return {key: value for key, value in asked.items() if value is not None}


def _tokenless(param: str) -> Unsupported:
    return Unsupported(
        f"Answers from a server come as text, without tokens that could carry {param}.",
        hint="Load the model in this process, or ask the server over HTTP.",
        param=param,
    )


def _message(message: Message) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": part.text}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": {"url": data_uri(part.image)}}
        for part in message.content
    ]
    only_words = all(part["type"] == "text" for part in parts)
    content = "".join(str(part["text"]) for part in parts) if only_words else parts
    return {"role": message.role, "content": content}


def _usage(usage: Any, halu: Mapping[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens if usage else 0,
        image_tokens=int(halu.get("image_tokens") or 0),
        completion_tokens=usage.completion_tokens if usage else 0,
        forwards=int(halu.get("forwards") or 0),
    )
