"""One request on its way: from planning through its search to its answer.

A job knows its own rows and nothing of other jobs; `halu.decode` runs all of them in one forward.
Its plan, and a search that `asks`, may want prompts run beside decoding: they wait in a `Task`
until the loop has run those together with everything else. What goes wrong is kept in `error`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.aside import Aside, alone
from halu.attention.steered import Steered
from halu.attention.trace import Trace
from halu.context import RequestContext
from halu.errors import Unsupported
from halu.planning import Chosen, choose, steered
from halu.prompt import Prompt
from halu.running import Row, Running, count
from halu.search import Choice, Remarks, Search
from halu.strategy import Branch, Plan, Step
from halu.task import Task
from halu.transcript import Transcript
from halu.types import Answer, Event, Request, Usage


@dataclass(slots=True, eq=False, repr=False)
class Job:
    """One request: the plan, the search, what has been said so far, and how it ended.

    Attributes:
        rows: its rows of the shared cache [hypothesis][branch]; none before it is planned.
        seen: the tokens of each hypothesis.
        choices: how they go on.
        wanted: what is to be read for it next: asides, or itself.
        asides: what its plan or search waits for.
        event: what there is to tell since the last step.
        answer: once it is done.
        error: what its own planning, rule, search, policies or text raised; it is over then.
    """

    adapter: Adapter
    request: Request
    chosen: Chosen = field(init=False)
    plan: Plan = field(init=False)
    search: Search = field(init=False)
    said: Transcript = field(init=False)
    contexts: Sequence[RequestContext] = ()
    rows: list[list[Row]] = field(default_factory=list)
    seen: list[list[int]] = field(default_factory=lambda: [[]])
    choices: list[Choice] = field(default_factory=list)
    wanted: Sequence[Running] = ()
    asides: Sequence[Aside] = ()
    task: Task | None = None
    forwards: int = 0
    event: Event | None = None
    answer: Answer | None = None
    error: Exception | None = None

    @property
    def planned(self) -> bool:
        """Whether the plan is made."""
        return bool(self.rows)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The plan's branches, the main one first."""
        return (self.plan.main, *self.plan.extra)

    @property
    def prompts(self) -> list[Prompt]:
        """The branches' prompts."""
        return [branch.prompt for branch in self.branches]

    @property
    def passing(self) -> bool:
        """Never."""
        return False

    @property
    def over(self) -> bool:
        """Whether it has an answer, or none to expect."""
        return self.answer is not None or self.error is not None

    @property
    def width(self) -> int:
        """The most rows of the cache that it may come to have: branches times hypotheses. While it
        is being planned, the one row of what it asks for.
        """
        return len(self.branches) * self.search.most if self.planned else 1

    def start(self) -> None:
        """Plans, until that waits for something or is done."""
        self._attempt(self._plan)

    def advance(self, scores: Tensor) -> None:
        """One step from the newest rows of scores [n, V]; a search that asks may wait in it."""
        if self.search.asks:
            self._attempt(partial(self._choose, scores))
            return
        try:
            self._choose(scores)
        except Exception as error:
            self.error = error

    def go_on(self) -> None:
        """Goes on with what waits for asides, once they are over."""
        if self.task is None or not all(aside.over for aside in self.asides):
            return
        try:
            self.task.go()
        except Exception as error:
            self.error = error
        if self.task.over:
            self.task, self.asides = None, ()

    def take(self) -> Sequence[Running]:
        """What is to be read now."""
        wanted, self.wanted = self.wanted, ()
        return wanted

    def fail(self, error: Exception) -> None:
        """It is over."""
        self.error = error

    def fed(self) -> None:
        """One key more in each row."""
        for branches in self.rows:
            for row in branches:
                row.length, row.position = row.length + 1, row.position + 1
        self.forwards += count(self)

    def news(self) -> Event | Exception | None:
        """What there is to tell since the last time."""
        event, self.event = self.event, None
        if self.error is not None:
            return self.error
        told = event is not None and bool(event.text or event.tokens or event.answer)
        return event if told else None

    def close(self) -> None:
        """Gives up what waits."""
        if self.task is not None:
            self.task.close()
            self.task = None

    def _attempt(self, call: Callable[[], None]) -> None:
        self.task = Task(call)
        self.go_on()

    def _ask(self, asides: Sequence[Aside]) -> None:
        """Has asides run by the loop. A search may only have prompts read so: its own rows cannot
        stand still while a text is said, so that runs alone.
        """
        if self.planned and not all(aside.passing for aside in asides):
            alone(self.adapter, asides)
            return
        assert self.task is not None
        self.asides = asides
        self.wanted = asides
        self.task.wait()

    def _plan(self) -> None:
        request = self.request
        self.chosen = choose(request)
        self.plan, self.contexts = self.chosen.plan(self.adapter, request, ask=self._ask)
        if not self.plan.search.streams and (
            request.evidence != "none" or request.sampling.logprobs is not None
        ):
            raise Unsupported(
                f"The search of {self.chosen.resolved.name!r} may take tokens back, so that it has"
                " no evidence or logprobs for each.",
                param="strategy",
                code="no_evidence",
            )
        ends, ids = self.adapter.ends, self.plan.main.prompt.ids
        self.search = self.plan.search.start(request.sampling, ends, ids)
        self.said = Transcript(self.adapter.tokenizer, request, ends)
        self.rows = [[_first(self.plan, branch, request) for branch in self.branches]]
        self.forwards = count(self)
        self.wanted = (self,)

    def _choose(self, scores: Tensor) -> None:
        for branches in self.rows:
            for row in branches:
                row.check()
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
        self.choices = self.search.advance(
            ruled, self.seen, [steering.policies for steering in main]
        )
        if self.search.streams:
            rows = (steps[0].main, ruled[0])
            self.said.say(self.choices[0].token, rows=rows, trace=main[0].trace)
        lengths = [len(ids) for ids in self.seen]
        self.seen = [[*self.seen[c.parent][: c.keep], c.token] for c in self.choices]
        self.event = self._event()
        self.rows = _continued(self.rows, self.choices, lengths)

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
            findings=self.search.findings if isinstance(self.search, Remarks) else (),
        )
        return self.said.last(self.answer)


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
