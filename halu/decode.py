"""The one decoding loop: all branches of all running requests advance in one forward.

Each branch of each hypothesis of each request is one row of a shared cache, and so is each text
that a strategy has said beside. A step lets everything that runs choose from its rows of scores,
rearranges the rows and runs every one once; prompts are read together between steps. Requests may
join and leave at any step, and what goes wrong in one ends that one alone. The loop knows what runs
and its rows; it does not know any strategy.
"""

import weakref
from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.vision import Features
from halu.job import Job
from halu.running import Row, Running, count, fetched
from halu.types import Event, Request

Looked = tuple[Running, list[Features | None]]
"""What is to be read, and what the vision tower says of each of its prompts."""


class Decoder:
    """Runs jobs on one model. `add` requests, `step` until `jobs` is empty; `drop` frees a job at
    once, `close` all.

    Attributes:
        jobs: those that have not ended, in the order in which they came.
        cache: keys and values of all rows.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.jobs: list[Job] = []
        # A job that waits has a thread, which would outlive a decoder that nobody closes.
        weakref.finalize(self, _ended, self.jobs).atexit = False
        self._running: list[Running] = []  # whose the cache's rows are, in this order
        self._empty()

    @property
    def width(self) -> int:
        """The most rows that the jobs may come to have: what admission is decided by."""
        return sum(job.width for job in self.jobs)

    @property
    def salt(self) -> str:
        """Features of pictures are shared only under the same salt."""
        return self.adapter.runner.vision.salt

    @salt.setter
    def salt(self, value: str) -> None:
        self.adapter.runner.vision.salt = value

    def add(self, requests: Sequence[Request]) -> list[Job]:
        """Plans the requests and reads all their prompts together. Planning that has a text said
        first goes on in the steps to come.

        Raises:
            HaluError: if a request cannot be planned; then none is added, and those that run go on.
        """
        jobs = [Job(self.adapter, request) for request in requests]
        before, rows = len(self._running), self.cache.rows
        try:
            for job in jobs:
                job.start()
            self._serve(jobs)
            for job in jobs:
                if job.error is not None:
                    raise job.error
        except BaseException:
            for job in jobs:
                job.close()
            del self._running[before:]
            self._keep(list(range(rows)))
            raise
        self.jobs += jobs
        return jobs

    def step(self) -> list[tuple[Job, Event | Exception]]:
        """One token for every job (none for a beam job until it ends), then the next forward.

        Returns:
            What each job has to tell. An exception is what the job's own planning, rule, search,
            policies or text raised: it is over, its rows are freed, and the others go on.

        Raises:
            Exception: if a shared forward itself fails; then nothing runs any more.
        """
        try:
            placed = self._placed()
            _advance([(one, self._scores[first : first + count(one)]) for one, first in placed])
            self._serve([job for job in self.jobs if job.planned])
            self._forward(placed)
            self._serve(self.jobs)
        except BaseException:
            self.close()
            raise
        told = [(job, news) for job in self.jobs if (news := job.news()) is not None]
        self.jobs[:] = [job for job in self.jobs if not job.over]
        return told

    def drop(self, job: Job) -> None:
        """Ends a job whose answer nobody wants any more; its rows are given up."""
        if job not in self.jobs:
            return
        job.close()
        self.jobs.remove(job)
        gone = {id(job), *map(id, job.asides)}
        kept = [(one, first) for one, first in self._placed() if id(one) not in gone]
        self._running = [one for one, _ in kept]
        self._keep([row for one, first in kept for row in range(first, first + count(one))])

    def close(self) -> None:
        """Ends everything; the decoder is as new."""
        _ended(self.jobs)
        self._empty()

    def _empty(self) -> None:
        self.cache = self.adapter.runner.new_cache()
        self.adapter.runner.rest(self.cache)
        self._running = []
        self._scores = torch.empty(0, 0)  # the newest row of each [rows, V]

    def _placed(self) -> list[tuple[Running, int]]:
        """What runs, with the first of its rows."""
        ends = accumulate((count(one) for one in self._running), initial=0)
        return list(zip(self._running, ends, strict=False))

    def _keep(self, rows: list[int]) -> None:
        """Gives up all other rows of the cache."""
        self._arrange(rows)
        self._scores = self._scores[rows]

    def _arrange(self, sources: list[int]) -> None:
        """Row i of the cache becomes what row sources[i] was."""
        self.cache.arrange(sources)
        if not sources:
            self.adapter.runner.rest(self.cache)

    def _serve(self, jobs: Sequence[Job]) -> None:
        """Reads what these jobs want read, until none can go on without another step."""
        while True:
            for job in jobs:
                job.go_on()
            wanted = [one for job in jobs for one in job.take()]
            if not wanted:
                return
            if seen := [(one, own) for one, own in self._looked(wanted) if not one.over]:
                self._read(sorted(seen, key=lambda pair: pair[0].passing))

    def _looked(self, new: Sequence[Running]) -> list[Looked]:
        """Has the pictures seen; where that fails it is one prompt's own failure."""
        features = self.adapter.runner.vision.features
        try:
            seen = iter(features([prompt for one in new for prompt in one.prompts]))
            return [(one, [next(seen) for _ in one.prompts]) for one in new]
        except Exception:
            found = []
            for one in new:
                try:
                    found.append((one, features(one.prompts)))
                except Exception as error:
                    one.fail(error)
            return found

    def _read(self, looked: Sequence[Looked]) -> None:
        """Runs prompts in one forward, those last that nobody goes on from: their rows leave at
        once.
        """
        new = [one for one, _ in looked]
        rows = _rows(new)
        scores = self.adapter.runner.read(
            [prompt for one in new for prompt in one.prompts],
            [row.steering for row in rows],
            self.cache,
            [features for _, own in looked for features in own],
        )
        _told(rows, scores)
        parts = list(zip(new, scores.split([count(one) for one in new]), strict=True))
        _advance([(one, own) for one, own in parts if one.passing])
        for one, own in parts:
            if not one.passing:
                self._running.append(one)
                self._scores = torch.cat([self._scores, own]) if len(self._scores) else own
        self.cache.arrange(list(range(len(self._scores))))

    def _forward(self, placed: Sequence[tuple[Running, int]]) -> None:
        """The next token of everything that is not over."""
        sources: list[int] = []
        tokens: list[int] = []
        self._running = [one for one, _ in placed if not one.over]
        for one, first in placed:
            for choice in () if one.over else one.choices:
                width = len(one.rows[0])
                start = first + choice.parent * width
                sources += range(start, start + width)
                tokens += [choice.token] * width
        self._arrange(sources)
        rows = _rows(self._running)
        if not rows:
            self._scores = self._scores[:0]
            return
        self._scores = self.adapter.runner.step(
            tokens,
            [row.length for row in rows],
            [row.position for row in rows],
            [row.steering for row in rows],
            self.cache,
        )
        _told(rows, self._scores)
        for one in self._running:
            one.fed()


def _ended(jobs: list[Job]) -> None:
    """Closes what has not ended."""
    for job in jobs:
        job.close()
    jobs.clear()


def _rows(running: Iterable[Running]) -> list[Row]:
    return [row for one in running for branches in one.rows for row in branches]


def _advance(given: Sequence[tuple[Running, Tensor]]) -> None:
    """Lets everything choose from its rows of scores [n, V]; the device is waited for once."""
    asked = [one.ask(own) for one, own in given]
    for (one, _), known in zip(given, fetched(asked), strict=True):
        one.choose(known)


def _told(rows: Sequence[Row], scores: Tensor) -> None:
    for row, own in zip(rows, scores, strict=True):
        row.steering.heard(own)
