"""GroundingDINO as a finder, through transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from halu import torchvision_shim
from halu.grounding import Box, Sighting
from halu.grounding.checkpoint import named, opened

torchvision_shim.apply()

import transformers

PUBLISHED = "IDEA-Research/grounding-dino-tiny"
TEXT = 0.25
"""Least score of a label's words, as SENTINEL has it."""
DOT = "."
"""Stands between phrases."""


class Dino:
    """A zero-shot detector; `weights` is a folder or hub id, none the published Swin-T."""

    def __init__(self, weights: str | None = None) -> None:
        source = weights or PUBLISHED
        self._model: Any = opened(
            transformers.AutoModelForZeroShotObjectDetection, source, "GroundingDINO"
        )
        with named(source, "GroundingDINO"):
            self._processor: Any = transformers.AutoProcessor.from_pretrained(source)

    def find(self, image: Image.Image, phrase: str, box: float, text: float) -> list[Box]:
        """See `halu.grounding.Finder`."""
        return [one.box for label, one in self._labelled(image, phrase, box, text) if label.strip()]

    def spot(
        self, image: Image.Image, phrases: Sequence[str], least: float
    ) -> list[list[Sighting] | None]:
        """See `halu.grounding.Finder`. Each phrase is a prompt of its own, since the model's view
        of one changes with its neighbours (SENTINEL's code joins all new ones). Its score in a box
        is that of its surest token if all of its tokens would be in the box's label, as SENTINEL
        has it, else that of its least sure.
        """
        return [self._spotted(image, phrase.replace(DOT, " "), least) for phrase in phrases]

    def _spotted(self, image: Image.Image, phrase: str, least: float) -> list[Sighting] | None:
        ids, outputs = self._seen(image, phrase)
        words = self._processor.tokenizer
        places = range(1, ids.index(words.convert_tokens_to_ids(DOT)))
        if any(ids[place] == words.unk_token_id for place in places):
            return None
        own = outputs.logits[0].sigmoid().cpu()[:, [*places]]
        scores = torch.where((own > TEXT).all(-1), own.amax(-1), own.amin(-1)).tolist()
        x, y, width, height = outputs.pred_boxes[0].cpu().unbind(-1)
        edges = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)
        boxes = [Box(*one) for one in edges.clamp(0, 1).tolist()]
        seen = [Sighting(*pair) for pair in zip(boxes, scores, strict=True) if pair[1] >= least]
        return sorted(seen, key=lambda one: -one.score)

    @torch.no_grad()
    def _seen(self, image: Image.Image, phrases: str) -> tuple[list[int], Any]:
        """The tokens of phrases, and what the model says of them."""
        asked = phrases.lower().rstrip(f"{DOT} ") + DOT  # the form it was trained on
        inputs = self._processor(images=image.convert("RGB"), text=asked, return_tensors="pt").to(
            self._model.device
        )
        return inputs["input_ids"][0].tolist(), self._model(**inputs)

    def _labelled(
        self, image: Image.Image, phrases: str, box: float, text: float
    ) -> list[tuple[str, Sighting]]:
        """Labels and what they stand at, the surest first."""
        ids, outputs = self._seen(image, phrases)
        found = self._processor.post_process_grounded_object_detection(
            outputs, torch.tensor([ids]), threshold=box, text_threshold=text
        )[0]
        if not len(found["scores"]):  # then the labels are not a list of none but of an empty one
            return []
        edges = found["boxes"].clamp(0, 1).tolist()
        seen = [Sighting(Box(*e), s) for e, s in zip(edges, found["scores"].tolist(), strict=True)]
        pairs = zip(found["text_labels"], seen, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1].score)
