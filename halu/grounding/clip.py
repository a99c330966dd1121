"""Any open_clip checkpoint as a matcher.

The map is made as AGLA makes it with BLIP: attention probabilities times the positive part of their
gradient under the cosine similarity, mean over heads; here of the class token's row in the last two
blocks of the image tower, summed. (Gradient times activation points at things as well, but puts
other places next to them last, so that a mask made from it cuts into what is asked about.)
"""

import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from torch import Tensor, nn

from halu import models, torchvision_shim
from halu.errors import BadInput, Unavailable, Unsupported
from halu.grounding import Relevance, Vectors
from halu.grounding.checkpoint import why_not
from halu.grounding.squares import normalized, place
from halu.hub import reach

torchvision_shim.apply()

import open_clip

BLOCKS = 2


class ClipMatcher:
    """An open_clip model.

    Args:
        weights: a folder in open_clip's layout, a hub id, or "MODEL:TAG" from open_clip's own list;
            none: the built-in tiny-clip.
    """

    @torch.inference_mode(False)  # the caller may be in it; tensors made there have no gradients
    def __init__(self, weights: str | None = None) -> None:
        self._model, self._tokenize = _loaded(weights)
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


def _refuse_code(folder: Path) -> None:
    """A checkpoint's configuration is passed on to its tokenizer, which must run no code of it."""
    text = (folder / "open_clip_config.json").read_text("utf-8")
    if "trust_remote_code" in text:
        raise BadInput(f"Folder {str(folder)!r} asks to run code of its own, which is never done.")


def _loaded(weights: str | None) -> tuple[Any, Any]:
    folder = Path(weights) if weights else Path(models.__file__).parent / "tiny-clip"
    name, tag = str(weights), None
    if folder.is_dir():
        if not (folder / "open_clip_config.json").is_file():
            raise BadInput(f"Folder {str(folder)!r} has no open_clip_config.json.")
        _refuse_code(folder)
        name = f"local-dir:{folder}"
    elif name.count("/") == 1 and not folder.is_absolute():
        name = f"hf-hub:{name}"
    elif ":" in name:
        name, tag = name.split(":", 1)
    else:
        raise BadInput(
            f"No open_clip checkpoint {name!r}.", hint="Give a folder, a hub id or MODEL:TAG."
        )
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # about activations and tokenizers, not for users
            reach(_repository(name, tag))
            if name.startswith("hf-hub:"):
                hub = hf_hub_download(name.removeprefix("hf-hub:"), "open_clip_config.json")
                _refuse_code(Path(hub).parent)
            model, _, _ = open_clip.create_model_and_transforms(name, tag, require_pretrained=True)
            return model, open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError) as error:
        hint = why_not(str(weights), error)
        raise Unavailable(f"CLIP weights {weights!r} cannot be loaded.", hint=hint) from error


def _repository(name: str, tag: str | None) -> str:
    """The hub id that open_clip loads from; empty for a folder."""
    if tag is None:
        return name.removeprefix("hf-hub:") if name.startswith("hf-hub:") else ""
    listed = open_clip.get_pretrained_cfg(name, tag) or {}
    return str(listed.get("hf_hub", "")).strip("/")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what open_clip tells the root logger, which is in its exceptions as well."""
    root = logging.getLogger()

    def others(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root.addFilter(others)
    try:
        yield
    finally:
        root.removeFilter(others)


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
