"""BLIP with its image-text matching head as a matcher: the map that AGLA publishes (Lackel/AGLA,
after LAVIS).

Cross-attention probabilities of text layer 6 (counted from 0) times the positive part of their
gradient under the match logit, mean over heads, mean over the text's tokens without the first and
the last. The similarity is that of the contrastive projections, not of the matching head.
"""

import threading
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from halu import torchvision_shim
from halu.errors import Unavailable, Unsupported
from halu.grounding import Relevance
from halu.grounding.checkpoint import opened
from halu.grounding.squares import normalized

torchvision_shim.apply()

import transformers
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

PUBLISHED = "Salesforce/blip-itm-large-coco"
LAYER = 6
LONGEST = 35
"""Tokens of a text that are read, as in LAVIS."""
ENCODE = "[ENC]"
"""LAVIS puts it in front for the matching head; BLIP's vocabulary ends with it."""


class BlipMatcher:
    """`BlipForImageTextRetrieval` of transformers; `weights` is a folder or hub id."""

    @torch.inference_mode(False)
    def __init__(self, weights: str | None = None) -> None:
        source = weights or PUBLISHED
        self._model = opened(transformers.BlipForImageTextRetrieval, source, "BLIP")
        self._tokenizer = _tokenizer(source)
        layers = self._model.text_encoder.encoder.layer
        if len(layers) <= LAYER:
            raise Unsupported(
                f"{source!r} has {len(layers)} text layers; the map needs layer {LAYER}."
            )
        self._attention = layers[LAYER].crossattention.self
        self._lock = threading.Lock()

    @torch.inference_mode(False)
    def relevance(self, image: Image.Image, text: str) -> Relevance:
        """See `halu.grounding.Matcher`."""
        patches = self._patches(image)
        words = self._tokenized([text])
        similarity = float(self._similarities(patches, words)[0])
        return Relevance(self._map(patches, words).float().cpu().numpy(), similarity)

    @torch.no_grad()
    def similarities(self, image: Image.Image, texts: list[str]) -> list[float]:
        """See `halu.grounding.Matcher`."""
        found: list[float] = self._similarities(
            self._patches(image), self._tokenized(texts)
        ).tolist()
        return found

    def _map(self, patches: Tensor, words: dict[str, Tensor]) -> Tensor:
        """Step 3 of AGLA's recipe [rows, columns]."""
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            kept.append(output[1])

        ids = words["input_ids"].clone()
        ids[:, 0] = self._encode_token
        with self._lock, torch.enable_grad():
            hook = self._attention.register_forward_hook(keep)
            try:
                hidden = self._model.text_encoder(
                    input_ids=ids,
                    attention_mask=words["attention_mask"],
                    encoder_hidden_states=patches,
                    encoder_attention_mask=torch.ones(patches.shape[:2], device=ids.device),
                ).last_hidden_state
            finally:
                hook.remove()
            match = self._model.itm_head(hidden[:, 0])[:, 1].sum()
            (gradient,) = torch.autograd.grad(match, kept)
        cam = (kept[0].detach() * gradient.clamp(min=0))[0, :, :, 1:].mean(0)  # [T, patches]
        inner = cam[1:-1].mean(0)
        side = round(len(inner) ** 0.5)
        return inner.reshape(side, side)

    @property
    def _encode_token(self) -> int:
        known: int | None = self._tokenizer.get_vocab().get(ENCODE)
        return self._model.config.text_config.vocab_size - 1 if known is None else known

    @torch.no_grad()
    def _patches(self, image: Image.Image) -> Tensor:
        """The picture's class token and patches [1, 1 + patches, D]."""
        side = self._model.config.vision_config.image_size
        pixels = normalized(image, side, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        seen: Tensor = self._model.vision_model(
            pixel_values=pixels.to(self._model.device)
        ).last_hidden_state
        return seen

    def _tokenized(self, texts: list[str]) -> dict[str, Tensor]:
        found = self._tokenizer(
            texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        keys = ("input_ids", "attention_mask")
        return {key: found[key].to(self._model.device) for key in keys}

    @torch.no_grad()
    def _similarities(self, patches: Tensor, words: dict[str, Tensor]) -> Tensor:
        """Cosine of the contrastive projections [N]."""
        told = self._model.text_encoder(**words).last_hidden_state[:, 0]
        text = nn.functional.normalize(self._model.text_proj(told), dim=-1)
        image = nn.functional.normalize(self._model.vision_proj(patches[:, 0]), dim=-1)
        return text @ image[0]


def _tokenizer(source: str) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise Unavailable(f"The tokenizer of {source!r} cannot be loaded.") from error
