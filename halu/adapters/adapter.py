"""What halu needs of a model family: encode a conversation, look at its pictures, run the language
model.

An adapter never changes the model during a request: positions, masks and steering are arguments.
Image places come from the token ids, and their count is checked against the feature rows.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from halu.adapters.attention import NAME, register
from halu.adapters.cache import RowCache
from halu.adapters.small_batch import ROWS, FewRows
from halu.attention.steering import Steered, Steering
from halu.errors import BadInput, Failed, Unsupported
from halu.layout import Grid, ImageSpan, Layout
from halu.prompt import Prompt
from halu.strategy import ModelFacts
from halu.types import Message, Picture, Text

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


class Adapter(ABC):
    """One loaded model of a family.

    Attributes:
        families: transformers' model types that it serves.
        pixel_keys: processor outputs that the vision tower takes.
        position_axes: rotary positions of a token, 1 or 3 (M-RoPE).

    Args:
        name: the name that the user gave.
        model: the transformers model, in evaluation mode.
        processor: its processor, chat template included.
    """

    families: ClassVar[tuple[str, ...]]
    pixel_keys: ClassVar[tuple[str, ...]]
    position_axes: ClassVar[int] = 1

    def __init__(self, name: str, model: Any, processor: Any) -> None:
        register()
        self._before = (
            model.config.text_config._attn_implementation,
            model.config.vision_config._attn_implementation,
        )
        model.set_attn_implementation({"text_config": NAME, "vision_config": "sdpa"})
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.text = model.model.language_model
        self.device: torch.device = model.device
        self.image_token: int = model.config.image_token_id
        text = model.config.text_config
        self.facts = ModelFacts(
            name,
            model.config.model_type,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.hidden_size,
        )
        self._features: OrderedDict[str, Features] = OrderedDict()
        self._hooks = [
            layer.register_forward_pre_hook(_reader(index), with_kwargs=True)
            for index, layer in enumerate(self.text.layers)
        ]

    def release(self) -> None:
        """Gives the model back as it was."""
        for hook in self._hooks:
            hook.remove()
        self.model.set_attn_implementation(
            {"text_config": self._before[0], "vision_config": self._before[1]}
        )

    @property
    def ends(self) -> frozenset[int]:
        """Token ids that end an answer."""
        found = self.model.generation_config.eos_token_id
        if found is None:
            found = self.tokenizer.eos_token_id
        return frozenset(found if isinstance(found, list) else [found])

    def encode(self, messages: Sequence[Message]) -> Prompt:
        """A conversation as the model's own processor and chat template write it."""
        images = tuple(p.image for m in messages for p in m.content if isinstance(p, Picture))
        self._refuse_placeholders(messages)
        inputs = self.processor.apply_chat_template(
            [_turn(message) for message in messages],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        return replace(self.prompts(inputs)[0], images=images)

    def _refuse_placeholders(self, messages: Sequence[Message]) -> None:
        """Words that the tokenizer would take for a picture."""
        reserved = self.tokenizer.convert_ids_to_tokens(sorted(self.placeholders))
        for message in messages:
            for part in message.content:
                if isinstance(part, Text):
                    for word in reserved:
                        if word in part.text:
                            raise BadInput(
                                f"The text contains {word!r}, which stands for a picture."
                            )

    def prompts(self, inputs: Mapping[str, Any]) -> list[Prompt]:
        """The prompts in a batch of processor outputs, padding on either side removed.

        Their pictures are what the model sees of them, since processor outputs do not hold the
        originals. Rows that `generate` repeated (beams, several answers) share pictures that it did
        not repeat. Without any pixels the pictures' places are known from the ids alone, and no
        view of them can be made.
        """
        pixels = {key: inputs[key] for key in self.pixel_keys if inputs.get(key) is not None}
        rows = _unpadded_rows(inputs)
        tokens = [int((row == self.image_token).sum()) for row in rows]
        if not pixels and any(tokens):
            return [self._placed(row) for row in rows]
        grids = self.grids(pixels)
        wanted_in_all, given = sum(tokens), sum(size for _, size in grids)
        repeats = wanted_in_all // given if given else 1
        found, used = [], 0
        for row, wanted in zip(rows[::repeats], tokens[::repeats], strict=True):
            count = _how_many(wanted, [size for _, size in grids[used:]])
            own = self.take(pixels, used, used + count) if count else {}
            found += [self._prompt(row.tolist(), own, None)] * repeats
            used += count
        return found

    def _placed(self, ids: Tensor) -> Prompt:
        """A prompt whose pictures are known by their places only."""
        image = torch.cat(
            [ids.new_zeros(1), (ids == self.image_token).long(), ids.new_zeros(1)]
        ).diff()
        starts, stops = (
            (image == 1).nonzero().flatten().tolist(),
            (image == -1).nonzero().flatten().tolist(),
        )
        spans = tuple(ImageSpan(start, stop, ()) for start, stop in zip(starts, stops, strict=True))
        positions, next_position = self.positions(ids, {})
        return Prompt(
            tuple(ids.tolist()), Layout(len(ids), spans), {}, positions, next_position, ()
        )

    def with_images(self, prompt: Prompt, images: tuple[Image.Image, ...]) -> Prompt:
        """The same words with other pictures in the same places; a new size takes another number of
        tokens.
        """
        _check_pixels(prompt)
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        pixels = {key: inputs[key] for key in self.pixel_keys}
        ids, done = [], 0
        for span, (_, count) in zip(prompt.layout.images, self.grids(pixels), strict=True):
            ids += [*prompt.ids[done : span.start], *[self.image_token] * count]
            done = span.stop
        return self._prompt([*ids, *prompt.ids[done:]], pixels, images)

    def without_images(self, prompt: Prompt) -> Prompt:
        """The same words with the pictures' tokens dropped and nothing in their place; positions
        close up.
        """
        return self._prompt(
            [token for token in prompt.ids if token not in self.placeholders], {}, ()
        )

    def with_pixels(self, prompt: Prompt, view: Callable[[Tensor], Tensor]) -> Prompt:
        """The same prompt with `view` applied to its normalised pixels [..., 3, height, width]."""
        _check_pixels(prompt)
        return replace(prompt, pixels=self.map_pixels(prompt.pixels, view))

    @property
    def placeholders(self) -> frozenset[int]:
        """Tokens that stand for a picture or mark its ends."""
        return frozenset([self.image_token])

    def _prompt(
        self, ids: list[int], pixels: dict[str, Tensor], images: tuple[Image.Image, ...] | None
    ) -> Prompt:
        tensor = torch.tensor(ids)
        layout = self._layout(tensor, self.grids(pixels))
        positions, next_position = self.positions(tensor, pixels)
        shown = self.pictures(pixels) if images is None and pixels else images or ()
        return Prompt(tuple(ids), layout, pixels, positions, next_position, shown)

    def _layout(self, ids: Tensor, grids: list[tuple[tuple[Grid, ...], int]]) -> Layout:
        places = (ids == self.image_token).nonzero().flatten().tolist()
        spans, used = [], 0
        for shape, count in grids:
            own = places[used : used + count]
            if len(own) != count or own[-1] - own[0] != count - 1:
                raise Failed(
                    f"A picture needs {count} consecutive image tokens, the prompt has {len(own)}."
                )
            spans.append(ImageSpan(own[0], own[-1] + 1, shape))
            used += count
        if used != len(places):
            raise Failed(f"The prompt has {len(places)} image tokens, its pictures need {used}.")
        return Layout(len(ids), tuple(spans))

    @abstractmethod
    def grids(self, pixels: Mapping[str, Tensor]) -> list[tuple[tuple[Grid, ...], int]]:
        """For each picture its token grids and how many tokens it takes."""

    @abstractmethod
    def positions(self, ids: Tensor, pixels: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Rotary positions of a prompt's ids [T], [T] or [3, T], and that of the next token."""

    @abstractmethod
    def take(self, pixels: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
        """The pixels of some of the pictures, by index."""

    @property
    @abstractmethod
    def tower(self) -> torch.nn.Module:
        """The vision tower."""

    @abstractmethod
    def entering(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The pixels in a call of the tower, or nothing if they do not tell the pictures apart."""

    @abstractmethod
    def look(self, pixels: Mapping[str, Tensor]) -> Features:
        """Runs the vision tower."""

    @abstractmethod
    def map_pixels(
        self, pixels: Mapping[str, Tensor], view: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The same pictures with `view` applied to each normalised pixel tensor [..., 3, height,
        width].
        """

    @abstractmethod
    def pictures(self, pixels: Mapping[str, Tensor]) -> tuple[Image.Image, ...]:
        """The pictures that these pixels show, as 8-bit RGB: the image processor undone."""

    def features(self, prompt: Prompt) -> Features | None:
        """The prompt's picture rows; each distinct picture goes through the vision tower once."""
        if not prompt.layout.images:
            return None
        key = _digest(prompt.pixels)
        found = self._features.get(key)
        if found is None:
            on_device = {k: v.to(self.device) for k, v in prompt.pixels.items()}
            found = self.look(on_device)
            if found.tokens.shape[0] != prompt.layout.image_tokens:
                raise Failed(
                    f"The vision tower gave {found.tokens.shape[0]} rows"
                    f" for {prompt.layout.image_tokens} image tokens."
                )
            self._features[key] = found
            while len(self._features) > FEATURES_KEPT:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return found

    @torch.inference_mode()
    def read(
        self, prompts: Sequence[Prompt], steered: Sequence[Steered], cache: RowCache
    ) -> Tensor:
        """Runs prompts into new rows of the cache, all in one forward; their last rows of scores
        [n, V] in float32.
        """
        lengths = [len(p.ids) for p in prompts]
        longest = max(lengths)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        embeds = self.text.get_input_embeddings()(ids.to(self.device))
        mask = torch.zeros(ids.shape, dtype=torch.bool, device=self.device)
        deep: list[list[Tensor]] = []
        for row, prompt in enumerate(prompts):
            features = self.features(prompt)
            if features is not None:
                mine = torch.from_numpy(prompt.layout.is_image()).to(self.device)
                mask[row, : len(mine)] = mine
                embeds[row, mask[row]] = features.tokens.to(embeds.dtype)
                deep.append(list(features.deep))
        extra: dict[str, Any] = {}
        if any(deep):
            extra = {
                "visual_pos_masks": mask,
                "deepstack_visual_embeds": [torch.cat(parts) for parts in zip(*deep, strict=True)],
            }
        cache.fill_prompts(len(prompts), longest)
        hidden = self._forward(
            embeds,
            _stack([p.positions for p in prompts], longest),
            None,
            cache,
            Steering(steered, lengths, prefill=True),
            **extra,
        )
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
        place = place if self.position_axes == 1 else place.expand(self.position_axes, -1, -1)
        embeds = self.text.get_input_embeddings()(ids)
        steering = Steering(steered, seen, prefill=False)
        with FewRows() if ids.device.type == "cpu" and len(tokens) in ROWS else nullcontext():
            hidden = self._forward(embeds, place, mask, cache, steering)
            return self._scores(hidden)[:, 0]

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

    def _scores(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.model.lm_head(hidden).float()
        return scores


def _turn(message: Message) -> dict[str, Any]:
    content = [
        {"type": "image", "image": part.image}
        if isinstance(part, Picture)
        else {"type": "text", "text": part.text}
        for part in message.content
    ]
    return {"role": message.role, "content": content}


def _check_pixels(prompt: Prompt) -> None:
    if prompt.layout.images and not prompt.pixels:
        raise Unsupported(
            "The host's generate hides this model's pictures.",
            hint="Use halu.load(...).ask instead.",
        )


def _how_many(tokens: int, sizes: Sequence[int]) -> int:
    """How many of the next pictures fill this many image tokens."""
    count = 0
    while tokens > sum(sizes[:count]):
        if count == len(sizes):
            raise Failed(f"The prompt has {tokens} image tokens, its pictures give {sum(sizes)}.")
        count += 1
    return count


def _unpadded_rows(inputs: Mapping[str, Any]) -> list[Tensor]:
    ids = inputs["input_ids"].cpu()
    mask = inputs.get("attention_mask")
    if mask is None:
        return list(ids)
    return [row[keep] for row, keep in zip(ids, mask.cpu().bool(), strict=True)]


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


def _reader(layer: int) -> Callable[..., None]:
    """A pre-hook that shows a layer's input to the steering of this forward, if there is one."""

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        steering = kwargs.get("halu")
        if steering is not None:
            steering.read(layer, args[0] if args else kwargs["hidden_states"])

    return hook


def unsupported(what: str, families: Sequence[str]) -> Unsupported:
    """The refusal of a model that no adapter knows."""
    return Unsupported(
        f"{what} is not supported.", hint=f"Supported architectures: {', '.join(families)}."
    )
