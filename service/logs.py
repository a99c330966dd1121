"""Logs: one JSON object a line, with the request's id, without anything that people sent.

Exceptions are logged by type and place, not by message, since messages quote their inputs. Logging
never fails a request: a full disk costs the lines, not the answers.
"""

import json
import logging
import sys
import time
import traceback
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from halu.errors import BadInput

request_id: ContextVar[str] = ContextVar("request_id", default="")

log = logging.getLogger("halu.service")


class JsonLines(logging.Formatter):
    """A record as one JSON object; what is passed as `extra={"told": {...}}` comes along."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        line.update(getattr(record, "told", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = outline(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def outline(error: BaseException) -> dict[str, Any]:
    """An exception's type and where it came from, innermost place last."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"type": type(error).__name__, "places": places}


class Silent(logging.StreamHandler[Any]):
    """A stream that may be full or gone; its troubles are nobody else's."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # its base's name
        """Nothing: there is nowhere left to say it."""


def set_up(level: str, file: Path | None) -> None:
    """Sends the logs of this service, its engine and the web server to a file or to standard error.

    Raises:
        BadInput: if the file cannot be written.
    """
    try:
        # open till the end
        stream = open(file, "a", encoding="utf-8") if file else sys.stderr  # noqa: SIM115
    except OSError as error:
        raise BadInput(
            f"Logs cannot go to {str(file)!r}: {error.strerror}.", param="log_file"
        ) from None
    handler = Silent(stream)
    handler.setFormatter(JsonLines())
    for name in ("halu.service", "halu.vllm", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    logging.getLogger("uvicorn.access").disabled = True  # the doorway says more
