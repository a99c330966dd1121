"""A model loaded several times, each in a process of its own: what `--workers` means for a model
that runs here.

Processes are started anew, not forked, so that each has its own GPU context; they share the CPU's
cores between them and take the GPUs in turn. Times are taken inside them.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import TYPE_CHECKING

from halu.errors import Failed, HaluError
from halu.eval.backends import Backend, Timed, process_peak, timed
from halu.eval.plan import Source
from halu.types import Request

if TYPE_CHECKING:
    from halu.vlm import VLM


Loader = Callable[..., "VLM"]
"""`halu.load`, or something that takes the same arguments."""


@contextmanager
def pool(source: Source, workers: int, load: Loader) -> Iterator[Backend]:
    """Open a model in so many processes; answers raise what the model raises, there and here.

    `load` is a function of a module, since processes find it by its name.
    """
    spawn = multiprocessing.get_context("spawn")
    numbers: Queue[int] = spawn.Queue()
    for number in range(workers):
        numbers.put(number)
    threads = max(1, (os.cpu_count() or 1) // workers)
    executor = ProcessPoolExecutor(
        workers, spawn, initializer=_begin, initargs=(source, numbers, threads, load)
    )

    def answer(requests: list[Request]) -> Timed:
        try:
            return executor.submit(_answer, requests).result()
        except BrokenProcessPool:
            raise Failed(
                "A worker died, perhaps for lack of memory.", hint="Try fewer with --workers."
            ) from None

    try:
        yield Backend(answer, workers)
    finally:
        executor.shutdown(cancel_futures=True)


class _Worker:
    """A process's model, or why it has none."""

    def __init__(self, source: Source, number: int, load: Loader) -> None:
        from halu.engine import gpus

        device, count = source.device, gpus()
        if device == "cuda" and count:
            device = f"cuda:{number % count}"
        self.answered = False
        self.model: VLM | HaluError
        try:
            self.model = load(
                source.name, backend=source.backend, device=device, dtype=source.dtype
            )
        except HaluError as error:
            self.model = error

    def answer(self, requests: list[Request]) -> Timed:
        if isinstance(self.model, HaluError):
            raise self.model
        found = timed(self.model.generate_each, requests, self._peak)
        first, self.answered = not self.answered, True
        return found._replace(first=first)

    def _peak(self) -> float | None:
        assert not isinstance(self.model, HaluError)
        on_gpu = self.model.peak_gpu_memory_mb()
        return process_peak() if on_gpu is None else on_gpu


_worker: _Worker | None = None
"""Of this process, if it is one."""


def _begin(source: Source, numbers: "Queue[int]", threads: int, load: Loader) -> None:
    global _worker
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before torch is imported
    _worker = _Worker(source, numbers.get(), load)


def _answer(requests: list[Request]) -> Timed:
    assert _worker is not None
    return _worker.answer(requests)
