"""Runs a model's language part over rows of a cache, and its vision tower once for each picture.

Nothing on the model changes during a request: positions, masks and steering are arguments.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halu.adapters.cache import RowCache
from halu.adapters.small_batch import ROWS, FewRows
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.errors import Failed
from halu.prompt import Prompt
from halu.strategy import Tap

FEATURES_KEPT = 32
"""Pictures whose features are kept, least recently used out first."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower says of one prompt's pictures.

    Attributes:
        tokens: one row for each image token, all pictures in order [N, hidden].
        deep: rows added to the image tokens after the first layers (Qwen3-VL's DeepStack), [N,
            hidden] each.
    """

    tokens: Tensor
    deep: tuple[Tensor, ...] = ()


Look = Callable[[Mapping[str, Tensor]], Features]
"""A family's vision tower: pixels to features."""


class Runner:
    """The language model of an adapter.

    Args:
        model: the transformers model.
        look: its vision tower.
        axes: rotary positions of a token, 1 or 3.
    """

    def __init__(self, model: Any, look: Look, axes: int) -> None:
        self.model = model
        self.text = model.model.language_model
        self.device: torch.device = model.device
        self._look = look
        self._axes = axes
        self._features: OrderedDict[str, Features] = OrderedDict()
        self._lock = threading.Lock()
        layers = self.text.layers
        self._hooks = [
            layer.register_forward_pre_hook(_reader(index), with_kwargs=True)
            for index, layer in enumerate(layers)
        ]
        self._hooks.append(layers[-1].register_forward_hook(_last(len(layers)), with_kwargs=True))

    def release(self) -> None:
        """Takes the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def features(self, prompt: Prompt) -> Features | None:
        """The prompt's picture rows; each distinct picture goes through the vision tower once."""
        if not prompt.layout.images:
            return None
        key = _digest(prompt.pixels)
        with self._lock:
            found = self._features.pop(key, None)
        if found is None:
            on_device = {k: v.to(self.device) for k, v in prompt.pixels.items()}
            found = self._look(on_device)
            if found.tokens.shape[0] != prompt.layout.image_tokens:
                raise Failed(
                    f"The vision tower gave {found.tokens.shape[0]} rows"
                    f" for {prompt.layout.image_tokens} image tokens."
                )
        with self._lock:
            self._features[key] = found
            while len(self._features) > FEATURES_KEPT:
                self._features.popitem(last=False)
        return found

    @torch.inference_mode()
    def read(
        self, prompts: Sequence[Prompt], steered: Sequence[Steered], cache: RowCache
    ) -> Tensor:
        """Runs prompts into new rows of the cache, all in one forward; their last rows of scores
        [n, V] in float32.
        """
        lengths = [len(p.ids) for p in prompts]
        embeds, extra = self._embedded(prompts, max(lengths))
        cache.fill_prompts(len(prompts), max(lengths))
        positions = _stack([p.positions for p in prompts], max(lengths))
        steering = Steering(steered, lengths, prefill=True)
        hidden = self._forward(embeds, positions, None, cache, steering, **extra)
        last = torch.tensor(lengths, device=self.device) - 1
        return self._scores(hidden[torch.arange(len(prompts), device=self.device), last])

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
        ids = torch.tensor(tokens, device=self.device)[:, None]
        cache.fill_tokens(list(lengths), self.device)
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

    def _embedded(self, prompts: Sequence[Prompt], longest: int) -> tuple[Tensor, dict[str, Any]]:
        """Prompts as rows of embeddings, padded on the right, with the pictures' rows in place; and
        what the first layers are to add.
        """
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        embeds = self.text.get_input_embeddings()(ids.to(self.device))
        mask = torch.zeros(ids.shape, dtype=torch.bool, device=self.device)
        deep: list[tuple[Tensor, ...]] = []
        for row, prompt in enumerate(prompts):
            features = self.features(prompt)
            if features is not None:
                mine = torch.from_numpy(prompt.layout.is_image()).to(self.device)
                mask[row, : len(mine)] = mine
                embeds[row, mask[row]] = features.tokens.to(embeds.dtype)
                deep.append(features.deep)
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


def _digest(pixels: Mapping[str, Tensor]) -> str:
    """Full hash of the pixels with their shapes: two pictures never share features."""
    digest = hashlib.sha256()
    for key in sorted(pixels):
        value = pixels[key].contiguous().cpu()
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
