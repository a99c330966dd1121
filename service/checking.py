"""Detectors on finished answers: in a thread, a few at a time, their time and finds counted."""

import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread
from PIL import Image

from halu.detector import Asked as Known
from halu.detector import Detector, find, stated
from halu.errors import HaluError
from halu.service.asking import Asked
from halu.service.metrics import Metrics
from halu.service.refusals import Late
from halu.service.tasks import News, Task
from halu.service.worker import Worker
from halu.types import Answer, Event, Finding, Request

THREADS = 2


@dataclass(slots=True)
class Checks:
    """Runs detectors.

    Args:
        metrics: where to count.
    """

    metrics: Metrics
    threads: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(THREADS))

    async def answer(
        self, asked: Asked, index: int, answer: Answer, worker: Worker, tenant: str, end: float
    ) -> list[Finding] | None:
        """What the detectors that were asked for find in one choice; none if none was.

        Raises:
            HaluError: a detector that cannot work here, or that is not done by `end` (monotonic).
        """
        if not asked.detectors:
            return None
        generate = partial(_generated, worker, asked.model.name, tenant)
        known = Known(asked.requests[index], generate, asked.model.name)
        return await self._run(answer, asked.images, asked.detectors, known, end)

    async def text(
        self, text: str, image: Image.Image, using: Sequence[Detector], end: float
    ) -> list[Finding]:
        """What detectors find in a text, whoever wrote it."""
        return await self._run(stated(text), [image], using, Known(), end)

    async def _run(
        self,
        answer: Answer,
        images: Sequence[Image.Image],
        using: Sequence[Detector],
        known: Known,
        end: float,
    ) -> list[Finding]:
        work = partial(self._timed, answer, images, using, known)
        try:
            with anyio.fail_after(max(0.0, end - time.monotonic())):
                return await anyio.to_thread.run_sync(
                    work, limiter=self.threads, abandon_on_cancel=True
                )
        except TimeoutError:
            raise Late("The detectors were not done in time.") from None

    def _timed(
        self,
        answer: Answer,
        images: Sequence[Image.Image],
        using: Sequence[Detector],
        known: Known,
    ) -> list[Finding]:
        found: list[Finding] = []
        for one in using:
            with self.metrics.detector.labels(one.name).time():
                own = find(answer, images, (one,), known)
            self.metrics.flagged.labels(one.name).inc(len(own))
            found += own
        return sorted(found, key=lambda one: (one.start, one.stop, one.detector, -one.score))


def _generated(
    worker: Worker, model: str, tenant: str, requests: list[Request]
) -> Iterator[tuple[int, Answer]]:
    """Answers of the same model, for detectors that ask it again; called in a detector's thread."""
    heard: queue.SimpleQueue[tuple[int, News]] = queue.SimpleQueue()

    def tell(index: int, news: News) -> None:
        heard.put((index, news))

    tasks = [Task(one, model, tenant, partial(tell, i)) for i, one in enumerate(requests)]
    for task in tasks:
        worker.submit(task)
    try:
        left = len(tasks)
        while left:
            index, news = heard.get()
            if isinstance(news, HaluError):
                raise news
            if isinstance(news, Event) and news.answer is not None:
                left -= 1
                yield index, news.answer
    finally:
        for task in tasks:
            worker.cancel(task)
