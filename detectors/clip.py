"""Objects that no part of the picture looks like to CLIP.

Each claimed object is put into several prompts, whose vectors are averaged (Radford et al.,
arXiv:2103.00020), and compared with the whole picture and with overlapping crops of a half and of a
third of its sides. A similarity says little by itself: it is measured against those of COCO's 80
names on the same crop, as a standard score; the best crop of each size counts. A logistic curve
makes a probability of the three scores. It was fitted for tiny-clip; other checkpoints may want
another threshold.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pydantic import Field, JsonValue

from halu.claims import Claim, Vocabulary, claims, coco_names
from halu.detector import Asked, Detector, DetectorParams, Images, detectors
from halu.grounding import Box, Vectors, open_embedder
from halu.grounding.boxes import cut
from halu.grounding.pixels import Pixels
from halu.logistic import Measured, scored
from halu.types import Answer, Finding

PROMPTS = ("a photo of {}", "a picture of {}", "{}", "an image with {}")
SIZES = {"whole": (1.0, 1), "half": (1 / 2, 3), "third": (1 / 3, 5)}
"""Name of a crop's size, its side in sides of the picture, and how many lie along one."""


@detectors.register("clip")
class Clip(Detector):
    """Whether any part of the picture looks like each claimed object, to CLIP."""

    name = "clip"
    kind = "picture"
    paper = "2103.00020"

    class Params(DetectorParams):
        """Which model, and which nouns it is asked about."""

        weights: str | None = Field(
            None,
            max_length=4096,
            description="Folder, hub id or MODEL:TAG of open_clip; none: built-in tiny-clip.",
        )
        vocabulary: Vocabulary = Field("coco", description="COCO's objects, or any noun.")

    def judge(self, answer: Answer, images: Images, asked: Asked) -> Iterable[Finding]:
        """A finding for each object."""
        wanted = self.params.weights or "tiny-clip"
        found = self.measure(answer, images, asked)
        return scored(self.name, wanted, found, _reason)

    def measure(self, answer: Answer, images: Images, asked: Asked) -> list[Measured]:
        """Standard scores of every object on the best crop of each size, of the best picture."""
        named = [
            claim
            for claim in claims(answer.text, asked.question, self.params.vocabulary)
            if claim.kind == "object"
        ]
        if not named:
            return []
        pictures = [_views(Pixels(image), self.params.weights) for image in images]
        return [self._measured(claim, pictures) for claim in named]

    def _measured(self, claim: Claim, pictures: Sequence["Views"]) -> Measured:
        words = _words((claim.subject,), self.params.weights)[0]
        found = [_looked(views, words, _names(self.params.weights)) for views in pictures]
        return Measured(claim, *max(found, key=lambda one: sum(one[0].values())))


class Views(NamedTuple):
    """Crops of a picture: their sizes, boxes, and unit vectors [N, D]."""

    sizes: list[str]
    boxes: list[Box]
    vectors: Vectors


@lru_cache(maxsize=16)
def _views(pixels: Pixels, weights: str | None) -> Views:
    sizes, boxes = [], []
    for size, (side, count) in SIZES.items():
        starts = np.linspace(0, 1 - side, count).tolist()
        for y in starts:
            for x in starts:
                sizes.append(size)
                boxes.append(Box(x, y, x + side, y + side))
    crops = [cut(pixels.image, box) for box in boxes]
    return Views(sizes, boxes, open_embedder(weights).vectors(crops))


@lru_cache(maxsize=1024)
def _words(names: tuple[str, ...], weights: str | None) -> Vectors:
    """Mean unit vectors [N, D] of the prompts with each name."""
    forms = [form.format(_one(name)) for name in names for form in PROMPTS]
    found = open_embedder(weights).word_vectors(forms).reshape(len(names), len(PROMPTS), -1).mean(1)
    unit: Vectors = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return unit


def _names(weights: str | None) -> Vectors:
    return _words(coco_names(), weights)


def _one(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _looked(
    views: Views, words: Vectors, names: Vectors
) -> tuple[dict[str, float], dict[str, JsonValue]]:
    """The best standard score of each size, and what the best crop is."""
    own, others = views.vectors @ words, views.vectors @ names.T
    scores = (own - others.mean(1)) / others.std(1)
    features = {
        size: max(float(s) for s, of in zip(scores, views.sizes, strict=True) if of == size)
        for size in SIZES
    }
    best = int(scores.argmax())
    shown: dict[str, JsonValue] = {
        "similarity": float(own[best]),
        "crop": list(views.boxes[best]),
        "better": float((others[best] < own[best]).mean()),
    }
    return features, shown


def _reason(one: Measured) -> str:
    better, similarity = one.evidence["better"], one.evidence["similarity"]
    assert isinstance(better, float)
    assert isinstance(similarity, float)
    names = len(coco_names())
    others = round((1 - better) * names)
    return (
        f"Where the picture looks most like {one.claim.subject!r}, {others} of {names} everyday"
        f" objects fit as well or better; of what is there, few do (similarity {similarity:.2f})."
    )
