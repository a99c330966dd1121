"""Work in threads that a request may give up, with no more of it at a time than allowed.

A thread cannot be ended. What was given up before its turn never starts; what runs keeps its place
to its end, so that requests that come and go cannot pile work up.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

Made = TypeVar("Made")
TURN = 0.1
"""Seconds after which who waits for a turn asks whether anybody still wants it."""


class GivenUp(Exception):
    """Nobody waits for this any more."""


class NoTurn(TimeoutError):
    """The work had no turn in time."""


class Threads:
    """A few threads.

    Args:
        most: how many work at a time.
    """

    def __init__(self, most: int) -> None:
        self._limiter = anyio.CapacityLimiter(most)
        self._busy = threading.BoundedSemaphore(most)
        self._working: set[int] = set()

    @property
    def working(self) -> int:
        """How many work now, given up or not."""
        return len(self._working)

    async def run(self, work: Callable[[threading.Event], Made], seconds: float) -> Made:
        """Does some work, which is told by an event when it has been given up.

        Raises:
            TimeoutError: if it is not done in time; `NoTurn` if it did not even begin.
        """
        gone, begun = threading.Event(), threading.Event()

        def in_turn() -> Made:
            while not self._busy.acquire(timeout=TURN):
                if gone.is_set():
                    raise GivenUp
            try:
                if gone.is_set():
                    raise GivenUp
                begun.set()
                self._working.add(threading.get_ident())
                return work(gone)
            finally:
                self._working.discard(threading.get_ident())
                self._busy.release()

        try:
            with anyio.fail_after(max(0.0, seconds)):
                return await anyio.to_thread.run_sync(
                    in_turn, limiter=self._limiter, abandon_on_cancel=True
                )
        except TimeoutError:
            if begun.is_set():
                raise
            raise NoTurn from None
        finally:
            gone.set()
