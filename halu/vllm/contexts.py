"""What strategies see while they plan for vLLM: once where the request comes in, to learn the
branches, and once beside the model, to learn rule, taps and policies.

Beside the model a branch's prompt is known as tokens and pixels only, as in `halu.enable`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from halu.adapters import Adapter
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.context import Ask, RequestContext
from halu.errors import Unsupported
from halu.planning import choose, steered
from halu.prompt import Prompt
from halu.search import Search
from halu.strategy import Branch, Plan, Said
from halu.types import Message, Request, Sampling, question
from halu.vllm.asked import Asked

Share = Callable[[AttentionPolicy], AttentionPolicy]
"""Makes of a policy of all heads one of those that are here."""


def all_heads(policy: AttentionPolicy) -> AttentionPolicy:
    """The policy itself: all heads are here."""
    return policy


class FrontContext(RequestContext):
    """Where the request comes in: prompts can be made, and texts said by plain decoding."""

    def prefill(self, branch: Branch, policies: Sequence[AttentionPolicy] = ()) -> Tensor:
        """Refused: rows of scores stay in the engine."""
        raise _refused("reads a prompt's scores before it knows its branches")

    def say(
        self,
        branch: Branch,
        max_new_tokens: int,
        policies: Sequence[AttentionPolicy] = (),
        each: Callable[[Tensor], None] | None = None,
    ) -> Said:
        """What the engine says to this prompt."""
        if policies or each is not None:
            raise _refused("watches the model while it says a text beside decoding")
        return super().say(branch, max_new_tokens)

    def after(self, branches: Sequence[Branch], tokens: Sequence[int]) -> Tensor:
        """Refused."""
        raise _refused("reads continuations beside decoding")

    def class_attention(self, prompt: Prompt, layers: Sequence[int]) -> Tensor:
        """Refused."""
        raise _tower()


class EngineContext(RequestContext):
    """Beside the model. While a strategy plans, nothing is run and no prompt is made: the branches
    came as requests of their own. When its policies are made (`making`), prompts may be read.
    """

    making = False
    share: Share

    def branch(self, name: str, **how: Any) -> Branch:
        """Its name, and how it is steered."""
        if self.making:
            return super().branch(name, **how)
        kept = {key: how[key] for key in ("steered", "policies", "messages") if key in how}
        return Branch(name, self.main.prompt, **kept)

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Another conversation's prompt, once policies are made."""
        return super().encode(messages) if self.making else self.main.prompt

    def say(
        self,
        branch: Branch,
        max_new_tokens: int,
        policies: Sequence[AttentionPolicy] = (),
        each: Callable[[Tensor], None] | None = None,
    ) -> Said:
        """Nothing: what was said is in the prompts already."""
        if self.making or policies or each is not None:
            raise _refused("has a text said while its policies are made")
        return Said((), "")

    def prefill(self, branch: Branch, policies: Sequence[AttentionPolicy] = ()) -> Tensor:
        """The branch's row [V], once policies are made."""
        if not self.making:
            raise _refused("reads a prompt's scores before it knows its branches")
        return super().prefill(branch, tuple(self.share(policy) for policy in policies))

    def after(self, branches: Sequence[Branch], tokens: Sequence[int]) -> Tensor:
        """Refused."""
        raise _refused("reads continuations beside decoding")

    def class_attention(self, prompt: Prompt, layers: Sequence[int]) -> Tensor:
        """Refused."""
        raise _tower()


def planned(
    adapter: Adapter, asked: Asked, prompt: Prompt, ask: Ask, share: Share = all_heads
) -> tuple[Plan, Callable[[], Steered], Sequence[RequestContext]]:
    """One engine request's plan, what makes its steering, and the contexts that count its forwards.

    Args:
        adapter: the model, without weights.
        asked: what the request carries.
        prompt: its prompt.
        ask: how prompts are read beside decoding.
        share: makes policies those of the heads that are here.

    Raises:
        HaluError: if it cannot be planned here.
    """
    if not asked.main and not prompt.layout.images:  # nothing acts where there is no picture
        return Plan(Branch(asked.branch, prompt)), lambda: Steered(prompt.layout), ()
    if len(asked.sizes) == len(prompt.images):  # only the tower's own size is known here
        pairs = zip(prompt.images, asked.sizes, strict=True)
        prompt = replace(prompt, images=tuple(image.resize(size) for image, size in pairs))
    request = Request(
        messages=question("", *prompt.images),
        strategy=asked.strategy,
        params=asked.params,
        sampling=asked.sampling or Sampling(),
    )
    chosen = choose(request)
    plan, contexts = chosen.plan(adapter, request, prompt=prompt, context=EngineContext, ask=ask)
    names = {branch.name: branch for branch in (plan.main, *plan.extra)}
    if tuple(names) != asked.branches:
        raise Unsupported(
            f"The plan has branches {', '.join(names)}, the request names"
            f" {', '.join(asked.branches)}.",
            param="strategy",
        )
    own = replace(names[asked.branch], prompt=prompt)
    taps = frozenset(tap.layer for tap in plan.taps if asked.main)

    def make() -> Steered:
        for context in contexts:
            assert isinstance(context, EngineContext)
            context.making, context.share = True, share
        policies = tuple(share(policy) for policy in steered(plan, own)())
        return Steered(prompt.layout, policies, None, taps)

    return plan, make, contexts


def check_search(search: Search) -> None:
    """Refuses what vLLM has no rows for.

    Raises:
        Unsupported: with the reason.
    """
    if search.most > 1 or search.goes_back or search.asks or not search.streams:
        raise _refused("follows several hypotheses or takes tokens back")


def _refused(does: str) -> Unsupported:
    return Unsupported(
        f"This strategy {does}; vLLM cannot do that.", hint='Use backend="hf".', param="strategy"
    )


def _tower() -> Unsupported:
    return _refused("asks what the vision tower attends to")
