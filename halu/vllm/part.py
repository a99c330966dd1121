"""One engine request as the worker keeps it: its plan, its steering, what it drew from."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.attention.steered import Steered
from halu.context import Ask, RequestContext
from halu.errors import Failed, HaluError
from halu.prompt import Prompt
from halu.search import Pick, Search
from halu.strategy import Plan
from halu.vllm.asked import Asked
from halu.vllm.contexts import Share, check_search, planned

INTERRUPTED = "interrupted"
"""How a failure begins after which the same request may simply be made again."""
FAILED = "The strategy failed in the engine, whose log says why."
"""The failure that is not the request's fault."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Part:
    """A branch of a request.

    Attributes:
        asked: what the request carries.
        length: tokens of its prompt.
        logprobs: how many log-probabilities are to be told beside each token's own; none: not even
            that.
        plan: the plan, as the branch knows it.
        steering: its policies and taps.
        search: how tokens are drawn; none: by vLLM.
        seen: how many tokens have gone through the model.
        tokens: those that count.
        forwards: how many forwards it was part of.
        contexts: of its plan; they count what was read beside decoding.
        failure: why it cannot go on.
    """

    asked: Asked
    length: int
    logprobs: int | None = None
    plan: Plan | None = None
    steering: Steered | None = None
    search: Search | None = None
    seen: int = 0
    tokens: list[int] = field(default_factory=list)
    forwards: int = 0
    contexts: Sequence[RequestContext] = ()
    failure: str | None = None
    make: Callable[[], Steered] | None = field(default=None, repr=False)

    @property
    def steers(self) -> bool:
        """Whether a policy acts on it."""
        return self.steering is not None and bool(self.steering.policies)

    @property
    def cost(self) -> int:
        """Forwards that it took so far."""
        return self.forwards + sum(context.forwards for context in self.contexts)

    def fail(self, error: Exception) -> None:
        """Keeps what went wrong, for whoever asked; what no HaluError says is for the log alone."""
        mistake = isinstance(error, HaluError) and error.status != Failed.status
        if not mistake:
            _log.error("Strategy %r failed.", self.asked.strategy, exc_info=error)
        self.failure = self.failure or (str(error) if mistake else FAILED)

    def scheduled(self, before: int, count: int) -> bool:
        """Takes note that `count` tokens are about to be read after `before` others.

        A policy must be shown every token once, the prompt at once unless it takes pieces. What
        else vLLM may do (read tokens that counted anew, after a preemption) ends the request.

        Returns:
            Whether something acts on these rows.
        """
        self.forwards += 1
        if self.failure is not None or self.steering is None:
            return False
        if self.steers:
            if before == 0 and self.seen:
                self._restart()
            if self.failure is None and not self._follows(before, count):
                self.failure = (
                    f"{INTERRUPTED}: a steered prompt was read in pieces, or its memory was given"
                    " to others."
                )
        self.seen = before + count
        return self.failure is None and (self.steers or bool(self.steering.taps))

    def again(self) -> int:
        """The newest row does not count. How many tokens are to be read again: one, unless a policy
        would be shown it twice; then all.
        """
        steering = self.steering
        once = not self.steers or (steering is not None and steering.pieces and steering.settled)
        if once:
            self.seen -= 1
        return 1 if once else self.seen

    def told(self, row: Tensor) -> None:
        """Tells the policies the branch's row of scores [V]."""
        if self.steering is not None:
            if self.steering.policies:
                self.steering.heard(row.float())
            if self.steering.failure is not None:
                self.fail(self.steering.failure)

    def _follows(self, before: int, count: int) -> bool:
        """Whether the policies may be shown these tokens."""
        assert self.steering is not None
        if before + count > self.length:  # a generated token
            return before == self.seen and count == 1
        return before == self.seen and (count == self.length or self.steering.pieces)

    def _restart(self) -> None:
        assert self.make is not None
        self.seen = 0
        if self.tokens:  # their policies have learnt from them
            self.failure = f"{INTERRUPTED}: its memory was given to others."
            return
        try:
            self.steering = self.make()
        except Exception as error:
            self.fail(error)


def part(adapter: Adapter, one: Part, prompt: Prompt, ask: Ask, share: Share, longest: int) -> Part:
    """Plans one engine request. What goes wrong is its `failure`; nothing is raised.

    Args:
        adapter: the model, without weights.
        one: the request.
        prompt: its prompt.
        ask: how prompts are read beside decoding.
        share: makes policies those of the heads that are here.
        longest: most tokens that are read at once.
    """
    asked = one.asked
    try:
        one.plan, one.make, one.contexts = planned(adapter, asked, prompt, ask, share)
        one.steering = one.make()
        if one.steers and not asked.steers:
            one.failure = "This strategy changes keys and values; the request must say so (steers)."
        if one.steers and one.length > longest and not one.steering.pieces:
            one.failure = (
                f"This strategy must see a prompt at once; one of {one.length} tokens needs"
                f" --max-num-batched-tokens {one.length}."
            )
        if asked.main and asked.sampling is not None:
            one.search = one.plan.search.start(asked.sampling, adapter.ends, prompt.ids)
            check_search(one.search)
    except Exception as error:
        one.fail(error)
    return one


def draw(one: Part, row: Tensor) -> Tensor | None:
    """The next token [] from the rule's row [V], left on its device; none if vLLM is to draw it.

    Raises:
        Failed: if the search gives no token of the vocabulary.
    """
    if one.search is None:
        return None
    if type(one.search) is Pick:
        return one.search.token(row, one.tokens)
    assert one.steering is not None
    choices = one.search.advance(row[None], [list(one.tokens)], [one.steering.policies])
    token = int(choices[0].token)
    if not 0 <= token < len(row):
        raise Failed(f"The search chose token {token} of {len(row)}.")
    return torch.tensor(token, device=row.device)
