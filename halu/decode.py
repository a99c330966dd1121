"""The one decoding loop: all branches of all running requests advance in one forward.

Each branch of each hypothesis of each request is one row of a shared cache, in that order. A step
lets each request's rule and search choose, rearranges the rows and runs every row once. Requests
may join and leave between steps, and what goes wrong in one ends that one alone. The loop knows
jobs and rows; it does not know any strategy.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.cache import RowCache
from halu.job import Job, Row, planned
from halu.types import Event, Request


class Decoder:
    """Runs jobs on one model. `add` requests, `step` until `jobs` is empty; `drop` frees a job at
    once.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.jobs: list[Job] = []
        self.cache = RowCache(adapter.facts.layers)
        self._scores: Tensor | None = None

    @property
    def width(self) -> int:
        """The most rows that the running jobs may come to have: what admission is decided by."""
        return sum(job.width for job in self.jobs)

    def add(self, requests: Sequence[Request]) -> list[Job]:
        """Plans the requests and runs all their prompts in one forward.

        Raises:
            HaluError: if a request cannot be planned; then none is added, and those that run go on.
        """
        jobs = [planned(self.adapter, request) for request in requests]
        rows = [row for job in jobs for row in job.rows[0]]
        prompts = [branch.prompt for job in jobs for branch in job.branches]
        before = self.cache.rows
        try:
            scores = self.adapter.runner.read(prompts, [row.steering for row in rows], self.cache)
        except BaseException:
            self.cache.arrange(list(range(before)))
            raise
        _told(rows, scores)
        self._scores = scores if self._scores is None else torch.cat([self._scores, scores])
        self.jobs += jobs
        return jobs

    def step(self) -> list[tuple[Job, Event | Exception]]:
        """One token for every job (none for a beam job until it ends), then the next forward.

        Returns:
            What each job has to tell. An exception is what the job's own rule, search, policies or
            text raised: it is over, its rows are freed, and the others go on.

        Raises:
            Exception: if the shared forward itself fails; then nothing runs any more.
        """
        assert self._scores is not None
        told: list[tuple[Job, Event | Exception]] = []
        going: list[Job] = []
        sources: list[int] = []
        tokens: list[int] = []
        for job, first in self._placed():
            try:
                event, choices = job.advance(self._scores[first : first + job.count])
            except Exception as error:
                told.append((job, error))
                continue
            if event.text or event.tokens or event.answer:
                told.append((job, event))
            if job.answer is None:
                going.append(job)
                width = len(job.branches)
                for choice in choices:
                    start = first + choice.parent * width
                    sources += range(start, start + width)
                    tokens += [choice.token] * width
        self.jobs = going
        self._forward(sources, tokens)
        return told

    def drop(self, job: Job) -> None:
        """Ends a job whose answer nobody wants any more; its rows are given up."""
        if job not in self.jobs:
            return
        sources = [
            row
            for other, first in self._placed()
            if other is not job
            for row in range(first, first + other.count)
        ]
        self.jobs.remove(job)
        assert self._scores is not None
        self._scores = self._scores[sources] if sources else None
        self.cache.arrange(sources)

    def _placed(self) -> Iterator[tuple[Job, int]]:
        """The jobs with the first of their rows; where that is stays true while they change."""
        first = 0
        for job in list(self.jobs):
            count = job.count
            yield job, first
            first += count

    def _forward(self, sources: list[int], tokens: list[int]) -> None:
        rows = [row for job in self.jobs for branches in job.rows for row in branches]
        try:
            self.cache.arrange(sources)
            self._scores = self._run(rows, tokens) if rows else None
        except BaseException:
            self.jobs, self._scores = [], None
            self.cache = RowCache(self.adapter.facts.layers)
            raise
        for row in rows:
            row.length += 1
            row.position += 1
        for job in self.jobs:
            job.forwards += job.count

    def _run(self, rows: Sequence[Row], tokens: list[int]) -> Tensor:
        scores = self.adapter.runner.step(
            tokens,
            [r.length for r in rows],
            [r.position for r in rows],
            [r.steering for r in rows],
            self.cache,
        )
        _told(rows, scores)
        return scores


def _told(rows: Sequence[Row], scores: Tensor) -> None:
    for row, own in zip(rows, scores, strict=True):
        row.steering.heard(own)
