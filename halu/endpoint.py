"""An OpenAI-compatible endpoint: its client, its mistakes in one line, pictures as data URIs.

Models on servers, judges and correctors all talk through this.
"""

import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from halu.errors import BadInput, Failed, HaluError, Unavailable

if TYPE_CHECKING:
    from openai import OpenAI

RETRIES = 5
SECONDS = 600.0
"""For one answer, which on a busy server includes its turn in the queue."""


class Endpoint:
    """Where chat completions come from. Safe to use from several threads.

    Args:
        url: address of the API, with or without the closing `/v1`.
        key: environment variable that holds the key, if the server wants one.
        who: what it is called in messages.
        retries: repeats after a refused, failed or timed-out request, with growing pauses.
        seconds: time for one answer.

    Raises:
        Unavailable: if the package openai is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        who: str = "server",
        retries: int = RETRIES,
        seconds: float = SECONDS,
    ) -> None:
        base = url.rstrip("/")
        self.url = base if base.endswith("/v1") else f"{base}/v1"
        self.key = key
        self.who = who
        self._client = _client(self.url, os.environ.get(key), retries, seconds, who)

    def complete(self, **sent: Any) -> Any:
        """Send a chat completion and return the client's own object.

        Raises:
            Failed: if the endpoint does not answer, is overloaded, or answers something else.
            BadInput: if it refuses the request.
        """
        with self.plain_words():
            found = self._client.chat.completions.create(**sent)
            found.choices[0].message  # noqa: B018  # other servers' JSON has no such thing
            return found

    def stream(self, **sent: Any) -> Iterator[Any]:
        """Send a chat completion and yield the client's chunks; the last has the usage."""
        with self.plain_words():
            yield from self._client.chat.completions.create(
                **sent, stream=True, stream_options={"include_usage": True}
            )

    @contextmanager
    def plain_words(self) -> Iterator[None]:
        """Turn the client's exceptions into ours."""
        from openai import APIConnectionError, APIError, APIStatusError

        try:
            yield
        except APIConnectionError as error:
            raise Failed(f"The {self.who} at {self.url} does not answer: {error}") from error
        except APIStatusError as error:
            raise self._refused(error.status_code, str(error.message)) from error
        except (APIError, AttributeError, IndexError, TypeError, ValueError) as error:
            raise Failed(
                f"The {self.who} at {self.url} answered with something else than a chat completion."
            ) from error

    def _refused(self, status: int, message: str) -> HaluError:
        said = " ".join(message.split())[:200]
        hint = f"Its key is read from {self.key}." if status in (401, 403) else ""
        text = f"The {self.who} at {self.url} refused (status {status}): {said}."
        kind = Failed if status in (401, 403, 408, 429) or status >= 500 else BadInput
        return kind(text, hint=hint)


def data_uri(image: Image.Image) -> str:
    """A picture as a lossless data URI."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _client(url: str, key: str | None, retries: int, seconds: float, who: str) -> "OpenAI":
    try:
        from openai import OpenAI
    except ImportError:
        raise Unavailable.without("eval", f"A {who} needs openai.") from None
    return OpenAI(base_url=url, api_key=key or "none", max_retries=retries, timeout=seconds)
