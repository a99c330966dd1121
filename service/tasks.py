"""What a worker is given and what it tells: an answer to be made, and the batch it runs in."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Histogram

from halu.batch import Batch, Batched, Work
from halu.errors import HaluError
from halu.service.logs import request_id
from halu.types import Event, Request


class Started:
    """The task's prompt has been read; tokens follow."""


News = Event | Started | HaluError
"""What is told of a task; an answer or an error is the last."""


@dataclass(eq=False, slots=True)
class Task:
    """One answer to be made."""

    request: Request
    model: str
    tenant: str
    tell: Callable[[News], None]
    arrived: float = field(default_factory=time.monotonic)
    id: str = field(default_factory=request_id.get)  # of the HTTP request, for the log
    cancelled: bool = False
    begun: float = 0.0
    started: float = 0.0
    last: float = 0.0
    each: Histogram | None = None


@dataclass(eq=False, slots=True)
class Lane:
    """A model's running batch."""

    vlm: Batched
    batch: Batch
    tasks: dict[int, Task] = field(default_factory=dict)  # by the job's identity

    def task(self, job: Work) -> Task:
        """Whose job it is."""
        return self.tasks[id(job)]
