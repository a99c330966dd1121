"""Detectors on finished answers: in a thread, a few at a time, their time and finds counted."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from halu.detector import Detector, DetectorContext, find, in_order, stated
from halu.errors import HaluError
from halu.service.asking import Asked
from halu.service.giving_up import Threads
from halu.service.metrics import Metrics
from halu.service.refusals import Gone, Late
from halu.service.tasks import News, Task
from halu.service.worker import Worker
from halu.types import Answer, Event, Finding, Request, question

THREADS = 2


@dataclass(slots=True)
class Checks:
    """Runs detectors.

    Args:
        metrics: where to count.
    """

    metrics: Metrics
    threads: Threads = field(default_factory=lambda: Threads(THREADS))

    async def answer(
        self, asked: Asked, index: int, answer: Answer, worker: Worker, tenant: str, end: float
    ) -> list[Finding] | None:
        """What the strategy noted in one choice and what the detectors that were asked for find
        there; none where neither did anything.

        Raises:
            HaluError: a detector that cannot work here, or that is not done by `end` (monotonic).
        """
        if not asked.detectors:
            return list(answer.findings) or None
        again = Again(worker, asked.model.name, tenant)
        known = DetectorContext(asked.requests[index], again, asked.model.name)
        try:
            found = await self._run(answer, asked.images, asked.detectors, known, end)
        finally:
            again.close()
        return in_order([*answer.findings, *found])

    async def text(
        self,
        text: str,
        image: Image.Image,
        using: Sequence[Detector],
        end: float,
        asked: str = "",
    ) -> list[Finding]:
        """What detectors find in a text, whoever wrote it, as an answer to what was asked."""
        request = Request(messages=question(asked, image)) if asked else None
        return await self._run(stated(text), [image], using, DetectorContext(request), end)

    async def _run(
        self,
        answer: Answer,
        images: Sequence[Image.Image],
        using: Sequence[Detector],
        known: DetectorContext,
        end: float,
    ) -> list[Finding]:
        work = partial(self._timed, answer, images, using, known)
        try:
            return await self.threads.run(work, end - time.monotonic())
        except TimeoutError:
            raise Late("The detectors were not done in time.") from None

    def _timed(
        self,
        answer: Answer,
        images: Sequence[Image.Image],
        using: Sequence[Detector],
        known: DetectorContext,
        gone: threading.Event,
    ) -> list[Finding]:
        found: list[Finding] = []
        for one in using:
            if gone.is_set():
                break
            with self.metrics.detector.labels(one.name).time():
                own = find(answer, images, (one,), known)
            self.metrics.flagged.labels(one.name).inc(len(own))
            found += own
        return in_order(found)


class Again:
    """Further answers of the same model, for detectors that ask it again. Called in a detector's
    thread; `close`, in any thread, ends what still runs within a step, and what waits for it.

    Args:
        worker: runs the tasks.
        model: its public name.
        tenant: who asked.
    """

    def __init__(self, worker: Worker, model: str, tenant: str) -> None:
        self._worker, self._model, self._tenant = worker, model, tenant
        self._heard: queue.SimpleQueue[tuple[int, News]] = queue.SimpleQueue()
        self._closed = False

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """The answers as they come, with their indices.

        Raises:
            HaluError: what the first task that failed says.
        """
        heard = self._heard = queue.SimpleQueue()
        tasks = [
            Task(one, self._model, self._tenant, partial(_tell, heard, index))
            for index, one in enumerate(requests)
        ]
        try:
            left = len(tasks)
            for task in tasks:
                self._worker.submit(task)
            while left:
                index, news = _gone if self._closed else heard.get()
                if isinstance(news, HaluError):
                    raise news
                if isinstance(news, Event) and news.answer is not None:
                    left -= 1
                    yield index, news.answer
        finally:
            for task in tasks:
                self._worker.cancel(task)

    def close(self) -> None:
        """Nobody waits for the answers any more."""
        self._closed = True
        self._heard.put(_gone)


_gone: tuple[int, News] = (0, Gone("Nobody waits for the detectors any more."))


def _tell(heard: "queue.SimpleQueue[tuple[int, News]]", index: int, news: News) -> None:
    heard.put((index, news))
