"""ARA-style: where the answer hardly depends on the picture, look up captions of similar ones.

After Qu et al., ACM TOMM 2025, arXiv:2408.00555. No code is public, and thresholds, prompts and
weights are not known to us, so those below are ours, and so may the results be. As described: M =
log P(a | V, Q) - log P(a | Q), with and without the picture; if M < threshold, coarse retrieval of
captioned pictures like the whole picture, fine retrieval of regions with phrases like a crop of it;
both reordered by likeness to the model's own caption of what was looked up; the predictions fused
as probabilities. Ours: a is the first token of the plain answer. `candidates` different captions
are found by the vectors of `index` (open_clip), the `keep` most alike to the caption go in front of
the question, after `introduction`. p = (p_main + coarse p_c + fine p_f) / (1 + coarse + fine); the
rule gives log p in the scores' place, and the request's sampling decides. Where fine looks:
boxes="attention", the window, `crop` of each side, with most of the first token's attention, mean
of all layers and heads; or "grounding-dino" as in the paper, the surest box of what the question
names, by a small rule (the first noun after an article) for the paper's Llama-2-7B; where there is
no box there is no fine branch. The paper's indices are COCO and Visual Genome; here `index` names
one of the user's own (halu.retrieval), or "scenes", training pictures of the built-in world, which
say nothing about photographs. Needs the extra `clip`, and exactly one picture.
"""

from typing import Literal

from PIL.Image import Image
from pydantic import Field
from torch import log_softmax

from halu import retrieval
from halu.attention.recording import Looks
from halu.conversation import before, instead, question_of, repictured
from halu.errors import Unsupported
from halu.grounding import open_finder
from halu.grounding.boxes import cut
from halu.grounding.nouns import is_noun, singular
from halu.regions import hottest_window
from halu.rules import mixture
from halu.strategy import (
    Branch,
    Context,
    Paper,
    Plan,
    Strategy,
    StrategyParams,
    strategies,
)
from halu.types import OPERATOR

THRESHOLDS = (0.35, 0.25)
"""Of GroundingDINO's boxes and words, its authors' own."""
PICTURES = frozenset({"image", "photo", "photograph", "picture"})


@strategies.register("ara")
class ARA(Strategy):
    """Active retrieval augmentation."""

    name = "ara"
    kind = "prompt"
    paper = Paper(short="Active Retrieval Augmentation", arxiv="2408.00555", venue="ACM TOMM 2025")
    off = {"coarse": 0.0, "fine": 0.0}

    class Params(StrategyParams):
        """When to retrieve, what, and how much it counts."""

        threshold: float = Field(
            1.0, ge=-100, le=100, description="Retrieve if M is less, in nats; 100: always."
        )
        coarse: float = Field(
            0.5, ge=0, le=10, description="Weight of the branch with similar pictures' captions."
        )
        fine: float = Field(
            0.5, ge=0, le=10, description="Weight of the branch with similar regions' phrases."
        )
        index: str = Field(
            retrieval.BUILT_IN,
            pattern=f"^{retrieval.NAME}$",
            max_length=100,
            description="What is searched: scenes, or an index of your own by its name.",
            json_schema_extra=OPERATOR,
        )
        candidates: int = Field(10, ge=1, le=1000, description="Captions that are found.")
        keep: int = Field(3, ge=1, le=100, description="Captions that are used.")
        caption_tokens: int = Field(
            48,
            ge=0,
            le=512,
            description="Longest own caption, by which those found are reordered; 0: they are not.",
        )
        boxes: Literal["attention", "grounding-dino"] = Field(
            "attention",
            description="How fine finds the part of the picture that it looks up.",
            json_schema_extra=OPERATOR,
        )
        crop: float = Field(
            0.5, gt=0, le=1, description="Boxes by attention: share of each of the picture's sides."
        )
        detector: str | None = Field(
            None,
            max_length=4096,
            description="GroundingDINO's folder or hub id; none: the published Swin-T.",
            json_schema_extra=OPERATOR,
        )
        introduction: str = Field(
            "Similar images are described as follows:",
            max_length=1000,
            description="What comes before the captions.",
        )
        caption: str = Field(
            "Describe this image in one sentence.",
            min_length=1,
            max_length=1000,
            description="How an own caption is asked for.",
        )

    def plan(self, ctx: Context) -> Plan:
        """The main branch, and where the picture hardly counts those with captions in front."""
        p = self.params
        if not (p.coarse or p.fine):
            return Plan(ctx.main)
        if len(ctx.request.images) != 1:
            raise Unsupported(
                f"ARA looks up one picture, not {len(ctx.request.images)}.", param="strategy"
            )
        looks = Looks(ctx.main.prompt.layout, range(ctx.model.layers))
        seen = log_softmax(ctx.prefill(ctx.main, (looks,)), -1)
        blind = log_softmax(ctx.prefill(ctx.branch("blind", blind=True, steered=False)), -1)
        answer = seen.argmax()
        if seen[answer] - blind[answer] >= p.threshold:
            return Plan(ctx.main)
        (image,) = ctx.request.images
        parts = {"coarse": image} if p.coarse else {}
        part = self._part(ctx, image, looks) if p.fine else None
        if part is not None:
            parts["fine"] = part
        extra = tuple(self._told(ctx, name, shown) for name, shown in parts.items())
        return Plan(ctx.main, extra, mixture({name: getattr(p, name) for name in parts}))

    def _part(self, ctx: Context, image: Image, looks: Looks) -> Image | None:
        """What fine looks up."""
        if self.params.boxes == "attention":
            heat = looks.heats(0)[0].mean(0)
            return image.crop(hottest_window(heat, self.params.crop, image.size))
        named = entity(question_of(ctx.request.messages))
        found = open_finder(self.params.detector).find(image, named, *THRESHOLDS) if named else []
        return cut(image, found[0]) if found else None

    def _told(self, ctx: Context, name: str, shown: Image) -> Branch:
        """The branch with captions of what is like the picture, or a part of it."""
        p, index, messages = self.params, retrieval.load(self.params.index), ctx.request.messages
        hits = index.search(shown, p.candidates, regions=name == "fine")
        found = [hit.caption for hit in hits]
        if p.caption_tokens:
            wish = instead(repictured(messages, [[shown]]), p.caption)
            asked = ctx.branch("caption", messages=wish, steered=False)
            own = ctx.say(asked, p.caption_tokens).text
            alike = dict(zip(found, index.alike(own, found), strict=True))
            found = sorted(found, key=lambda caption: -alike[caption])
        told = (f"{caption.rstrip('.')}." for caption in found[: p.keep])
        words = " ".join((p.introduction, *told)).strip()
        return ctx.branch(name, messages=before(messages, words))


def entity(question: str) -> str | None:
    """What a question asks about: the first noun after an article, else the first noun; the picture
    itself is meant by neither.
    """
    words = [singular(word) for word in question.split()]
    nouns = [i for i, word in enumerate(words) if is_noun(word) and word not in PICTURES]
    last = -1
    for place in nouns:
        if {"a", "an", "any", "the"} & set(words[last + 1 : place]):
            return words[place]
        last = place
    return words[nouns[0]] if nouns else None
