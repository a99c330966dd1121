"""The statuses of refusals, for the OpenAPI document."""

from typing import Any

from halu.service.replies import ErrorReply

MEANINGS = {
    400: "The request cannot be answered as it is.",
    401: "A key is needed.",
    403: "Called by another name than the server's.",
    404: "No such model or route.",
    405: "Another method is needed.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    422: "A remote picture could not be fetched.",
    429: "This key sends too many requests.",
    500: "The server failed.",
    501: "Needs something that is not installed here.",
    503: "Busy, or about to stop; Retry-After says when to come again.",
    504: "Not ready by the deadline.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of these statuses."""
    return {status: {"model": ErrorReply, "description": MEANINGS[status]} for status in statuses}


ALWAYS = (401, 403)
REFUSALS = refusals(*MEANINGS)
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream` as server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
