"""A model behind an OpenAI-compatible server, used as if it were here.

Any such server answers plain questions. A strategy is asked for in the field `halu`, which a halu
server understands; whether it really ran is read from the answer, since other servers ignore what
they do not know. Pictures travel as lossless PNG.
"""

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from halu.errors import BadInput, Failed, HaluError, Unavailable, Unsupported
from halu.types import Answer, Event, Message, Request, Resolved, Text, Usage

if TYPE_CHECKING:
    from openai import OpenAI

KEY = "HALU_API_KEY"
"""Environment variable with the server's key, if it wants one."""

PLAIN = "greedy"
TRIES = 5
SECONDS = 600.0
"""For one answer, which on a busy server includes its turn in the queue."""


class Remote:
    """A model on a server.

    Args:
        name: what the server calls it.
        url: address of its API, with or without the closing `/v1`.

    Raises:
        Unavailable: if the openai package is missing.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.client = _client(url)

    def run(self, request: Request) -> Iterator[Event]:
        """Streams one request; tokens are the server's own affair, so events have none."""
        with _plain_words(self.url):
            chunks = self.client.chat.completions.create(
                **_asked(self.name, request), stream=True, stream_options={"include_usage": True}
            )
            said, reason, usage, told = "", "stop", None, None
            for chunk in chunks:
                told = getattr(chunk, "halu", None) or told
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
            with _plain_words(self.url):
                found = self.client.chat.completions.create(**_asked(self.name, request))
            told = getattr(found, "halu", None)
            choice = found.choices[0]
            text = choice.message.content or ""
            yield number, self._answer(request, text, choice.finish_reason, found.usage, told)

    def _answer(
        self, request: Request, text: str, reason: str | None, usage: Any, told: Any
    ) -> Answer:
        halu: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
        return Answer(
            text=text,
            tokens=(),
            finish_reason="length" if reason == "length" else "stop",
            usage=_usage(usage, halu),
            strategy=self._strategy(request, halu),
        )

    def _strategy(self, request: Request, halu: Mapping[str, Any]) -> Resolved:
        ran = halu.get("strategy")
        if isinstance(ran, Mapping):
            return Resolved(name=str(ran.get("name")), params=dict(ran.get("params") or {}))
        if request.strategy in (None, PLAIN):
            return Resolved(name=PLAIN, params={})
        raise Unsupported(
            f"The server at {self.url} ignored the strategy {request.strategy!r}.",
            hint="Strategies need a halu server.",
            param="backend",
        )


def _client(url: str) -> "OpenAI":
    try:
        from openai import OpenAI
    except ImportError:
        raise Unavailable(
            "A server as backend needs openai.", hint="pip install 'halu[eval]'"
        ) from None
    base = url.rstrip("/")
    return OpenAI(
        base_url=base if base.endswith("/v1") else f"{base}/v1",
        api_key=os.environ.get(KEY, "none"),
        max_retries=TRIES,
        timeout=SECONDS,
    )


def _asked(name: str, request: Request) -> dict[str, Any]:
    """The body of a request, as arguments of the client."""
    sampling = request.sampling
    extra: dict[str, Any] = {}
    if request.strategy not in (None, PLAIN):
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
    if request.strategy in (None, PLAIN):
        asked["temperature"] = sampling.temperature or 0.0
    return {key: value for key, value in asked.items() if value is not None}


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


def data_uri(image: Image.Image) -> str:
    """A picture as a lossless data URI."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _usage(usage: Any, halu: Mapping[str, Any]) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens if usage else 0,
        image_tokens=int(halu.get("image_tokens") or 0),
        completion_tokens=usage.completion_tokens if usage else 0,
        forwards=int(halu.get("forwards") or 0),
    )


@contextmanager
def _plain_words(url: str) -> Iterator[None]:
    """Turns the client's exceptions into ours."""
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        raise _refused(url, error) from None
    except openai.OpenAIError as error:
        raise Failed(f"The server at {url} does not answer: {error}") from None


def _refused(url: str, error: Any) -> HaluError:
    told = error.body.get("message") if isinstance(error.body, dict) else None
    said = f"The server at {url} answered {error.status_code}: {told or error.message}"
    busy = error.status_code == 429 or error.status_code >= 500
    return Failed(said) if busy else BadInput(said, param="backend")
