"""The bridge between the worker's thread and the event loop: several tasks of one request, heard
together, cancelled together, under one deadline.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from starlette.types import Receive

from halu.errors import HaluError
from halu.service.refusals import Gone, Late
from halu.service.tasks import News, Started, Task
from halu.service.worker import Worker
from halu.types import Answer, Event, Request

T = TypeVar("T")


class Beat:
    """Nothing has happened, and the connection should show that it lives."""


class Answering:
    """The tasks of one request; leaving the context ends what still runs.

    Args:
        worker: runs them.
        requests: one for each choice.
        model: its public name.
        tenant: who asked.
        arrived: when, by the monotonic clock.
        seconds: from then until the deadline.
    """

    def __init__(
        self,
        worker: Worker,
        requests: Sequence[Request],
        model: str,
        tenant: str,
        arrived: float,
        seconds: float,
    ) -> None:
        self._worker = worker
        self._heard: asyncio.Queue[tuple[int, News | Beat]] = asyncio.Queue()
        self._open = len(requests)
        self._loop = asyncio.get_running_loop()
        left = max(0.0, arrived + seconds - time.monotonic())
        late = Late("The answer was not ready in time.")
        self._late = self._loop.call_later(left, self._heard.put_nowait, (0, late))
        self._beating: asyncio.TimerHandle | None = None
        self._tasks = [
            Task(request, model, tenant, partial(self._tell, index), arrived)
            for index, request in enumerate(requests)
        ]

    def _tell(self, index: int, news: News) -> None:
        """Called in the worker's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._heard.put_nowait, (index, news))

    async def __aenter__(self) -> "Answering":
        for task in self._tasks:
            self._worker.submit(task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Ends all tasks within one decoding step."""
        for timer in (self._late, self._beating):
            if timer is not None:
                timer.cancel()
        if self._open:
            self._open = 0
            for task in self._tasks:
                self._worker.cancel(task)

    async def started(self) -> None:
        """Waits until every prompt has been read; what the tasks have said by then is kept.

        Raises:
            HaluError: what the first task that failed says.
        """
        kept: list[tuple[int, News | Beat]] = []
        missing = len(self._tasks)
        while missing:
            index, news = await self._heard.get()
            if isinstance(news, HaluError):
                raise news
            if isinstance(news, Started):
                missing -= 1
            else:
                kept.append((index, news))
        waiting = [self._heard.get_nowait() for _ in range(self._heard.qsize())]
        for item in (*kept, *waiting):
            self._heard.put_nowait(item)

    async def events(self, beat: float | None = None) -> AsyncIterator[tuple[int, Event] | None]:
        """What the choices say, by index, until all have answered; every `beat` seconds none, for a
        sign of life.

        Raises:
            HaluError: what the first task that failed says.
        """
        if beat is not None:
            self._beating = self._loop.call_later(beat, self._beat, beat)
        while self._open:
            index, news = await self._heard.get()
            if isinstance(news, HaluError):
                raise news
            if isinstance(news, Beat):
                yield None
            elif isinstance(news, Event):
                self._open -= news.answer is not None
                yield index, news

    async def answers(self) -> list[Answer]:
        """All answers, in order."""
        found: dict[int, Answer] = {}
        async for heard in self.events():
            if heard is not None and heard[1].answer is not None:
                found[heard[0]] = heard[1].answer
        return [found[index] for index in sorted(found)]

    def _beat(self, seconds: float) -> None:
        if self._open:
            self._heard.put_nowait((0, Beat()))
            self._beating = self._loop.call_later(seconds, self._beat, seconds)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; if the client leaves first, the work is cancelled.

    Raises:
        Gone: the client has left.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone("The client has left.")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
