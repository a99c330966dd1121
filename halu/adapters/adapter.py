"""What halu needs of a model family: conversations as prompts, and prompts with other pictures.

Image places come from the token ids alone; there are no literal positions anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from halu.adapters.attention import NAME, register
from halu.adapters.inputs import how_many, unpadded_rows
from halu.adapters.runner import Runner
from halu.adapters.vision import Features
from halu.errors import BadInput, Failed, Unsupported
from halu.layout import Grid, ImageSpan, Layout
from halu.prompt import Prompt
from halu.strategy import ModelFacts
from halu.types import Message, Picture, Text


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
        self.image_token: int = model.config.image_token_id
        text = model.config.text_config
        self.facts = ModelFacts(
            name,
            model.config.model_type,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.hidden_size,
            model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        )
        self.runner = Runner(model, self.look, self.position_axes)

    def release(self) -> None:
        """Gives the model back as it was."""
        self.runner.release()
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
        try:
            inputs = self.processor.apply_chat_template(
                [_turn(message) for message in messages],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
            )
        except ValueError as error:  # for example a picture of too extreme proportions
            raise BadInput(f"The model's processor refuses this request: {error}") from error
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
        rows = unpadded_rows(inputs)
        tokens = [int((row == self.image_token).sum()) for row in rows]
        if not pixels and any(tokens):
            return [self._placed(row) for row in rows]
        grids = self.grids(pixels)
        wanted_in_all, given = sum(tokens), sum(size for _, size in grids)
        repeats = max(1, wanted_in_all // given) if given else 1
        found, used = [], 0
        for row, wanted in zip(rows[::repeats], tokens[::repeats], strict=True):
            count = how_many(wanted, [size for _, size in grids[used:]])
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
        check_pixels(prompt)
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        pixels = {key: inputs[key] for key in self.pixel_keys}
        ids, done = [], 0
        for span, (_, count) in zip(prompt.layout.images, self.grids(pixels), strict=True):
            ids += [*prompt.ids[done : span.start], *[self.image_token] * count]
            done = span.stop
        return self._prompt([*ids, *prompt.ids[done:]], pixels, images)

    def without_images(
        self, prompt: Prompt, words: str | Sequence[str] = "", *, opened: bool = False
    ) -> Prompt:
        """The same words with the pictures' tokens dropped, and nothing or `words` in the place of
        each (a text for all, or one for each picture); positions close up.
        """
        starts = [span.start for span in prompt.layout.images]
        texts = [words] * len(starts) if isinstance(words, str) else words
        instead = {
            start: self._spoken(text, opened) for start, text in zip(starts, texts, strict=True)
        }
        ids: list[int] = []
        for place, token in enumerate(prompt.ids):
            ids += instead.get(place, [])
            if token not in self.placeholders:
                ids.append(token)
        return self._prompt(ids, {}, ())

    def _spoken(self, text: str, opened: bool) -> list[int]:
        """Token ids of a text; words that would stand for a picture are left out."""
        ids = self.tokenizer.encode(text, add_special_tokens=False) if text else []
        first = self.tokenizer.bos_token_id
        ids = [first, *ids] if opened and first is not None else ids
        return [token for token in ids if token not in self.placeholders]

    def with_pixels(self, prompt: Prompt, view: Callable[[Tensor], Tensor]) -> Prompt:
        """The same prompt with `view` applied to its normalised pixels [..., 3, height, width]."""
        check_pixels(prompt)
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

    def class_attention(self, pixels: Mapping[str, Tensor], layers: Sequence[int]) -> Tensor:
        """What the tower's class token looks at [pictures, layers, patches of the first grid],
        summed over heads.

        Raises:
            Unsupported: if it has none or too few layers.
        """
        raise Unsupported(
            f"The vision tower of {self.facts.name!r} has no class token.",
            hint="LLaVA's CLIP tower has one.",
            param="strategy",
        )

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


def _turn(message: Message) -> dict[str, Any]:
    content = [
        {"type": "image", "image": part.image}
        if isinstance(part, Picture)
        else {"type": "text", "text": part.text}
        for part in message.content
    ]
    return {"role": message.role, "content": content}


def check_pixels(prompt: Prompt) -> None:
    """Refuses a prompt whose pictures are known by their places only.

    Raises:
        Unsupported: with the reason.
    """
    if prompt.layout.images and not prompt.pixels:
        raise Unsupported(
            "The host's generate hides this model's pictures.",
            hint="Use halu.load(...).ask instead.",
        )


def unsupported(what: str, families: Sequence[str]) -> Unsupported:
    """The refusal of a model that no adapter knows."""
    return Unsupported(
        f"{what} is not supported.", hint=f"Supported architectures: {', '.join(families)}."
    )
