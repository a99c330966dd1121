"""Requests of one caller in a vLLM engine: what `halu.decode.Decoder` is under transformers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from halu.types import Event, Request
from halu.vllm.run import Run

if TYPE_CHECKING:
    from halu.vllm.model import InEngine


class Batch:
    """Requests of one caller. vLLM decides what runs in which step.

    Args:
        vlm: the model.

    Attributes:
        jobs: those that have not ended, in the order in which they came.
        salt: of what is added: only what has the same shares keys and values.
    """

    def __init__(self, vlm: "InEngine") -> None:
        self.vlm = vlm
        self.jobs: list[Run] = []
        self.salt = ""

    @property
    def width(self) -> int:
        """The branches of all requests."""
        return sum(job.width for job in self.jobs)

    def add(self, requests: Sequence[Request]) -> list[Run]:
        """Plans the requests and gives their branches to the engine.

        Raises:
            HaluError: if a request cannot be planned; then none is added.
        """
        new = [Run(self.vlm, request, self.salt) for request in requests]
        try:
            for run in new:
                run.go_on()
        except BaseException:
            for run in new:
                run.end()
            raise
        self.jobs += new
        return new

    def step(self) -> list[tuple[Run, Event | Exception]]:
        """Goes on by what the engine says next. A request with an exception is over.

        Raises:
            Exception: if the engine is down; then nothing runs any more.
        """
        try:
            self.vlm.step()
        except BaseException:
            self.close()
            raise
        told: list[tuple[Run, Event | Exception]] = []
        for run in self.jobs:
            try:
                run.go_on()
                told += [(run, event) for event in run.news()]
            except Exception as error:
                run.end()
                told.append((run, error))
        self.jobs = [run for run in self.jobs if not run.over]
        return told

    def drop(self, job: Run) -> None:
        """Ends a request whose answer nobody wants any more."""
        if job in self.jobs:
            job.end()
            self.jobs.remove(job)

    def close(self) -> None:
        """Ends everything."""
        for job in self.jobs:
            job.end()
        self.jobs = []
