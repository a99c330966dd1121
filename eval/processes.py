"""A model loaded several times, each in a process of its own: what `--workers` means for a model
that runs here.

Processes are started anew, not forked, so that each has its own GPU context; they share the CPU's
cores between them and take the GPUs in turn.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from types import TracebackType
from typing import TYPE_CHECKING

from halu.errors import Failed
from halu.eval.plan import Source
from halu.types import Answer, Request

if TYPE_CHECKING:
    from halu.vlm import VLM

Done = tuple[list[tuple[int, Answer]], float | None]
"""Answers by their place in the batch, and the process's peak of GPU memory in MB."""

_MODEL: "VLM | None" = None
"""Of this process, if it is a worker."""


class Pool:
    """Processes that answer batches; from as many threads, `generate` keeps all of them busy."""

    def __init__(self, source: Source, workers: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        numbers: Queue[int] = spawn.Queue()
        for number in range(workers):
            numbers.put(number)
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._peak: float | None = None
        self._pool = ProcessPoolExecutor(
            workers, spawn, initializer=_begin, initargs=(source, numbers, threads)
        )

    def generate(self, requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        """Answer a batch in one of the processes.

        Raises:
            Failed: if the process died.
        """
        try:
            answers, peak = self._pool.submit(_answer, requests).result()
        except BrokenProcessPool:
            raise Failed("A worker died, perhaps for lack of memory.", hint="--workers 1") from None
        self._peak = max(filter(None, (self._peak, peak)), default=None)
        yield from answers

    def memory(self) -> float | None:
        """Highest peak of GPU memory of any process so far, in MB; None without a GPU."""
        return self._peak

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _begin(source: Source, numbers: "Queue[int]", threads: int) -> None:
    global _MODEL
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    from halu.engine import gpus, load

    device, count = source.device, gpus()
    if device in (None, "cuda") and count:
        device = f"cuda:{numbers.get() % count}"
    _MODEL = load(source.name, backend=source.backend, device=device, dtype=source.dtype)


def _answer(requests: list[Request]) -> Done:
    assert _MODEL is not None
    answers = list(_MODEL.generate_each(requests))
    return answers, _MODEL.peak_gpu_memory_mb()
