"""A strategy in somebody else's app: `halu.enable(model, processor, "var")`, then stock
`model.generate` as before.

The host's generation loop stays in charge and drives the main branch. Forward hooks bring the
attention policies into the call as an argument, run the other branches beside it and put the rule's
row in place of the last scores. Nothing of transformers is replaced; `disable` removes every trace.
"""

import inspect
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.adapter import check_pixels
from halu.adapters.cache import RowCache
from halu.adapters.loading import adapter_class
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.context import RequestContext
from halu.errors import BadInput, Unsupported
from halu.planning import Chosen, choose, steered
from halu.prompt import Prompt
from halu.search import Pick
from halu.strategy import Plan, Step
from halu.types import Message, Request, Sampling, question

_enabled: "weakref.WeakKeyDictionary[Any, weakref.ref[Hosted]]" = weakref.WeakKeyDictionary()


def enable(model: Any, processor: Any, strategy: str, *, seed: int = 0, **params: Any) -> None:
    """Switches a strategy on in a transformers model.

    Args:
        model: a model of a supported architecture; `generate`, pipelines and plain calls work
            unchanged.
        processor: its processor.
        strategy: registered name; parts joined with '+'.
        seed: seeds the strategy's random views.
        params: the strategy's parameters.

    Raises:
        HaluError: unknown name or parameter, unsupported architecture, or already enabled.
    """
    if model in _enabled:
        raise BadInput(
            "A strategy is already enabled on this model.", hint="Call halu.disable(model) first."
        )
    request = Request(
        messages=question(""), strategy=strategy, params=params, sampling=Sampling(seed=seed)
    )
    chosen, kind = choose(request), adapter_class(model.config.model_type)
    if not hasattr(processor, "tokenizer"):
        raise BadInput(
            f"{type(processor).__name__} is no processor of pictures and words.",
            hint="Load it with transformers.AutoProcessor.",
            param="processor",
        )
    adapter = kind(type(model).__name__, model, processor)
    # the model's own hooks hold it, so that a model that nobody holds is freed
    _enabled[model] = weakref.ref(Hosted(adapter, chosen, request))


def disable(model: Any) -> None:
    """Gives the model back as it was; does nothing if no strategy is enabled."""
    hosted = _enabled.pop(model, lambda: None)()
    if hosted is not None:
        hosted.remove()


class HostContext(RequestContext):
    """A context in which the conversation is known as tokens only."""

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """Refused: the host's conversation cannot be rewritten."""
        raise Unsupported(
            "This strategy rewrites the conversation.",
            hint="Use halu.load(...).ask instead of enable.",
        )


class Sequences:
    """The sequences of one running `generate`: a plan each, their steering, and the branches beside
    them.
    """

    def __init__(
        self, adapter: Adapter, chosen: Chosen, request: Request, inputs: Mapping[str, Any]
    ) -> None:
        self.adapter = adapter
        self.prompts = adapter.prompts(inputs)
        self.plans = [self._plan(chosen, request, prompt) for prompt in self.prompts]
        self.main = [
            Steered(
                prompt.layout,
                steered(plan, plan.main)(),
                taps=frozenset(tap.layer for tap in plan.taps),
            )
            for prompt, plan in zip(self.prompts, self.plans, strict=True)
        ]
        self.lengths = [len(prompt.ids) for prompt in self.prompts]
        self.pads = _left_padding(inputs)
        self.seen: list[list[int]] = [[] for _ in self.prompts]
        self.extra = [branch for plan in self.plans for branch in plan.extra]
        self.steering = [
            Steered(branch.prompt.layout, steered(plan, branch)())
            for plan in self.plans
            for branch in plan.extra
        ]
        self.cache = RowCache(adapter.facts.layers)
        self.scores: Tensor | None = None

    @property
    def keeps_order(self) -> bool:
        """Whether something here belongs to one sequence and would stay when sequences move."""
        policies = (policy for row in self.main for policy in row.policies)
        return bool(self.extra) or any(policy.carries for policy in policies)

    def start(self) -> None:
        """Runs the other branches' prompts."""
        if self.extra:
            for branch in self.extra:
                check_pixels(branch.prompt)
            self.scores = self.adapter.runner.read(
                [branch.prompt for branch in self.extra], self.steering, self.cache
            )

    def go_on(self, tokens: Sequence[int]) -> None:
        """Feeds the host's tokens to the other branches."""
        for seen, token in zip(self.seen, tokens, strict=True):
            seen.append(token)
        self.lengths = [length + 1 for length in self.lengths]
        if self.extra:
            done = len(self.seen[0]) - 1
            fed = [
                token for token, plan in zip(tokens, self.plans, strict=True) for _ in plan.extra
            ]
            lengths = [len(branch.prompt.ids) + done for branch in self.extra]
            positions = [branch.prompt.next_position + done for branch in self.extra]
            self.scores = self.adapter.runner.step(
                fed, lengths, positions, self.steering, self.cache
            )

    def rule(self, logits: Tensor) -> Tensor:
        """The rules' rows [B, V] for the host's last scores [B, V]."""
        rows, used = [], 0
        parts = zip(logits, self.plans, self.main, self.seen, strict=True)
        for row, plan, steering, seen in parts:
            steering.heard(row)
            named = {"main": row}
            for branch in plan.extra:
                assert self.scores is not None
                self.steering[used].heard(self.scores[used])
                _check(self.steering[used])
                named[branch.name] = self.scores[used]
                used += 1
            early = self.adapter.runner.early(steering.tapped, plan.taps)
            _check(steering)
            rows.append(plan.rule(Step(len(seen), named, seen, early)))
        return torch.stack(rows)

    def _plan(self, chosen: Chosen, request: Request, prompt: Prompt) -> Plan:
        own = request.model_copy(update={"messages": question("", *prompt.images)})
        plan, _ = chosen.plan(self.adapter, own, prompt=prompt, context=HostContext)
        control = [part.name for part in chosen.parts if part.kind == "control"]
        if control:
            raise Unsupported(
                f"Strategy {control[0]!r} controls the loop, which is generate's here.",
                hint="Use halu.load(...).ask instead of enable.",
                param="strategy",
            )
        if type(plan.search) is not Pick:
            raise Unsupported(
                "Sampling and beams are generate's own options here.", param="strategy"
            )
        return plan


