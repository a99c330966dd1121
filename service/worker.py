"""One thread for each device: requests join and leave a running batch between two steps.

It knows requests, models and steps; nothing of HTTP. Whoever hands in a task hears of it through
`tell`, called in this thread, and may cancel it at any time: its branches end before the next step.
"""

import threading
import time
from collections.abc import Callable

from halu.batch import Batched, Work
from halu.errors import BadInput, Failed, HaluError
from halu.service import timing
from halu.service.context import check_prompt, check_words
from halu.service.logs import log, outline
from halu.service.metrics import Metrics
from halu.service.probe import works
from halu.service.shelf import Shelf
from halu.service.tasks import Lane, Started, Task
from halu.service.trim import Trim
from halu.service.waiting import Waiting
from halu.types import Event

MOST_FAILURES = 3
"""So many failures of the device, no step between them that went well, and it is given up."""


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
        self.waiting = Waiting()
        self.shelf = shelf(self.waiting.wake)
        self.metrics = metrics
        self.max_rows = max_rows
        self.max_rows_per_request = max_rows_per_request
        self.lanes: dict[str, Lane] = {}
        self.trim = Trim()
        self.dead = False
        self._ending = False
        self._failures = 0

    def submit(self, task: Task) -> None:
        """Hands in a task.

        Raises:
            Failed: the device was given up.
        """
        self.waiting.put(task)

    def cancel(self, task: Task) -> None:
        """Nobody wants the task any more; it hears nothing further."""
        task.cancelled = True
        self.waiting.wake()

    def stop(self) -> None:
        """Ends the thread after the current step."""
        self._ending = True
        self.waiting.wake()

    @property
    def running(self) -> int:
        """Tasks that run."""
        return sum(len(lane.tasks) for lane in list(self.lanes.values()))

    @property
    def rows(self) -> int:
        """Rows that the running tasks may come to have."""
        return sum(lane.batch.width for lane in list(self.lanes.values()))

    def run(self) -> None:
        """The thread."""
        try:
            while not self._ending and not self.dead:
                self._rest()
                self._leave()
                self._join()
                for name, lane in list(self.lanes.items()):
                    self.metrics.reused(name, lane.vlm.reused())
                    self._step(name, lane)
        except BaseException as error:  # must not die silently: clients would wait for ever
            log.error("worker died", extra={"told": {"why": outline(error)}})
            raise
        finally:
            self._give_up()

    def _rest(self) -> None:
        """Sleeps while nothing runs; freed memory goes back meanwhile, or when it is high time."""
        if self.running:
            self.waiting.sleep(0)
            if self.trim.late:
                self.trim()
        elif not self.waiting.sleep(self.trim.due):
            self.trim()
            self.waiting.sleep()

    def _leave(self) -> None:
        """Tasks that were cancelled; all branches of them end."""
        self.waiting.forget_cancelled()
        for lane in self.lanes.values():
            for job in list(lane.batch.jobs):
                if lane.task(job).cancelled:
                    lane.batch.drop(job)
                    self._out(lane, job)
                    self.metrics.failure.labels("cancelled").inc()

    def _join(self) -> None:
        """Starts one waiting task at most, so that those that run wait for one prompt. Where the
        oldest can have its model only once another one rests, those after it wait with it: they
        could keep that one busy for ever.
        """
        for task in self.waiting:
            if self.rows >= self.max_rows:
                return
            busy = [name for name, lane in self.lanes.items() if lane.tasks]
            try:
                vlm = self.shelf.take(task.model, busy)
            except HaluError as error:
                self.waiting.take(task)
                self._fail(task, error)
                continue
            if vlm is not None:
                self.waiting.take(task)
                self._start(task, vlm)
                return
            if self.shelf.loading is None:
                return

    def _start(self, task: Task, vlm: Batched) -> None:
        lane = self.lanes.get(task.model)
        if lane is None or lane.vlm is not vlm:
            lane = self.lanes[task.model] = Lane(vlm, vlm.batch())
        task.begun = time.monotonic()
        lane.batch.salt = task.tenant
        job: Work | None = None
        suspect = False
        try:
            check_words(vlm, task.request)
            (job,) = lane.batch.add([task.request])
        except Exception as error:
            self._fail(task, error)
            suspect = not isinstance(error, HaluError)
        if job is not None:
            lane.tasks[id(job)] = task
            self._begin(lane, job)
        elif suspect and not works(vlm):  # only now: an error holds the memory that it ran with
            self._device_failed()

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
            self._out(lane, job)
            self._fail(task, error)
            return
        timing.started(self.metrics, task, job)
        task.tell(Started())

    def _step(self, name: str, lane: Lane) -> None:
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
        for job, event in outcome:
            if id(job) in lane.tasks:  # else it was refused a moment ago
                self._hear(lane, job, event)
        for job in list(lane.batch.jobs):
            self._begin(lane, job)

    def _hear(self, lane: Lane, job: Work, event: Event | Exception) -> None:
        """What one job has to tell."""
        task = lane.task(job)
        if not isinstance(event, Event):
            self._out(lane, job)
            self._fail(task, event)
            return
        self._begin(lane, job)
        if id(job) not in lane.tasks:
            return
        timing.heard(self.metrics, task, job, event)
        if event.answer is not None:
            self._out(lane, job)
        task.tell(event)

    def _out(self, lane: Lane, job: Work) -> None:
        """A job is over; what waits for its rows, or for its model to rest, may have its turn."""
        del lane.tasks[id(job)]
        self.waiting.wake()

    def _all_failed(self, lane: Lane, error: Exception) -> None:
        """A shared forward failed: its tasks end."""
        tasks = list(lane.tasks.values())
        ids = [task.id for task in tasks]
        log.error("step failed", extra={"told": {"why": outline(error), "request_ids": ids}})
        lane.tasks.clear()
        self.waiting.wake()
        for task in tasks:
            self._fail(task, error)
        self._device_failed()

    def _device_failed(self) -> None:
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self.dead = True

    def _fail(self, task: Task, error: Exception) -> None:
        """A task ends: with our error as it is, with any other as a failure that is logged."""
        if not isinstance(error, HaluError):
            why = {"why": outline(error), "request_id": task.id}
            log.error("request failed", extra={"told": why})
            error = Failed("The request failed.")
        self.metrics.failure.labels(error.code or type(error).__name__.lower()).inc()
        task.tell(error)

    def _give_up(self) -> None:
        """Tells everybody that nothing more will come."""
        self.dead = True
        left = self.waiting.close()
        left += [task for lane in self.lanes.values() for task in lane.tasks.values()]
        self.lanes.clear()
        for task in left:
            self._fail(task, Failed("The engine is down."))


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
