"""The one decoding loop: all branches of all running requests advance in one forward.

Each branch of each hypothesis of each request is one row of a shared cache, in that order. A step
runs every row once, lets each request's rule and search choose, and rearranges the rows. Requests
may join and leave between steps. The loop knows rows, rules and searches; it does not know any
strategy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.cache import RowCache
from halu.attention.steered import Steered
from halu.attention.trace import Trace
from halu.errors import Unsupported
from halu.planning import Chosen, RequestContext, choose, steered
from halu.search import Choice, Search
from halu.strategy import Plan, Step, Tap
from halu.transcript import Transcript
from halu.types import Answer, Event, Request, Usage


@dataclass(slots=True)
class Row:
    """One branch of one hypothesis: its steering, how many keys it has, the next position."""

    steering: Steered
    length: int
    position: int


@dataclass(slots=True)
class Job:
    """One request on its way: the plan, the search, and what has been said so far."""

    request: Request
    chosen: Chosen
    plan: Plan
    search: Search
    said: Transcript
    forwards: int
    rows: list[list[Row]] = field(default_factory=list)  # [hypothesis][branch]
    seen: list[list[int]] = field(default_factory=lambda: [[]])
    contexts: Sequence[RequestContext] = ()  # what the strategies run beside is counted there
    answer: Answer | None = None


class Decoder:
    """Runs jobs on one model. `add` requests, `step` until `jobs` is empty; `drop` frees a job at
    once.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.jobs: list[Job] = []
        self.cache = RowCache(adapter.facts.layers)
        self._scores: Tensor | None = None

    def add(self, requests: Sequence[Request]) -> list[Job]:
        """Plans the requests and runs all their prompts in one forward.

        Raises:
            HaluError: if a request cannot be planned; then none is added.
        """
        jobs = [self._plan(request) for request in requests]
        rows = [row for job in jobs for row in job.rows[0]]
        prompts = [branch.prompt for job in jobs for branch in (job.plan.main, *job.plan.extra)]
        scores = self.adapter.runner.read(prompts, [row.steering for row in rows], self.cache)
        _told(rows, scores)
        self._scores = scores if self._scores is None else torch.cat([self._scores, scores])
        self.jobs += jobs
        return jobs

    def step(self) -> list[tuple[Job, Event]]:
        """One token for every job (none for a beam job until it ends), then the next forward."""
        assert self._scores is not None
        events: list[tuple[Job, Event]] = []
        sources: list[int] = []
        tokens: list[int] = []
        first = 0
        for job in self.jobs:
            count = sum(len(branches) for branches in job.rows)
            lengths = [len(ids) for ids in job.seen]
            event, choices = self._advance(job, self._scores[first : first + count])
            width = len(job.plan.extra) + 1
            if job.answer is None:
                sources += [
                    first + choice.parent * width + b for choice in choices for b in range(width)
                ]
                tokens += [choice.token for choice in choices for _ in range(width)]
                job.rows = _continued(job.rows, choices, lengths)
            first += count
            if event.text or event.tokens or event.answer:
                events.append((job, event))
        self.jobs = [job for job in self.jobs if job.answer is None]
        self._forward(sources, tokens)
        return events

    def drop(self, job: Job) -> None:
        """Ends a job whose answer nobody wants any more; its rows are given up."""
        if job not in self.jobs:
            return
        sources: list[int] = []
        first = 0
        for other in self.jobs:
            count = sum(len(branches) for branches in other.rows)
            if other is not job:
                sources += range(first, first + count)
            first += count
        self.jobs.remove(job)
        assert self._scores is not None
        self._scores = self._scores[sources] if sources else None
        self.cache.arrange(sources)

    def _plan(self, request: Request) -> Job:
        chosen = choose(request)
        plan, contexts = chosen.plan(self.adapter, request)
        if not plan.search.streams and (
            request.evidence != "none" or request.sampling.logprobs is not None
        ):
            raise Unsupported(
                f"The search of {chosen.resolved.name!r} may take tokens back, so that it has no"
                " evidence or logprobs for each.",
                param="strategy",
            )
        search = plan.search.start(request.sampling, self.adapter.ends, plan.main.prompt.ids)
        said = Transcript(self.adapter.tokenizer, request, self.adapter.ends)
        job = Job(request, chosen, plan, search, said, forwards=1 + len(plan.extra))
        for branch in (plan.main, *plan.extra):
            traced = request.evidence != "none" and branch is plan.main
            trace = Trace(branch.prompt.layout) if traced else None
            taps = frozenset(tap.layer for tap in plan.taps if branch is plan.main)
            steering = Steered(branch.prompt.layout, steered(plan, branch)(), trace, taps)
            row = Row(steering, len(branch.prompt.ids), branch.prompt.next_position)
            job.rows = [[*job.rows[0], row]] if job.rows else [[row]]
        job.contexts = contexts
        return job

    def _advance(self, job: Job, scores: Tensor) -> tuple[Event, list[Choice]]:
        names = ["main", *(branch.name for branch in job.plan.extra)]
        by_hypothesis = scores.reshape(len(job.rows), len(names), -1)
        main = [branches[0].steering for branches in job.rows]
        steps = [
            Step(len(seen), dict(zip(names, rows, strict=True)), seen, self._early(job, steering))
            for rows, seen, steering in zip(by_hypothesis, job.seen, main, strict=True)
        ]
        ruled = torch.stack([job.plan.rule(step) for step in steps])
        choices = job.search.advance(ruled, job.seen, [steering.policies for steering in main])
        if job.search.streams:
            trace = job.rows[0][0].steering.trace
            rows = (steps[0].main, ruled[0])
            job.said.say(choices[0].token, rows=rows, trace=trace)
        job.seen = [[*job.seen[c.parent][: c.keep], c.token] for c in choices]
        return self._event(job), choices

    def _early(self, job: Job, steering: Steered) -> dict[Tap, Tensor]:
        return self.adapter.runner.early(steering.tapped, job.plan.taps)

    def _event(self, job: Job) -> Event:
        longest = max((len(ids) for ids in job.seen), default=0)
        final = longest >= job.request.sampling.max_new_tokens or job.said.stopped
        best = job.search.best(job.seen, final=final)
        if best is None:
            return job.said.news()
        if not job.search.streams:
            for token in best:
                if not job.said.stopped:
                    job.said.say(token)
        tokens = job.said.close()
        ended = bool(best) and best[-1] in self.adapter.ends
        layout = job.plan.main.prompt.layout
        job.answer = Answer(
            text=job.said.stream.text,
            tokens=tokens,
            finish_reason="stop" if ended or job.said.stopped else "length",
            usage=Usage(
                prompt_tokens=layout.length,
                image_tokens=layout.image_tokens,
                completion_tokens=len(tokens),
                forwards=job.forwards + sum(ctx.forwards for ctx in job.contexts),
            ),
            strategy=job.chosen.resolved,
        )
        return job.said.last(job.answer)

    def _forward(self, sources: list[int], tokens: list[int]) -> None:
        self.cache.arrange(sources)
        rows = [row for job in self.jobs for branches in job.rows for row in branches]
        if not rows:
            self._scores = None
            return
        self._scores = self.adapter.runner.step(
            tokens,
            [r.length for r in rows],
            [r.position for r in rows],
            [r.steering for r in rows],
            self.cache,
        )
        _told(rows, self._scores)
        for row in rows:
            row.length += 1
            row.position += 1
        for job in self.jobs:
            job.forwards += sum(len(branches) for branches in job.rows)


def _told(rows: Sequence[Row], scores: Tensor) -> None:
    for row, own in zip(rows, scores, strict=True):
        row.steering.heard(own)


def _continued(
    rows: list[list[Row]], choices: Sequence[Choice], lengths: Sequence[int]
) -> list[list[Row]]:
    """The rows [hypothesis][branch] of the chosen hypotheses; `lengths` are the parents' in tokens.

    A parent that goes on twice is forked, since its policies may learn from what comes.
    """
    taken: set[int] = set()
    found = []
    for choice in choices:
        cut = 0 if choice.keep is None else lengths[choice.parent] - choice.keep
        again = choice.parent in taken
        taken.add(choice.parent)
        found.append(
            [
                Row(
                    row.steering.fork() if again else row.steering,
                    row.length - cut,
                    row.position - cut,
                )
                for row in rows[choice.parent]
            ]
        )
    return found
