"""An encoded prompt: everything the language model needs to start one branch."""

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from halu.layout import Layout


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with the pictures' places already expanded.

    Attributes:
        ids: token ids [T].
        layout: which token is what.
        pixels: what the image processor made, by the vision tower's argument name; empty without a
            picture.
        positions: rotary positions [T], or [3, T] for M-RoPE models.
        next_position: position of the first generated token.
        images: the pictures as they went into the processor.
    """

    ids: tuple[int, ...]
    layout: Layout
    pixels: Mapping[str, Tensor]
    positions: Tensor
    next_position: int
    images: tuple[Image.Image, ...]
