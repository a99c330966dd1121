"""GroundingDINO as a finder, through transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from halu import torchvision_shim
from halu.errors import BadInput, Unavailable
from halu.grounding import Box, Sighting
from halu.grounding.squares import place

torchvision_shim.apply()

import transformers  # noqa: E402

PUBLISHED = "IDEA-Research/grounding-dino-tiny"
TEXT = 0.25
"""Least score of a label's words, as SENTINEL has it."""


class Dino:
    """A zero-shot detector; `weights` is a folder or hub id, none the published Swin-T."""

    def __init__(self, weights: str | None = None) -> None:
        source = weights or PUBLISHED
        try:
            model, found = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
            self._processor: Any = transformers.AutoProcessor.from_pretrained(source)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().split("\n")[0]
            raise Unavailable(
                f"GroundingDINO weights {source!r} cannot be loaded.", hint=first
            ) from error
        if found["missing_keys"]:
            missing = ", ".join(sorted(found["missing_keys"])[:3])
            raise BadInput(
                f"The weights of {source!r} are incomplete.", hint=f"Missing: {missing} ..."
            )
        self._model: Any = model.to(place()).eval()

    def find(self, image: Image.Image, phrase: str, box: float, text: float) -> list[Box]:
        """See `halu.grounding.Finder`."""
        return [one.box for label, one in self._labelled(image, phrase, box, text) if label.strip()]

    def spot(
        self, image: Image.Image, phrases: Sequence[str], least: float
    ) -> list[list[Sighting] | None]:
        """See `halu.grounding.Finder`. A phrase is found where it is part of a label, as SENTINEL
        has it.
        """
        text = min(least, TEXT)
        found = self._labelled(image, ". ".join(phrases), least, text) if phrases else []
        return [[one for label, one in found if phrase.lower() in label] for phrase in phrases]

    @torch.no_grad()
    def _labelled(
        self, image: Image.Image, phrases: str, box: float, text: float
    ) -> list[tuple[str, Sighting]]:
        """Labels and what they stand at, the surest first."""
        asked = phrases.lower().rstrip(". ") + "."  # the form it was trained on
        inputs = self._processor(images=image.convert("RGB"), text=asked, return_tensors="pt").to(
            self._model.device
        )
        found = self._processor.post_process_grounded_object_detection(
            self._model(**inputs), inputs["input_ids"], threshold=box, text_threshold=text
        )[0]
        if not len(found["scores"]):  # then the labels are not a list of none but of an empty one
            return []
        edges = found["boxes"].clamp(0, 1).tolist()
        seen = [Sighting(Box(*e), s) for e, s in zip(edges, found["scores"].tolist(), strict=True)]
        pairs = zip(found["text_labels"], seen, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1].score)
