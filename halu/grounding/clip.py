"""Any open_clip checkpoint as a matcher.

The map is made as AGLA makes it with BLIP: attention probabilities times the positive part of their
gradient under the cosine similarity, mean over heads; here of the class token's row in the last two
blocks of the image tower, summed. (Gradient times activation points at things as well, but puts
other places next to them last, so that a mask made from it cuts into what is asked about.)
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from halu import torchvision_shim
from halu.errors import Unsupported
from halu.grounding import Relevance, Vectors
from halu.grounding.clip_checkpoint import loaded
from halu.grounding.squares import normalized, place

torchvision_shim.apply()

import open_clip

BLOCKS = 2


class ClipMatcher:
    """An open_clip model.

    Args:
        weights: a folder, hub id, "MODEL:TAG" or "MODEL:FILE", as `clip_checkpoint.loaded` takes
            it; none: the built-in tiny-clip.
    """

    @torch.inference_mode(False)  # the caller may be in it; tensors made there have no gradients
    def __init__(self, weights: str | None = None) -> None:
        self._model, self._tokenize = loaded(weights)
        self._model.to(place()).eval()
        self._tower = self._model.visual
        self._lock = threading.Lock()

    @torch.inference_mode(False)
    def relevance(self, image: Image.Image, text: str) -> Relevance:
        """See `halu.grounding.Matcher`."""
        words = self._texts([text])[0]
        rows, columns = self._tower.grid_size if _is_transformer(self._tower) else (0, 0)
        if not rows:
            raise Unsupported(
                "This CLIP's image tower has no map; it is not one of open_clip's own transformers"
                " with a class token.",
                hint="Take a ViT checkpoint that does not come from timm.",
            )
        kept: list[Tensor] = []
        blocks = self._tower.transformer.resblocks[-BLOCKS:]
        with self._lock, torch.enable_grad():
            hooks = [block.attn.register_forward_hook(_explicit(kept)) for block in blocks]
            try:
                similarity = self._seen(image)[0] @ words
            finally:
                for hook in hooks:
                    hook.remove()
            gradients = torch.autograd.grad(similarity, kept)
        cams = [
            (p.detach() * gradient.clamp(min=0)).mean(0)[0, 1:]
            for p, gradient in zip(kept, gradients, strict=True)
        ]
        found = torch.stack(cams).sum(0).reshape(rows, columns).float().cpu().numpy()
        return Relevance(found, float(similarity.detach()))

    @torch.no_grad()
    def similarities(self, image: Image.Image, texts: list[str]) -> list[float]:
        """See `halu.grounding.Matcher`."""
        with self._lock:  # another thread's relevance may be watching the tower
            seen = self._seen(image)[0]
        found: list[float] = (self._texts(texts) @ seen).tolist()
        return found

    @torch.no_grad()
    def vectors(self, images: Iterable[Image.Image]) -> Vectors:
        """Unit vectors [N, D] of pictures, each stretched to a square; all in one forward."""
        pixels = torch.cat([self._pixels(image) for image in images])
        with self._lock:
            found = self._model.encode_image(pixels, normalize=True)
        return np.asarray(found.float().cpu().numpy())

    def word_vectors(self, texts: list[str]) -> Vectors:
        """Unit vectors [N, D] of texts."""
        return np.asarray(self._texts(texts).float().cpu().numpy())

    def _seen(self, image: Image.Image) -> Tensor:
        """The picture's unit vector [1, D]."""
        vector: Tensor = self._model.encode_image(self._pixels(image), normalize=True)
        return vector

    def _pixels(self, image: Image.Image) -> Tensor:
        """As the tower takes it [1, 3, side, side]."""
        size, device = self._tower.image_size, next(self._tower.parameters()).device
        side = size[0] if isinstance(size, tuple) else size
        mean = self._tower.image_mean or open_clip.OPENAI_DATASET_MEAN
        std = self._tower.image_std or open_clip.OPENAI_DATASET_STD
        return normalized(image, side, mean, std).to(device)

    @torch.no_grad()
    def _texts(self, texts: list[str]) -> Tensor:
        """Unit vectors [N, D]."""
        device = next(self._tower.parameters()).device
        vectors: Tensor = self._model.encode_text(self._tokenize(texts).to(device), normalize=True)
        return vectors


def _is_transformer(tower: Any) -> bool:
    """Whether it is open_clip's vision transformer, read at its class token."""
    return getattr(tower, "pool_type", "") == "tok" and hasattr(tower, "transformer")


def _explicit(kept: list[Tensor]) -> Callable[..., tuple[Tensor, None]]:
    """A hook that computes self-attention once more in the open and keeps its map [H, T, T]."""

    def hook(
        attention: nn.MultiheadAttention, args: tuple[Tensor, ...], output: object
    ) -> tuple[Tensor, None]:
        x = args[0][0]
        assert attention.in_proj_weight is not None
        qkv = nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
            for part in qkv.chunk(3, -1)
        )
        p = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        kept.append(p)
        return attention.out_proj((p @ v).transpose(0, 1).flatten(1))[None], None

    return hook
