"""GroundingDINO as a finder, through transformers."""

from typing import Any

import torch
from PIL import Image

from halu import torchvision_shim
from halu.errors import BadInput, Unavailable
from halu.grounding import Box
from halu.grounding.squares import place

torchvision_shim.apply()

import transformers  # noqa: E402

PUBLISHED = "IDEA-Research/grounding-dino-tiny"


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

    @torch.no_grad()
    def find(self, image: Image.Image, phrase: str, box: float, text: float) -> list[Box]:
        """See `halu.grounding.Finder`."""
        asked = phrase.lower().rstrip(". ") + "."  # the form it was trained on
        inputs = self._processor(images=image.convert("RGB"), text=asked, return_tensors="pt").to(
            self._model.device
        )
        found = self._processor.post_process_grounded_object_detection(
            self._model(**inputs), inputs["input_ids"], threshold=box, text_threshold=text
        )[0]
        if not len(found["scores"]):  # then the labels are not a list of none but of an empty one
            return []
        named = [bool(label.strip()) for label in found["text_labels"]]
        edges = found["boxes"].clamp(0, 1).tolist()
        ranked = sorted(
            zip(found["scores"].tolist(), named, edges, strict=True), key=lambda item: -item[0]
        )
        return [Box(*place) for _, word, place in ranked if word]
