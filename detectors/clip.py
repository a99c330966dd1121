"""Objects that no part of the picture looks like to CLIP, and colours that another fits better.

Each claimed object is put into several prompts, whose vectors are averaged (Radford et al.,
arXiv:2103.00020), and compared with the whole picture and with overlapping crops of a half and of a
third of its sides. A similarity says little by itself: it is measured against those of COCO's 80
names on the same crop, as a standard score; the best crop of each size counts. A claimed colour
("a red dog") is measured likewise against other colours of the same object, on the few crops that
look most like it. A logistic curve for each kind of claim makes a probability of the scores; those
that ship were fitted for tiny-clip, and `halu calibrate` fits others.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pydantic import Field, JsonValue

from halu.claims import Claim, Vocabulary, claims, coco_names
from halu.detector import Detector, DetectorContext, DetectorParams, Images, detectors
from halu.grounding import Box, Vectors, open_embedder
from halu.grounding.boxes import cut
from halu.grounding.pixels import Pixels
from halu.logistic import Measured, scored
from halu.types import OPERATOR, Answer, Finding

PROMPTS = ("a photo of {}", "a picture of {}", "{}", "an image with {}")
SIZES = {"whole": (1.0, 1), "half": (1 / 2, 3), "third": (1 / 3, 5)}
"""Name of a crop's size, its side in sides of the picture, and how many lie along one."""
COLORS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray",
)  # fmt: skip
"""What a claimed colour is measured against; of others ("golden", "tan") there is no opinion."""
CROPS = 3
"""Crops that tell a colour."""
BUILT_IN = "tiny-clip"


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
            description="Folder, hub id, MODEL:TAG or MODEL:FILE; none: built-in tiny-clip.",
            json_schema_extra=OPERATOR,
        )
        vocabulary: Vocabulary = Field("coco", description="COCO's objects, or any noun.")

    def judge(self, answer: Answer, images: Images, asked: DetectorContext) -> Iterable[Finding]:
        """A finding for each object and colour."""
        found = self.measure(answer, images, asked)
        return scored(self.name, self.rests_on(answer, asked), found, _reason)

    def rests_on(self, answer: Answer, asked: DetectorContext) -> str:
        """The image-text model."""
        return self.params.weights or BUILT_IN

    def measure(self, answer: Answer, images: Images, asked: DetectorContext) -> list[Measured]:
        """Standard scores of every object on the best crop of each size, of the best picture, and
        of every colour on the crops that look most like its object.
        """
        named = [
            claim
            for claim in claims(answer.text, asked.question, self.params.vocabulary)
            if claim.kind == "object" or (claim.kind == "color" and _shade(claim) in COLORS)
        ]
        if not named:
            return []
        pictures = [_views(Pixels(image), self.params.weights) for image in images]
        return [self._measured(claim, pictures) for claim in named]

    def _measured(self, claim: Claim, pictures: Sequence["Views"]) -> Measured:
        weights = self.params.weights
        words, names = _words((claim.subject,), weights)[0], _words(coco_names(), weights)
        if claim.kind == "color":
            tinted = _words(tuple(f"{shade} {claim.subject}" for shade in COLORS), weights)
            tints = [_tinted(views, words, names, tinted) for views in pictures]
            own = COLORS.index(_shade(claim))
            return _colored(claim, max(tints, key=lambda scores: float(scores[own])))
        others = names[[name != claim.subject for name in coco_names()]]
        found = [_looked(views, words, names, others) for views in pictures]
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


def _one(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _standing(views: Views, words: Vectors, names: Vectors) -> Vectors:
    """Of each crop [N], how much more it looks like the words than like the names."""
    others = views.vectors @ names.T
    found: Vectors = (views.vectors @ words - others.mean(1)) / others.std(1)
    return found


def _looked(
    views: Views, words: Vectors, names: Vectors, others: Vectors
) -> tuple[dict[str, float], dict[str, JsonValue]]:
    """The best standard score of each size, and what the best crop is; `others` are the names that
    are not the object's own.
    """
    scores = _standing(views, words, names)
    features = {
        size: max(float(s) for s, of in zip(scores, views.sizes, strict=True) if of == size)
        for size in SIZES
    }
    best = int(scores.argmax())
    own = float(views.vectors[best] @ words)
    shown: dict[str, JsonValue] = {
        "similarity": own,
        "crop": list(views.boxes[best]),
        "better": int((others @ views.vectors[best] >= own).sum()),
        "others": len(others),
    }
    return features, shown


def _tinted(views: Views, words: Vectors, names: Vectors, tinted: Vectors) -> Vectors:
    """Standard scores of the object in each colour on the crops that look most like it [COLORS]."""
    best = np.argsort(-_standing(views, words, names), kind="stable")[:CROPS]
    found = views.vectors[best] @ tinted.T
    scores: Vectors = ((found - found.mean(1, keepdims=True)) / found.std(1, keepdims=True)).mean(0)
    return scores


def _shade(claim: Claim) -> str:
    """The claimed colour as COLORS spells it."""
    return "gray" if claim.value == "grey" else claim.value


def _colored(claim: Claim, scores: Vectors) -> Measured:
    best, own = COLORS[int(scores.argmax())], _shade(claim)
    shown: dict[str, JsonValue] = {"instead": best if best != own else None}
    return Measured(claim, {"color": float(scores[COLORS.index(own)])}, shown)


def _reason(one: Measured) -> str:
    shown = one.evidence
    if one.claim.kind == "color":
        other = shown["instead"]
        told = f"{other!r} fits better than" if other else "no other colour fits better than"
        return (
            f"Where the picture looks most like {one.claim.subject!r}, {told} {one.claim.value!r}."
        )
    return (
        f"Where the picture looks most like {one.claim.subject!r}, {shown['better']} of"
        f" {shown['others']} other everyday objects fit as well or better; of what is there, few do"
        f" (similarity {shown['similarity']:.2f})."
    )
