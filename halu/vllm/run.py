"""One request in a vLLM engine, from its planning to its answer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from halu.aside import Aside
from halu.errors import Failed
from halu.planning import Chosen
from halu.prompt import Prompt
from halu.task import Task
from halu.types import Event, Request, Sampling
from halu.vllm.asked import Asked
from halu.vllm.part import INTERRUPTED
from halu.vllm.submission import Sent, Submission

if TYPE_CHECKING:
    from halu.vllm.model import InEngine

AGAIN = 8
"""How often a request is made anew whose memory vLLM gave to others."""


class Run:
    """One request. Its plan may have a text said first; it waits for that in a `Task`.

    Args:
        vlm: the model.
        request: the request.
        salt: only branches with the same share keys and values.

    Attributes:
        over: whether it has an answer, or none to expect.
    """

    def __init__(self, vlm: "InEngine", request: Request, salt: str) -> None:
        self.vlm = vlm
        self.request = request
        self.over = False
        self._salt = salt
        self._task: Task | None = Task(self._plan)
        self._one: Submission | None = None
        self._heard = False
        self._again = 0
        self._skip = 0
        self._spent = 0
        self._latest = 0
        self._names: list[str] = []

    @property
    def planned(self) -> bool:
        """Whether the engine has read its prompts."""
        return self._heard

    @property
    def one(self) -> Submission:
        """Its plan and what it has said, once it is planned."""
        assert self._one is not None
        return self._one

    @property
    def chosen(self) -> Chosen:
        """Its strategies."""
        return self.one.chosen

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Its branches' prompts."""
        return [branch.prompt for branch in self.one.branches]

    @property
    def width(self) -> int:
        """Its branches; while it is being planned, one."""
        return len(self.one.branches) if self._one is not None else 1

    def go_on(self) -> None:
        """Goes on with the plan, if that waits for something.

        Raises:
            HaluError: if the request cannot be planned.
        """
        if self._task is not None:
            self._task.go()
            if self._task.over:
                self._task = None

    def news(self) -> Iterator[Event]:
        """What there is to tell.

        Raises:
            HaluError: why it cannot go on.
        """
        if self._task is not None:
            return
        for found in self.vlm.take(self._names[0]):
            if str(found.stop_reason).startswith(INTERRUPTED) and self._again < AGAIN:
                self._again += 1
                self._leave()
                self._start()
                return
            ended = self.vlm.ended(found)
            self._heard = True
            self._latest = found.forwards or self._latest
            self.one.forwards = self._spent + self._latest
            self._check(list(found.token_ids)[: self._skip])
            new = list(found.token_ids)[self._skip :]
            told = [_values(each) for each in found.logprobs or ()][self._skip :]
            self._skip = max(0, self._skip - len(found.token_ids))
            event = self.one.hear(new, ended, told)
            if self.one.answer is not None:
                self.end()
            if event is not None and (event.text or event.tokens or event.answer):
                yield event
            if self.over:
                return

    def end(self) -> None:
        """Takes what still runs out of the engine."""
        self.over = True
        if self._task is not None:
            self._task.close()
            self._task = None
        self._leave()

    def _check(self, again: Sequence[int]) -> None:
        """What is said again after an interruption must be what was told."""
        start = len(self.one.tokens) - self._skip
        if list(again) != self.one.tokens[start : start + len(again)]:
            raise Failed(
                "The engine interrupted the answer and then answered differently.",
                hint="Ask again; with more memory for keys it is not interrupted.",
            )

    def _leave(self) -> None:
        self.vlm.drop(self._names)
        self._names = []

    def _plan(self) -> None:
        vlm = self.vlm
        self._one = Submission(vlm.adapter, self.request, self._say, vlm.context)
        self._start()

    def _start(self) -> None:
        """Gives the branches to the engine; what earlier ones have said already is passed over."""
        self._skip = len(self.one.tokens)
        self._spent, self._latest = self._spent + self._latest, 0
        sent = self.one.sent(self._salt)
        self._names = [each.name for each in sent]
        self.vlm.submit(sent, self.request.sampling)

    def _say(self, asides: Sequence[Aside]) -> None:
        """Texts said beside decoding, by plain requests of the same engine."""
        told = {f"halu-aside-{id(aside)}": aside for aside in asides}
        try:
            for name, aside in told.items():
                sampling = Sampling(max_new_tokens=aside.most)
                sent = Sent(name, aside.prompt, Asked(sampling=sampling), self._salt)
                self.vlm.submit([sent], sampling)
            for name, aside in told.items():
                self._listen(name, aside)
        finally:
            self.vlm.drop(list(told))

    def _listen(self, name: str, aside: Aside) -> None:
        ended = False
        while not ended:
            assert self._task is not None
            self._task.wait()
            for found in self.vlm.take(name):
                aside.tokens += found.token_ids
                ended |= self.vlm.ended(found)


def _values(logprobs: Mapping[int, Any]) -> dict[int, float]:
    """vLLM's log-probabilities of one token as numbers."""
    return {token: one.logprob for token, one in logprobs.items()}
