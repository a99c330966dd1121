"""One engine request as the worker keeps it: its plan, its steering, what it drew from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from halu.adapters import Adapter
from halu.attention.steered import Steered
from halu.context import Ask
from halu.errors import HaluError
from halu.prompt import Prompt
from halu.search import Search
from halu.strategy import Plan
from halu.vllm.asked import Asked
from halu.vllm.contexts import check_search, planned

INTERRUPTED = "interrupted"
"""How a failure begins after which the same request may simply be made again."""


@dataclass(slots=True, eq=False)
class Part:
    """A branch of a request.

    Attributes:
        asked: what the request carries.
        length: tokens of its prompt.
        plan: the plan, as the branch knows it.
        steering: its policies and taps.
        search: how tokens are drawn; none: by vLLM.
        seen: how many tokens have gone through the model.
        failure: why it cannot go on.
    """

    asked: Asked
    length: int
    plan: Plan | None = None
    steering: Steered | None = None
    search: Search | None = None
    seen: int = 0
    failure: str | None = None
    make: Callable[[], Steered] | None = field(default=None, repr=False)

    @property
    def steers(self) -> bool:
        """Whether a policy acts on it."""
        return self.steering is not None and bool(self.steering.policies)

    def fail(self, error: Exception) -> None:
        """Keeps what went wrong, for whoever asked."""
        told = isinstance(error, HaluError)
        self.failure = self.failure or (str(error) if told else f"{type(error).__name__}: {error}")

    def scheduled(self, before: int, count: int) -> bool:
        """Takes note that `count` tokens are about to be read after `before` others.

        A policy must see the whole prompt at once, then every token once. What else vLLM may do (go
        on in the middle after a preemption) ends the request.

        Returns:
            Whether something acts on these rows.
        """
        if self.failure is not None or self.steering is None:
            return False
        if self.steers:
            whole, next_one = before == 0 and count == self.length, before == self.seen > 0
            if whole and self.seen:
                self._restart()
            if not whole and not (next_one and count == 1):
                self.failure = (
                    f"{INTERRUPTED}: a steered prompt was read in pieces, or its memory was given"
                    " to others."
                )
                return False
        self.seen = before + count
        return self.failure is None and (self.steers or bool(self.steering.taps))

    def told(self, row: Tensor) -> None:
        """Tells the policies the branch's row of scores [V]."""
        if self.steering is not None:
            self.steering.heard(row)
            if self.steering.failure is not None:
                self.fail(self.steering.failure)

    def _restart(self) -> None:
        assert self.make is not None
        try:
            self.steering = self.make()
        except Exception as error:
            self.fail(error)


def part(adapter: Adapter, asked: Asked, prompt: Prompt, ask: Ask) -> Part:
    """Plans one engine request. What goes wrong is its `failure`; nothing is raised.

    Args:
        adapter: the model, without weights.
        asked: what the request carries.
        prompt: its prompt.
        ask: how prompts are read beside decoding.
    """
    one = Part(asked, len(prompt.ids))
    try:
        one.plan, one.make = planned(adapter, asked, prompt, ask)
        one.steering = one.make()
        if one.steers and not asked.steers:
            one.failure = "This strategy changes keys and values; the request must say so (steers)."
        if asked.main and asked.sampling is not None:
            one.search = one.plan.search.start(asked.sampling, adapter.ends, prompt.ids)
            check_search(one.search)
    except Exception as error:
        one.fail(error)
    return one


def draw(one: Part, row: Tensor, seen: Sequence[int]) -> int | None:
    """The next token from the rule's row [V]; none if vLLM is to draw it."""
    if one.search is None:
        return None
    assert one.steering is not None
    choices = one.search.advance(row[None], [list(seen)], [one.steering.policies])
    return choices[0].token
