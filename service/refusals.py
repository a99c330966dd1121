"""Why a request is not answered, as the statuses and codes of OpenAI's API, and the body that says
so.

Texts are fixed or our own: what another library said about an input stays in this process.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from halu.errors import BadImage, BadInput, HaluError

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}
STOPPED = "The server failed while it answered."


class BadKey(HaluError):
    """No API key, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class WrongHost(HaluError):
    """Called by a name that is not this server's."""

    status = 403
    code = "wrong_host"


class NotFound(HaluError):
    """A route or a model that is not served here."""

    status = 404
    code = "not_found"


class WrongMethod(HaluError):
    """A route that is there, but not for this method."""

    status = 405
    code = "method_not_allowed"


class TooSlow(HaluError):
    """A body that is not there in time."""

    status = 408
    code = "request_timeout"


class TooLarge(HaluError):
    """A body beyond the limit."""

    status = 413
    code = "request_too_large"


class FetchFailed(HaluError):
    """A remote picture that could not be fetched."""

    status = 422
    code = "failed_to_download_image"


class BadAddress(BadImage):
    """A picture's address that policy refuses; the same words for every target."""

    code = "invalid_image_url"


class Waits(HaluError):
    """To be tried again after `seconds`."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message, hint=f"Try again in {max(1, round(seconds))} s.")
        self.seconds = min(max(seconds, 0.001), 100.0)  # clients give up beyond two minutes


class TooFast(Waits):
    """More requests than a key may send."""

    status = 429
    code = "rate_limit_exceeded"


class Busy(Waits):
    """Everything is taken, or the server is about to stop."""

    status = 503
    code = "overloaded"


class Late(HaluError):
    """The deadline has passed."""

    status = 504
    code = "deadline_exceeded"


class Gone(HaluError):
    """The client has left; nobody reads this."""

    status = 499
    code = "client_closed_request"


@contextmanager
def placed(places: Mapping[str, str]) -> Iterator[None]:
    """Has errors name where in the body the mistake is.

    Args:
        places: the path of what the library calls "strategy", "params" and so on.
    """
    try:
        yield
    except HaluError as error:
        first, dot, rest = (error.param or "").partition(".")
        if first in places:
            error.param = f"{places[first]}{dot}{rest}"
        raise


def misfit(wrong: Mapping[str, Any], document: Any, loc: Sequence[str | int]) -> BadInput:
    """What pydantic finds wrong in a document, by its path; what was sent is not repeated.

    Args:
        wrong: its first error.
        document: what was sent.
        loc: where, with the names of the unions' alternatives that were tried, which are left out.
    """
    path, here = [], document
    for number, part in enumerate(loc, 1):
        try:
            here = here[part]
        except (TypeError, LookupError):
            absent = isinstance(here, dict) and wrong["type"] == "missing" and number == len(loc)
            if not absent:
                continue
        path.append(str(part))
    where = ".".join(path) or None
    message = str(wrong["msg"]).removeprefix("Value error, ")
    code = "unknown_field" if wrong["type"] == "extra_forbidden" else None
    return BadInput(f"{where or 'The body'}: {message}.", param=where, code=code)


def body(error: HaluError) -> dict[str, Any]:
    """The error as a JSON document.

    What was raised because of another exception may quote it, so its words are replaced; so are
    those of a server's own failure.
    """
    message = str(error)
    if error.status == 500:
        message = STOPPED
    elif error.__cause__ is not None:
        message = f"The server cannot do this ({type(error).__name__})."
    kind = TYPES.get(error.status, "invalid_request_error")
    code = error.code
    if code is None and kind == "invalid_request_error" and isinstance(error, BadInput):
        code = "invalid_value"
    return {"error": {"message": message, "type": kind, "param": error.param, "code": code}}


def headers(error: HaluError) -> Mapping[str, str]:
    """What tells a client whether and when to try again."""
    found = {}
    if isinstance(error, Waits):
        found["retry-after"] = str(max(1, round(error.seconds)))
        found["retry-after-ms"] = str(round(error.seconds * 1000))
    elif error.status not in (408, 500, 504):
        found["x-should-retry"] = "false"
    if error.status == 401:
        found["www-authenticate"] = "Bearer"
    return found
