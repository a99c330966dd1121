"""Runs a model's language part over rows of a cache, and its vision tower once for each picture.

Nothing on the model changes during a request: positions, masks and steering are arguments.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from halu.adapters.cache import RowCache
from halu.adapters.replay import Capture, Replays
from halu.adapters.sharing import WORTH, Reading, reading
from halu.adapters.small_batch import ROWS, FewRows
from halu.adapters.static_cache import StaticCache
from halu.adapters.vision import Features, Look, Vision
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.prompt import Prompt
from halu.strategy import Tap
from halu.tally import Tally

Shown = tuple[Prompt, Features | None]
"""A prompt with its picture rows."""


class Runner:
    """The language model of an adapter.

    Args:
        model: the transformers model.
        look: its vision tower.
        axes: rotary positions of a token, 1 or 3.

    Attributes:
        tally: tokens of prompts that were read, and those taken over from a prompt read with them.
    """

    def __init__(self, model: Any, look: Look, axes: int) -> None:
        self.model = model
        self.text = model.model.language_model
        self.device: torch.device = model.device
        self.vision = Vision(look, self.device)
        self.worth = WORTH
        self.tally = Tally()
        self.replays: Replays | None = None
        self._axes = axes
        layers = self.text.layers
        self._hooks = [
            layer.register_forward_pre_hook(_reader(index), with_kwargs=True)
            for index, layer in enumerate(layers)
        ]
        self._hooks.append(layers[-1].register_forward_hook(_last(len(layers)), with_kwargs=True))

    def record(self, capture: Capture) -> None:
        """From now on decoding steps are recorded and repeated where that is possible; caches made
        afterwards stay in place.
        """
        self.replays = Replays(self._fixed, self.device, capture)

    def new_cache(self) -> RowCache:
        """An empty cache for this model."""
        layers = len(self.text.layers)
        return RowCache(layers) if self.replays is None else StaticCache(layers)

    def rest(self, cache: RowCache) -> None:
        """No row of this cache runs any more: what was recorded of them is dropped."""
        if self.replays is not None:
            self.replays.forget((), cache)

    def release(self) -> None:
        """Takes the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def features(self, prompt: Prompt) -> Features | None:
        """The prompt's picture rows, none without a picture."""
        return self.vision.features([prompt])[0]

    @torch.inference_mode()
    def read(
        self,
        prompts: Sequence[Prompt],
        steered: Sequence[Steered],
        cache: RowCache,
        seen: Sequence[Features | None] | None = None,
    ) -> Tensor:
        """Runs prompts into new rows of the cache, in one forward, or in two where beginnings are
        shared; their last rows of scores [n, V] in float32. `seen` are the prompts' picture rows,
        where the caller has them.
        """
        seen = self.vision.features(prompts) if seen is None else seen
        shown = list(zip(prompts, seen, strict=True))
        first, plan = cache.rows, reading(prompts, steered, self.worth)
        self.tally.add(sum(len(prompt.ids) for prompt in prompts), sum(plan.starts))
        cache.add(len(prompts))
        scores = [self._read(shown, steered, cache, first, plan.whole)]
        if plan.rest:
            scores.append(self._read(shown, steered, cache, first, plan.rest, plan))
        order = torch.tensor([*plan.whole, *plan.rest]).argsort()
        return torch.cat(scores)[order.to(self.device)] if plan.rest else scores[0]

    def _read(
        self,
        prompts: Sequence[Shown],
        steered: Sequence[Steered],
        cache: RowCache,
        first: int,
        chosen: Sequence[int],
        plan: Reading | None = None,
    ) -> Tensor:
        """Reads some of the prompts; under a plan what each has not in common with its source."""
        some = [prompts[index] for index in chosen]
        starts = [0] * len(some) if plan is None else list(plan.starts)
        lengths = [len(p.ids) - start for (p, _), start in zip(some, starts, strict=True)]
        longest, rows, mask = max(lengths), [first + index for index in chosen], None
        if plan is None:
            cache.fill_prompts(rows, longest)
        else:
            cache.fill_rests(rows, [first + index for index in plan.sources], starts, longest)
            mask = _after(starts, longest).to(self.device)
        embeds, extra = self._embedded(some, starts, longest)
        positions = _stack(
            [p.positions[..., start:] for (p, _), start in zip(some, starts, strict=True)], longest
        )
        steering = Steering([steered[index] for index in chosen], lengths, prefill=True)
        hidden = self._forward(embeds, positions, mask, cache, steering, **extra)
        last = torch.tensor(lengths, device=self.device) - 1
        return self._scores(hidden[torch.arange(len(some), device=self.device), last])

    @torch.inference_mode()
    def step(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        positions: Sequence[int],
        steered: Sequence[Steered],
        cache: RowCache,
    ) -> Tensor:
        """One more token on every row of the cache, in one forward; rows of scores [n, V] in
        float32.
        """
        if isinstance(cache, StaticCache) and self.replays is not None:
            found = self.replays.step(tokens, lengths, positions, steered, cache)
            if found is not None:
                return found
        ids = torch.tensor(tokens, device=self.device)[:, None]
        cache.fill_tokens(lengths)
        seen = [length + 1 for length in lengths]
        mask = None
        if len(set(seen)) > 1:
            keys = torch.arange(max(seen), device=self.device)
            mask = (keys < torch.tensor(seen, device=self.device)[:, None])[
                :, None, None
            ]  # [n, 1, 1, K]
        place = torch.tensor(positions, device=self.device)[:, None]
        place = place if self._axes == 1 else place.expand(self._axes, -1, -1)
        embeds = self.text.get_input_embeddings()(ids)
        steering = Steering(steered, seen, prefill=False)
        with FewRows() if ids.device.type == "cpu" and len(tokens) in ROWS else nullcontext():
            hidden = self._forward(embeds, place, mask, cache, steering)
            return self._scores(hidden)[:, 0]

    def _fixed(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: RowCache, steering: Steering
    ) -> Tensor:
        """One token a row from memory on the device; nothing depends on values on the host."""
        place = positions[:, None]
        place = place if self._axes == 1 else place.expand(self._axes, -1, -1)
        embeds = self.text.get_input_embeddings()(tokens[:, None])
        return self._scores(self._forward(embeds, place, mask, cache, steering))[:, 0]

    def _embedded(
        self, prompts: Sequence[Shown], starts: Sequence[int], longest: int
    ) -> tuple[Tensor, dict[str, Any]]:
        """Prompts from their starts on as rows of embeddings, padded on the right, with the
        pictures' rows in place; and what the first layers are to add.
        """
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        deep: list[tuple[Tensor, ...]] = []
        rows: list[Tensor] = []
        for row, ((prompt, features), start) in enumerate(zip(prompts, starts, strict=True)):
            length = len(prompt.ids) - start
            ids[row, :length] = torch.tensor(prompt.ids[start:])
            if features is not None:
                image = torch.from_numpy(prompt.layout.is_image())
                mask[row, :length] = image[start:]
                before = int(image[:start].sum())
                rows.append(features.tokens[before:])
                deep.append(tuple(part[before:] for part in features.deep))
        embeds = self.text.get_input_embeddings()(ids.to(self.device))
        mask = mask.to(self.device)
        if rows:
            embeds[mask] = torch.cat(rows).to(embeds.dtype)
        if not any(deep):
            return embeds, {}
        layers = [torch.cat(parts) for parts in zip(*deep, strict=True)]
        return embeds, {"visual_pos_masks": mask, "deepstack_visual_embeds": layers}

    def _forward(
        self,
        embeds: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: RowCache,
        steering: Steering,
        **extra: Any,
    ) -> Tensor:
        out = self.text(
            inputs_embeds=embeds,
            position_ids=positions.to(self.device),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            halu=steering,
            **extra,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    @torch.inference_mode()
    def early(self, tapped: Mapping[int, Tensor], taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        """Rows of scores [V] in float32 that the output head makes of residual streams [D]."""
        if not taps:
            return {}
        hidden = torch.stack([tapped[tap.layer] for tap in taps])
        normed = torch.tensor([tap.normed for tap in taps], device=hidden.device)[:, None]
        rows = self._scores(torch.where(normed, self.text.norm(hidden), hidden))
        return dict(zip(taps, rows, strict=True))

    def _scores(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.model.lm_head(hidden).float()
        return scores


def _stack(positions: Sequence[Tensor], longest: int) -> Tensor:
    """Positions [n, T] or [3, n, T], padded on the right."""
    padded = [torch.nn.functional.pad(p, (0, longest - p.shape[-1])) for p in positions]
    return torch.stack(padded, dim=-2)


def _after(starts: Sequence[int], longest: int) -> Tensor:
    """Which keys the queries see that follow so many others [n, 1, Q, K]."""
    keys = torch.arange(max(starts) + longest)
    last = torch.tensor(starts)[:, None] + torch.arange(longest)
    return (keys <= last[..., None])[:, None]


def _reader(layer: int) -> Callable[..., Any]:
    """A pre-hook that shows a layer's input to the steering of this forward, if there is one, and
    hands the layer what the steering leaves of it.
    """

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        steering = kwargs.get("halu")
        if steering is None:
            return None
        if args:
            return (steering.read(layer, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": steering.read(layer, kwargs["hidden_states"])}

    return hook


def _last(layers: int) -> Callable[..., Any]:
    """The same for what the last layer hands to the final norm."""

    def hook(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        steering = kwargs.get("halu")
        return output if steering is None else steering.read(layers, output)

    return hook
