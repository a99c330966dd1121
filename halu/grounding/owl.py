"""OWLv2 as a finder, through transformers (Minderer et al., arXiv:2306.09683)."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from halu import torchvision_shim
from halu.grounding import Box, Sighting
from halu.grounding.checkpoint import named, opened

torchvision_shim.apply()

import transformers
from transformers.models.owlv2.modeling_owlv2 import Owlv2ObjectDetectionOutput

PUBLISHED = "google/owlv2-base-patch16-ensemble"
PROMPT = "a photo of a {}"


class Owl:
    """A zero-shot detector; `weights` is a folder or hub id, none the published ensemble."""

    def __init__(self, weights: str | None = None) -> None:
        source = weights or PUBLISHED
        self._model: Any = opened(transformers.Owlv2ForObjectDetection, source, "OWLv2")
        with named(source, "OWLv2"):
            self._processor: Any = transformers.AutoProcessor.from_pretrained(source)

    def find(self, image: Image.Image, phrase: str, box: float, text: float) -> list[Box]:
        """See `halu.grounding.Finder`; a phrase has one score."""
        found = self.spot(image, [phrase], max(box, text))[0]
        return [one.box for one in found or ()]

    @torch.no_grad()
    def spot(
        self, image: Image.Image, phrases: Sequence[str], least: float
    ) -> list[list[Sighting] | None]:
        """See `halu.grounding.Finder`. A box counts for every phrase that scores in it, not only
        for the one that scores highest.
        """
        if not phrases:
            return []
        texts = [[PROMPT.format(phrase.lower()) for phrase in phrases]]
        inputs = self._processor(text=texts, images=image.convert("RGB"), return_tensors="pt").to(
            self._model.device
        )
        outputs = self._model(**inputs)
        return [
            self._sightings(rows[..., None], outputs.pred_boxes, image, least)
            for rows in outputs.logits.unbind(-1)
        ]

    def _sightings(
        self, logits: Tensor, boxes: Tensor, image: Image.Image, least: float
    ) -> list[Sighting]:
        """Of one phrase: logits [1, N, 1], boxes [1, N, 4]."""
        one = Owlv2ObjectDetectionOutput(logits=logits, pred_boxes=boxes)
        found = self._processor.post_process_grounded_object_detection(
            one, threshold=least, target_sizes=[(image.height, image.width)]
        )[0]
        size = torch.tensor([image.width, image.height] * 2)
        edges = (found["boxes"].cpu() / size).clamp(0, 1).tolist()
        seen = zip(edges, found["scores"].tolist(), strict=True)
        return sorted((Sighting(Box(*e), s) for e, s in seen), key=lambda one: -one.score)
