"""One thread for each device: requests join and leave a running batch between two steps.

It knows requests, models and steps; nothing of HTTP. Whoever hands in a task hears of it through
`tell`, called in this thread, and may cancel it at any time: its branches end before the next step.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from halu.batch import Batched, Work
from halu.errors import BadInput, Failed, HaluError
from halu.service.context import check_prompt, check_words
from halu.service.logs import log, outline
from halu.service.metrics import Metrics
from halu.service.shelf import Shelf
from halu.service.tasks import Lane, Started, Task
from halu.types import Event

MOST_FAILURES = 3
"""So many shared forwards that fail one after another, and the device is given up."""


class Worker(threading.Thread):
    """Runs tasks on the models of one device.

    Args:
        shelf: makes the models' shelf; it is given what to call when a load has ended.
        metrics: where to count.
        max_rows: no task starts while so many rows are taken.
        max_rows_per_request: a task that may take more is refused.
    """

    def __init__(
        self,
        shelf: Callable[[Callable[[], None]], Shelf],
        metrics: Metrics,
        *,
        max_rows: int,
        max_rows_per_request: int,
    ) -> None:
        super().__init__(name="halu-worker", daemon=True)
        self.shelf = shelf(self.wake)
        self.metrics = metrics
        self.max_rows = max_rows
        self.max_rows_per_request = max_rows_per_request
        self.waiting: deque[Task] = deque()
        self.lanes: dict[str, Lane] = {}
        self.dead = False
        self._ending = False
        self._failures = 0
        self._news = threading.Condition()
        self._nudged = False

    def submit(self, task: Task) -> None:
        """Hands in a task."""
        if self.dead:
            raise Failed("The engine is down.")
        with self._news:
            self.waiting.append(task)
        self.wake()

    def cancel(self, task: Task) -> None:
        """Nobody wants the task any more; it hears nothing further."""
        task.cancelled = True
        self.wake()

    def wake(self) -> None:
        """Has the thread look around."""
        with self._news:
            self._nudged = True
            self._news.notify()

    def stop(self) -> None:
        """Ends the thread after the current step."""
        self._ending = True
        self.wake()

    @property
    def rows(self) -> int:
        """Rows that the running tasks may come to have."""
        return sum(lane.batch.width for lane in self.lanes.values())

    def run(self) -> None:
        """The thread."""
        try:
            while not self._ending and not self.dead:
                self._sleep_if_idle()
                self._leave()
                self._join()
                for name in list(self.lanes):
                    self._step(name)
                self._count()
        except BaseException as error:  # must not die silently: clients would wait for ever
            log.error("worker died", extra={"told": {"why": outline(error)}})
            raise
        finally:
            self._give_up()

    def _sleep_if_idle(self) -> None:
        with self._news:
            if not any(lane.tasks for lane in self.lanes.values()):
                self._news.wait_for(lambda: self._nudged)
            self._nudged = False

    def _leave(self) -> None:
        """Tasks that were cancelled; all branches of them end."""
        with self._news:
            self.waiting = deque(task for task in self.waiting if not task.cancelled)
        for lane in self.lanes.values():
            for job in list(lane.batch.jobs):
                if lane.task(job).cancelled:
                    lane.batch.drop(job)
                    del lane.tasks[id(job)]
                    self.metrics.failure.labels("cancelled").inc()

    def _join(self) -> None:
        """Starts one waiting task at most, so that those that run wait for one prompt."""
        for task in list(self.waiting):
            if self.rows >= self.max_rows:
                return
            busy = [name for name, lane in self.lanes.items() if lane.tasks]
            try:
                vlm = self.shelf.take(task.model, busy)
            except HaluError as error:
                self._end_waiting(task, error)
                continue
            if vlm is not None:
                self._start(task, vlm)
                return

    def _start(self, task: Task, vlm: Batched) -> None:
        self._unqueue(task)
        lane = self.lanes.get(task.model)
        if lane is None or lane.vlm is not vlm:
            lane = self.lanes[task.model] = Lane(vlm, vlm.batch())
        begun = time.monotonic()
        lane.batch.salt = task.tenant
        try:
            check_words(vlm, task.request)
            (job,) = lane.batch.add([task.request])
        except Exception as error:
            self._fail(task, told(error))
            return
        lane.tasks[id(job)] = task
        task.begun = begun
        self._begin(lane, job)

    def _begin(self, lane: Lane, job: Work) -> None:
        """A job's plan may need some steps; once it is made, its rows are known."""
        task = lane.task(job)
        if task.started or not job.planned:
            return
        try:
            check_prompt(lane.vlm, job)
            _check_width(job.width, self.max_rows_per_request)
        except HaluError as error:
            lane.batch.drop(job)
            del lane.tasks[id(job)]
            self._fail(task, error)
            return
        task.started = task.last = time.monotonic()
        labels = self.metrics.labels(task.model, job.chosen.resolved.name)
        self.metrics.queue.labels(**labels).observe(task.begun - task.arrived)
        self.metrics.prefill.labels(**labels).observe(task.started - task.begun)
        task.tell(Started())

    def _step(self, name: str) -> None:
        lane = self.lanes[name]
        if not lane.batch.jobs:
            if name not in self.shelf.loaded:
                del self.lanes[name]  # put away; the last reference to its weights goes
            return
        lane.batch.salt = _salt(lane)
        try:
            outcome = lane.batch.step()
        except Exception as error:
            self._all_failed(lane, error)
            return
        self._failures = 0
        now = time.monotonic()
        for job, event in outcome:
            if id(job) not in lane.tasks:
                continue  # refused a moment ago
            task = lane.task(job)
            if not isinstance(event, Event):
                self._fail(task, told(event))
                del lane.tasks[id(job)]
                continue
            self._begin(lane, job)
            if id(job) not in lane.tasks:
                continue
            self._observe(task, job, event, now)
            task.tell(event)
            if event.answer is not None:
                del lane.tasks[id(job)]
        for job in list(lane.batch.jobs):
            self._begin(lane, job)

    def _observe(self, task: Task, job: Work, event: Event, now: float) -> None:
        if task.last != task.started and task.each is not None:
            task.each.observe((now - task.last) / max(1, len(event.tokens)))
        else:
            labels = self.metrics.labels(task.model, job.chosen.resolved.name)
            self.metrics.first_token.labels(**labels).observe(now - task.arrived)
            task.each = self.metrics.each_token.labels(**labels)
        task.last = now
        if event.answer is not None:
            labels = self.metrics.labels(task.model, job.chosen.resolved.name)
            self.metrics.whole.labels(**labels).observe(now - task.arrived)
            self.metrics.decode.labels(**labels).observe(now - task.started)
            self.metrics.answered(task.model, event.answer)

    def _all_failed(self, lane: Lane, error: Exception) -> None:
        """A shared forward failed: its tasks end, and after a few in a row so does the worker."""
        log.error("step failed", extra={"told": {"why": outline(error)}})
        for task in lane.tasks.values():
            self._fail(task, told(error))
        lane.tasks.clear()
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self.dead = True

    def _end_waiting(self, task: Task, error: HaluError) -> None:
        self._unqueue(task)
        self._fail(task, error)

    def _fail(self, task: Task, error: HaluError) -> None:
        self.metrics.failure.labels(error.code or type(error).__name__.lower()).inc()
        task.tell(error)

    def _unqueue(self, task: Task) -> None:
        with self._news:
            self.waiting.remove(task)
            self._nudged = True  # the next one may have its turn, whether this one starts or not

    def _count(self) -> None:
        self.metrics.running.set(sum(len(lane.tasks) for lane in self.lanes.values()))
        self.metrics.waiting.set(len(self.waiting))
        self.metrics.rows.set(self.rows)

    def _give_up(self) -> None:
        """Tells everybody that nothing more will come."""
        self.dead = True
        with self._news:
            left = [
                *self.waiting,
                *(t for lane in self.lanes.values() for t in lane.tasks.values()),
            ]
            self.waiting.clear()
        self.lanes.clear()
        for task in left:
            self._fail(task, Failed("The engine is down."))


def told(error: Exception) -> HaluError:
    """What a client hears of an exception: ours as it is, any other as a failure and logged."""
    if isinstance(error, HaluError):
        return error
    log.error("request failed", extra={"told": {"why": outline(error)}})
    return Failed("The request failed.")


def _salt(lane: Lane) -> str:
    """Who may share what is computed in this step: the one tenant, or nobody."""
    tenants = {task.tenant for task in lane.tasks.values()}
    return tenants.pop() if len(tenants) == 1 else f"step {time.monotonic_ns()}"


def _check_width(rows: int, most: int) -> None:
    if rows > most:
        raise BadInput(
            f"This strategy takes {rows} rows; the server allows {most} for one answer.",
            hint="Use fewer beams or candidates.",
            param="params",
        )
