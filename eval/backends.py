"""How a run reaches its models: each is opened when its turn comes and closed before the next.

A `Backend` answers batches of requests; a run does not know whether a model in this process, a pool
of processes or a server is behind it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from halu.errors import Failed
from halu.eval.plan import Source
from halu.types import Answer, Generate, Request

Memory = Callable[[], float | None]
"""Peak memory so far in MB, or None where it cannot be known; may start counting anew."""


class Timed(NamedTuple):
    """A batch's answers in order, the seconds they took, and the peak of memory in MB.

    `first` marks the first batch of a process, whose time includes starting up.
    """

    answers: list[Answer]
    seconds: float
    peak: float | None = None
    first: bool = False


@dataclass(frozen=True, slots=True)
class Backend:
    """A model that is ready. `slots` batches may be answered at once, from as many threads."""

    answer: Callable[[list[Request]], Timed]
    slots: int = 1


Opener = Callable[[Source], AbstractContextManager[Backend]]
"""Opens a model for the time of a `with` block."""


def backend(generate: Generate, slots: int = 1, memory: Memory | None = None) -> Backend:
    """Make a backend of something that answers; `memory` is by default this process's peak."""
    peak = memory or process_peak

    def answer(requests: list[Request]) -> Timed:
        return timed(generate, requests, peak)

    return Backend(answer, slots)


def timed(generate: Generate, requests: list[Request], memory: Memory) -> Timed:
    """Answer a batch and measure it.

    Raises:
        Failed: if the answers are not one for each request.
    """
    started = time.perf_counter()
    answers = dict(generate(requests))
    seconds = time.perf_counter() - started
    if sorted(answers) != list(range(len(requests))):
        raise Failed(f"{len(requests)} requests were sent and answers came to {sorted(answers)}.")
    return Timed([answers[number] for number in range(len(requests))], seconds, memory())


def ready(generate: Generate, slots: int = 1, memory: Memory | None = None) -> Opener:
    """Make an opener of something that answers already, whatever the model is called."""

    @contextmanager
    def opened(source: Source) -> Iterator[Backend]:
        yield backend(generate, slots, memory)

    return opened


def process_peak() -> float | None:
    """Peak resident memory of this process in MB; never falls, so later strategies inherit it."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)
