"""One request on its way: from planning through its search to its answer.

A job knows its own rows and nothing of other jobs; `halu.decode` runs all of them in one forward.
Its plan, and a search that `asks`, may want prompts run beside decoding: they wait in a `Task`
until the loop has run those together with everything else. What goes wrong is kept in `error`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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
from halu.running import Row, Running, chosen_rows, count
from halu.search import Choice, Pick, Remarks, Search
from halu.strategy import Branch, Plan, Step
from halu.task import Task
from halu.transcript import Transcript
from halu.types import Answer, Event, Request


@dataclass(slots=True, eq=False, repr=False)
class Job:
    """One request: the plan, the search, what has been said so far, and how it ended.

    Attributes:
        rows: its rows of the shared cache [hypothesis][branch]; none before it is planned.
        seen: the tokens of each hypothesis.
        main: the main branch's newest row [V], of the first hypothesis.
        ruled: what the rule made of the newest rows [N, V], one for each hypothesis.
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
    main: Tensor = field(init=False)
    ruled: Tensor = field(init=False)
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

    def ask(self, scores: Tensor) -> Tensor:
        """Has the rule make its rows of the newest rows of scores [n, V]. A plain pick's token and
        what is told of it are numbers to be fetched; other searches look at the rows themselves.
        """
        try:
            self._rule(scores)
            if type(self.search) is Pick and self.search.streams:
                token = self.search.token(self.ruled[0], self.seen[0])
                return self.said.numbers(token, self.ruled[0])
        except Exception as error:
            self.error = error
        return scores.new_empty(0)

    def choose(self, known: Sequence[float]) -> None:
        """One step; a search that asks may wait in it."""
        if self.error is not None:
            return
        if self.search.asks:
            self._attempt(self._search)
            return
        try:
            if known:
                token, likely = self.said.likely(known)
                self._go([Choice(0, token)], likely)
            else:
                self._search()
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

    def _rule(self, scores: Tensor) -> None:
        """Has the rule make its rows of the branches' rows of scores [n, V]."""
        for branches in self.rows:
            for row in branches:
                row.check()
        names = [branch.name for branch in self.branches]
        by_hypothesis = scores.reshape(len(self.rows), len(names), -1)
        early = self.adapter.runner.early
        steps = [
            Step(
                len(seen),
                dict(zip(names, rows, strict=True)),
                seen,
                early(branches[0].steering.tapped, self.plan.taps),
            )
            for rows, seen, branches in zip(by_hypothesis, self.seen, self.rows, strict=True)
        ]
        self.main, self.ruled = steps[0].main, torch.stack([self.plan.rule(one) for one in steps])

    def _search(self) -> None:
        """Has the search choose from the ruled rows."""
        policies = [branches[0].steering.policies for branches in self.rows]
        choices = self.search.advance(self.ruled, self.seen, policies)
        likely = None
        if self.search.streams:
            token = torch.tensor(choices[0].token, device=self.ruled.device)
            _, likely = self.said.likely(self.said.numbers(token, self.ruled[0]).tolist())
        self._go(choices, likely)

    def _go(self, choices: list[Choice], likely: Mapping[int, float] | None) -> None:
        """Goes on with these choices; `likely` is told of the first where the search streams."""
        self.choices = choices
        if self.search.streams:
            rows, trace = (self.main, self.ruled[0]), self.rows[0][0].steering.trace
            self.said.say(choices[0].token, rows=rows, trace=trace, likely=likely)
        lengths = [len(ids) for ids in self.seen]
        self.seen = [[*self.seen[c.parent][: c.keep], c.token] for c in choices]
        self.event = self._event()
        self.rows = chosen_rows(self.rows, choices, lengths)

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
        self.answer = self.said.answer(
            self.plan.main.prompt.layout,
            self.forwards + sum(ctx.forwards for ctx in self.contexts),
            self.chosen.resolved,
            self.search.findings if isinstance(self.search, Remarks) else (),
        )
        return self.said.last(self.answer)


def _first(plan: Plan, branch: Branch, request: Request) -> Row:
    """A branch's row as its prompt leaves it."""
    prompt, is_main = branch.prompt, branch is plan.main
    trace = Trace(prompt.layout) if is_main and request.evidence != "none" else None
    taps = frozenset(tap.layer for tap in plan.taps if is_main)
    steering = Steered(prompt.layout, steered(plan, branch)(), trace, taps)
    return Row(steering, len(prompt.ids), prompt.next_position)
