"""Tasks that wait for their turn, and the sleep of the thread that gives it to them.

Anybody may hand in, and wake; one thread takes.
"""

import threading
from collections import deque
from collections.abc import Iterator

from halu.errors import Failed
from halu.service.tasks import Task


class Waiting:
    """A queue, oldest first, with a bell."""

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._news = threading.Condition()
        self._rung = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        with self._news:
            return iter(list(self._tasks))

    def put(self, task: Task) -> None:
        """Hands in a task.

        Raises:
            Failed: nobody takes tasks any more.
        """
        with self._news:
            if self._closed:
                raise Failed("The engine is down.")
            self._tasks.append(task)
        self.wake()

    def take(self, task: Task) -> None:
        """Takes a task out; the next one may have its turn, whatever becomes of this one."""
        with self._news:
            self._tasks.remove(task)
        self.wake()

    def forget_cancelled(self) -> None:
        """Lets go of tasks that nobody wants any more."""
        with self._news:
            self._tasks = deque(task for task in self._tasks if not task.cancelled)

    def close(self) -> list[Task]:
        """Those that are left; from now on none is taken in."""
        with self._news:
            self._closed = True
            left = list(self._tasks)
            self._tasks.clear()
            return left

    def wake(self) -> None:
        """Has the thread look around."""
        with self._news:
            self._rung = True
            self._news.notify()

    def sleep(self, seconds: float | None = None) -> bool:
        """Until it is woken, or so many seconds; whether it was woken."""
        with self._news:
            woken = self._news.wait_for(lambda: self._rung, seconds)
            self._rung = False
            return woken
