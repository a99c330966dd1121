"""From a request to what the engine is given: one engine request for each branch of its plan."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from halu.adapters import Adapter
from halu.adapters.adapter import check_pixels
from halu.adapters.vision import digest
from halu.batch import check_room
from halu.context import Ask
from halu.errors import BadImage, Unsupported
from halu.planning import Chosen, choose
from halu.prompt import Prompt
from halu.strategy import Branch, Plan
from halu.transcript import Transcript
from halu.types import Answer, Event, Request
from halu.vllm.asked import PIXELS, Asked, area
from halu.vllm.contexts import FrontContext, check_search


@dataclass(frozen=True, slots=True)
class Sent:
    """One branch on its way.

    Attributes:
        name: unique in the engine.
        prompt: what it runs on.
        asked: what it carries.
        salt: only branches with the same share keys and values; empty: with all that have none.
    """

    name: str
    prompt: Prompt
    asked: Asked
    salt: str


class Submission:
    """One request: its branches in the engine, and the answer that grows.

    Attributes:
        tokens: what has been drawn.
        forwards: how many forwards the engine has needed for that.

    Args:
        adapter: the model, without weights.
        request: the request.
        ask: how texts are said beside decoding.
        longest: most tokens of prompt and answer.

    Raises:
        HaluError: if it cannot be planned, or not here.
    """

    def __init__(self, adapter: Adapter, request: Request, ask: Ask, longest: int) -> None:
        _check(request)
        self.adapter = adapter
        self.request = request
        self.chosen: Chosen = choose(request)
        self.plan, self.contexts = self.chosen.plan(adapter, request, context=FrontContext, ask=ask)
        search = self.plan.search.start(request.sampling, adapter.ends, self.plan.main.prompt.ids)
        check_search(search)
        for branch in self.branches:
            _fits(branch, request, longest)
        self.said = Transcript(adapter.tokenizer, request, adapter.ends)
        self.tokens: list[int] = []
        self.forwards = 0
        self.answer: Answer | None = None

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The plan's branches, the main one first."""
        return (self.plan.main, *self.plan.extra)

    def sent(self, salt: str = "") -> list[Sent]:
        """Its branches under new names, the main one first; only those with the same salt share
        keys and values.
        """
        group = uuid.uuid4().hex
        return [_sent(self, branch, group, salt) for branch in self.branches]

    def hear(
        self, tokens: Sequence[int], ended: bool, likely: Sequence[Mapping[int, float]] = ()
    ) -> Event | None:
        """Takes tokens of the main branch, and log-probabilities if it asked for them; returns what
        there is to tell. Several tokens come at once where vLLM puts together what nobody was there
        to hear.
        """
        for token, own in zip_longest(tokens, likely[: len(tokens)]):
            self.said.say(token, likely=own)
            self.tokens.append(token)
            if token in self.adapter.ends or self.said.stopped:
                ended = True
                break  # whatever the engine has said beyond that is no part of the answer
        return self._last() if ended else self.said.news()

    def _last(self) -> Event:
        forwards = self.forwards + sum(ctx.forwards for ctx in self.contexts)
        layout = self.plan.main.prompt.layout
        self.answer = self.said.answer(layout, forwards, self.chosen.resolved)
        return self.said.last(self.answer)


def _sent(one: Submission, branch: Branch, group: str, salt: str) -> Sent:
    steers = _steers(one.plan, branch)
    asked = Asked(
        strategy=one.chosen.resolved.name,
        params=one.request.params,
        sampling=one.request.sampling,
        branch=branch.name,
        branches=tuple(each.name for each in one.branches),
        group=group if len(one.branches) > 1 else "",
        steers=steers,
        sizes=tuple(image.size for image in branch.prompt.images),
    )
    name = f"halu-{group}-{branch.name}"
    return Sent(name, branch.prompt, asked, name if steers else salt)


def _steers(plan: Plan, branch: Branch) -> bool:
    if not branch.prompt.layout.images:
        return False
    return bool(branch.policies or (branch.steered and plan.policies))


def _fits(branch: Branch, request: Request, longest: int) -> None:
    check_pixels(branch.prompt)
    pixels = area(image.size for image in branch.prompt.images)
    if pixels > PIXELS:
        raise BadImage(
            f"The pictures have {pixels:,} pixels together; in vLLM at most {PIXELS:,}.",
            code="image_too_large",
        )
    length, most = len(branch.prompt.ids), request.sampling.max_new_tokens
    check_room(length, most, longest, "The engine's is its max_model_len.")


def _check(request: Request) -> None:
    if request.evidence != "none":
        raise Unsupported("vLLM tells no evidence.", hint='Use backend="hf".', param="evidence")


def engine_input(processor: Any, adapter: Adapter, sent: Sent) -> dict[str, Any]:
    """The prompt as vLLM's engine takes it, its pixels as halu made them.

    Args:
        processor: vLLM's own, which knows how the pixels of several pictures lie.
        adapter: the model.
        sent: the branch.
    """
    from vllm.inputs.engine import mm_input, tokens_input
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    prompt, salt = sent.prompt, sent.salt or None
    spans = prompt.layout.images
    if not spans:
        plain: dict[str, Any] = tokens_input(list(prompt.ids), cache_salt=salt)
        return plain
    pixels = dict(prompt.pixels)
    config = processor._get_mm_fields_config(pixels, {})
    each = [digest(adapter.take(pixels, n, n + 1)) for n in range(len(spans))]
    places = [PlaceholderRange(offset=span.start, length=span.stop - span.start) for span in spans]
    found: dict[str, Any] = mm_input(
        list(prompt.ids),
        MultiModalKwargsItems.from_hf_inputs(pixels, config),
        {"image": each},
        {"image": places},
        cache_salt=salt,
    )
    return found
