"""Answers kept between runs, so that a question asked before costs nothing.

One SQLite file that several processes may use. The key covers everything that can change an answer:
model, weights, device and number type, every word, every pixel, strategy and parameters, sampling
and seed, and the versions of what computes it. An answer is stored as JSON and checked when read.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from halu.errors import BadInput
from halu.eval.plan import Source, versions
from halu.types import Answer, Picture, Request

_WAIT = 30.0
"""Seconds to wait for another process that is writing."""


class Cache:
    """An open file of answers; made if it is not there.

    Raises:
        BadInput: if the file is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found = 0
        self._lock = threading.Lock()
        self._versions = versions()
        with self._named():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer)")

    def get(self, source: Source, request: Request) -> Answer | None:
        """Look an answer up."""
        with self._lock, self._named():
            row = self._file.execute(
                "SELECT answer FROM answers WHERE key = ?", (self.key(source, request),)
            ).fetchone()
        if row is None:
            return None
        try:
            answer = Answer.model_validate_json(row[0])
        except (ValidationError, TypeError):
            return None  # written by another version: answered anew, and replaced
        self.found += 1
        return answer

    def keep(self, source: Source, answers: Sequence[tuple[Request, Answer]]) -> None:
        """Store answers."""
        rows = [
            (self.key(source, request), answer.model_dump_json()) for request, answer in answers
        ]
        with self._lock, self._named(), self._file:
            self._file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise BadInput(
                f"{self.path} cannot be used as a cache of answers: {error}.", param="cache"
            ) from None

    def key(self, source: Source, request: Request) -> str:
        """Name a request to a model by its content."""
        told = {
            "source": source.model_dump(mode="json"),
            "versions": self._versions,
            "request": request.model_dump(mode="json", exclude={"messages"}),
            "messages": [
                [message.role, *(_part(part) for part in message.content)]
                for message in request.messages
            ],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def __enter__(self) -> "Cache":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()


def _part(part: object) -> str:
    if isinstance(part, Picture):
        image = part.image
        pixels = hashlib.sha256(image.tobytes()).hexdigest()
        return f"picture {image.mode} {image.size} {pixels}"
    return f"text {getattr(part, 'text', '')}"
