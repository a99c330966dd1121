"""One request on its way: from its plan through its search to its answer.

A job knows its own rows and nothing of other jobs; `halu.decode` runs all of them in one forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.attention.steered import Steered
from halu.attention.trace import Trace
from halu.errors import Unsupported
from halu.planning import Chosen, RequestContext, choose, steered
from halu.search import Choice, Search
from halu.strategy import Branch, Plan, Step
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
    """One request: the plan, the search, what has been said so far, and how it ended.

    Attributes:
        rows: its rows of the shared cache [hypothesis][branch].
        seen: the tokens of each hypothesis.
        contexts: what the strategies run beside is counted there.
        answer: once it is done.
    """

    adapter: Adapter
    request: Request
    chosen: Chosen
    plan: Plan
    search: Search
    said: Transcript
    forwards: int
    rows: list[list[Row]]
    contexts: Sequence[RequestContext] = ()
    seen: list[list[int]] = field(default_factory=lambda: [[]])
    answer: Answer | None = None

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The plan's branches, the main one first."""
        return (self.plan.main, *self.plan.extra)

    @property
    def count(self) -> int:
        """Its rows of the cache now."""
        return sum(len(branches) for branches in self.rows)

    @property
    def width(self) -> int:
        """The most rows of the cache that it may come to have: branches times hypotheses."""
        return len(self.branches) * self.search.most

    def advance(self, scores: Tensor) -> tuple[Event, list[Choice]]:
        """One step, from the newest rows of scores [n, V]: what there is to tell, and how the
        hypotheses go on.

        Raises:
            Exception: whatever the request's own rule, search or policies raise.
        """
        self._check()
        names = [branch.name for branch in self.branches]
        by_hypothesis = scores.reshape(len(self.rows), len(names), -1)
        main = [branches[0].steering for branches in self.rows]
        early = self.adapter.runner.early
        steps = [
            Step(
                len(seen),
                dict(zip(names, rows, strict=True)),
                seen,
                early(steering.tapped, self.plan.taps),
            )
            for rows, seen, steering in zip(by_hypothesis, self.seen, main, strict=True)
        ]
        ruled = torch.stack([self.plan.rule(step) for step in steps])
        choices = self.search.advance(ruled, self.seen, [steering.policies for steering in main])
        if self.search.streams:
            rows = (steps[0].main, ruled[0])
            self.said.say(choices[0].token, rows=rows, trace=main[0].trace)
        lengths = [len(ids) for ids in self.seen]
        self.seen = [[*self.seen[c.parent][: c.keep], c.token] for c in choices]
        event = self._event()
        if self.answer is None:
            self.rows = _continued(self.rows, choices, lengths)
        return event, choices

    def _check(self) -> None:
        """Raises what a policy raised while rows of others went through the model with its own."""
        for branches in self.rows:
            for row in branches:
                if row.steering.failure is not None:
                    raise row.steering.failure

    def _event(self) -> Event:
        longest = max((len(ids) for ids in self.seen), default=0)
        final = longest >= self.request.sampling.max_new_tokens or self.said.stopped
        best = self.search.best(self.seen, final=final)
        if best is None:
            return self.said.news()
        if not self.search.streams:
            for token in best:
                if not self.said.stopped:
                    self.said.say(token)
        tokens = self.said.close()
        ended = bool(best) and best[-1] in self.adapter.ends
        layout = self.plan.main.prompt.layout
        self.answer = Answer(
            text=self.said.stream.text,
            tokens=tokens,
            finish_reason="stop" if ended or self.said.stopped else "length",
            usage=Usage(
                prompt_tokens=layout.length,
                image_tokens=layout.image_tokens,
                completion_tokens=len(tokens),
                forwards=self.forwards + sum(ctx.forwards for ctx in self.contexts),
            ),
            strategy=self.chosen.resolved,
        )
        return self.said.last(self.answer)


def planned(adapter: Adapter, request: Request) -> Job:
    """The job of a request, before its prompts are read.

    Raises:
        HaluError: if it cannot be planned.
    """
    chosen = choose(request)
    plan, contexts = chosen.plan(adapter, request)
    if not plan.search.streams and (
        request.evidence != "none" or request.sampling.logprobs is not None
    ):
        raise Unsupported(
            f"The search of {chosen.resolved.name!r} may take tokens back, so that it has no"
            " evidence or logprobs for each.",
            param="strategy",
        )
    search = plan.search.start(request.sampling, adapter.ends, plan.main.prompt.ids)
    said = Transcript(adapter.tokenizer, request, adapter.ends)
    rows = [_first(plan, branch, request) for branch in (plan.main, *plan.extra)]
    return Job(adapter, request, chosen, plan, search, said, len(rows), [rows], contexts)


def _first(plan: Plan, branch: Branch, request: Request) -> Row:
    """A branch's row as its prompt leaves it."""
    prompt, is_main = branch.prompt, branch is plan.main
    trace = Trace(prompt.layout) if is_main and request.evidence != "none" else None
    taps = frozenset(tap.layer for tap in plan.taps if is_main)
    steering = Steered(prompt.layout, steered(plan, branch)(), trace, taps)
    return Row(steering, len(prompt.ids), prompt.next_position)


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