class Hosted:
    """The hooks on one model."""

    def __init__(self, adapter: Adapter, chosen: Chosen, request: Request) -> None:
        self.adapter = adapter
        self.chosen = chosen
        self.request = request
        self.running: Sequences | None = None
        self._last_key: Tensor | None = None
        model = adapter.model
        self._names = tuple(inspect.signature(model.forward).parameters)
        self._pixels: dict[str, Tensor] = {}
        self._hooks = [
            adapter.tower.register_forward_pre_hook(self._picture, with_kwargs=True),
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Removes the hooks and restores the attention implementation."""
        for hook in self._hooks:
            hook.remove()
        self.adapter.release()

    def _picture(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """`generate` runs the tower before the model and keeps the pixels from it; they are caught
        on the way.
        """
        self._pixels = self.adapter.entering(args, kwargs)

    def _before(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs, args = {**dict(zip(self._names, args, strict=False)), **kwargs}, ()
        if kwargs.get("input_ids") is None:
            raise Unsupported(
                "halu.enable needs input_ids; embeddings do not say where the pictures are."
            )
        past = kwargs.get("past_key_values")
        if past is None or int(past.get_seq_length()) == 0:
            self.running = Sequences(
                self.adapter, self.chosen, self.request, {**self._pixels, **kwargs}
            )
            self.running.start()
            self._pixels, self._last_key = {}, None
            steering = Steering(
                self.running.main, self.running.lengths, prefill=True, pads=self.running.pads
            )
        else:
            running = self._continued(kwargs, past)
            steering = Steering(running.main, running.lengths, prefill=False, pads=running.pads)
        return args, {**kwargs, "halu": steering}

    def _continued(self, kwargs: Mapping[str, Any], past: Any) -> Sequences:
        ids = kwargs["input_ids"]
        if self.running is None or ids.shape != (len(self.running.prompts), 1):
            raise Unsupported(
                "Only whole prompts and single tokens can be followed (no assisted decoding)."
            )
        last = self._last_key
        if last is not None and not torch.equal(self._newest_key(past), last):
            raise Unsupported(
                "Beam search reorders sequences; the other branches cannot follow it in generate,"
                " nor can what a policy learns from tokens.",
                hint="Use halu.load(...).ask with 'beam+...'.",
            )
        self.running.go_on(ids[:, 0].tolist())
        return self.running

    def _after(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        assert self.running is not None
        self._pixels = {}  # of a plain call, whose tower runs inside it
        logits = output.logits.to(torch.float32, copy=True)  # as generate itself will read them
        logits[:, -1] = self.running.rule(logits[:, -1])
        output.logits = logits
        past = output.past_key_values
        if past is not None and self.running.keeps_order:
            self._last_key = self._newest_key(past).clone()
        return output

    def _newest_key(self, past: Any) -> Tensor:
        assert self.running is not None
        slots = [
            pad + length - 1
            for pad, length in zip(self.running.pads, self.running.lengths, strict=True)
        ]
        keys: Tensor = past.layers[-1].keys
        return keys[torch.arange(len(slots)), :, slots]


def _check(steering: Steered) -> None:
    """Raises what a policy raised during the forward."""
    if steering.failure is not None:
        raise steering.failure


def _left_padding(inputs: Mapping[str, Any]) -> list[int]:
    mask = inputs.get("attention_mask")
    if mask is None:
        return [0] * inputs["input_ids"].shape[0]
    first: list[int] = mask.int().argmax(-1).tolist()
    return first
