"""HALC: check each noun against closer and wider crops of what it names, and replace it if they say
something else.

Chen et al., ICML 2024, arXiv:2403.00425. The text is decoded with DoLa. When a word is complete and
a noun, a box is put around what it names and cut out in `crops` sizes: shrunk by `ratio`, as it is,
and grown by `ratio` again and again. Each crop reads the text before the word, which gives rows
c_i. Of all pairs the k / 2 with the largest Jensen-Shannon distance are contrasted, c_j - weight
c_i and c_i - weight c_j; the best token of each is a candidate for the word's first, and the
candidate whose text fits the whole picture best takes its place. Decoding goes on from there.
mode="paper": textbook Jensen-Shannon. mode="official" (BillChan226/HALC): the mean of KL(M || p)
both ways, M the mean of the two; three words of ten skipped at random; a word that nothing in the
picture was found for, and that was not replaced, is taken out with its sentence once eight tokens
have been said. Ours: `boxes="attention"`, the bounding box of the cells that the word's tokens
looked at at least `heat` times as much as at the hottest, mean of layers and heads; where a
processor cuts off a picture's edges, what is left counts as the picture. "grounding-dino" is the
paper's: no word with more than three boxes, of several the smallest, and the middle of the picture
where there is none. Ours too: nouns by a small rule (halu.grounding.nouns) for spaCy's tagger; each
word is checked once; candidates are compared by the sentence they stand in, which an image-text
model can read to its end. One hypothesis, as in the README (the scripts use three). Not reproduced:
lists of nouns exempt or added by hand, a scorer from a captioning checkpoint, whose text tower
would be random, sentences lost for "unk" inside another word, one fixed seed for ties.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from halu.attention.gaze import Gaze
from halu.errors import BadInput, Unsupported
from halu.grounding import Box, Finder, Matcher, open_finder, open_matcher
from halu.grounding.boxes import around, cut, distinct, nested
from halu.grounding.nouns import is_noun, singular
from halu.rules import jensen_shannon
from halu.search import Choice, Pick, Policies
from halu.strategy import Context, Mode, Paper, Plan, Strategy, StrategyParams, strategies
from halu.types import OPERATOR, Sampling

# The release's constants.
MIDDLE = Box(0.2, 0.2, 0.8, 0.8)
MOST_BOXES, SMALLEST, SAME = 3, 0.01, 0.6
LOST_AFTER = 8


@strategies.register("halc")
class HALC(Strategy):
    """Adaptive focal-contrast decoding."""

    name = "halc"
    kind = "control"
    takes_back = True
    paper = Paper(short="HALC", arxiv="2403.00425", venue="ICML 2024")
    off = {"base": "greedy", "skip": 1.0}

    class Params(StrategyParams):
        """What is checked, where, and by whom."""

        mode: Mode = "paper"
        base: Literal["dola", "greedy"] = Field(
            "dola", description="How the text is decoded between corrections."
        )
        crops: int = Field(4, ge=2, le=8, description="Crops of different size around the word.")
        ratio: float = Field(0.6, gt=0, le=2, description="How much the crops differ in size.")
        k: int = Field(4, ge=2, le=24, multiple_of=2, description="Candidates for a word.")
        weight: float = Field(0.05, ge=0, le=1, description="Weight of a pair's other crop.")
        skip: float | None = Field(
            None,
            ge=0,
            le=1,
            description="Share of nouns left alone at random; none: 0, official 0.3.",
        )
        boxes: Literal["attention", "grounding-dino"] = Field(
            "attention",
            description="What finds the word in the picture.",
            json_schema_extra=OPERATOR,
        )
        heat: float = Field(
            0.5, gt=0, le=1, description="Attention: least heat in the box, relative to the most."
        )
        detector: str | None = Field(
            None,
            max_length=4096,
            description="GroundingDINO's folder or hub id; none: the published Swin-T.",
            json_schema_extra=OPERATOR,
        )
        box_threshold: float = Field(
            0.45, ge=0, le=1, description="GroundingDINO: least score of a box."
        )
        text_threshold: float = Field(
            0.4, ge=0, le=1, description="GroundingDINO: least score of a word."
        )
        matcher: Literal["clip", "blip-itm"] = Field(
            "clip",
            description="Image-text model that chooses among the candidates.",
            json_schema_extra=OPERATOR,
        )
        weights: str | None = Field(
            None,
            max_length=4096,
            description="Its folder or hub id; none: built-in tiny-clip, or the published BLIP.",
            json_schema_extra=OPERATOR,
        )

    def plan(self, ctx: Context) -> Plan:
        """The base's rule, and a search that corrects words."""
        p = self.params
        plan = Plan(ctx.main)
        if p.base == "dola":
            layers = tuple(range(0, ctx.model.layers, 2))
            dola = strategies.get("dola").configured({"mode": p.mode, "layers": layers})
            plan = dola.plan(ctx)
        if p.skip == 1:
            return plan
        if len(ctx.main.prompt.layout.images) > 1:
            raise Unsupported("Strategy 'halc' looks at one picture.", param="strategy")
        if p.k > p.crops * (p.crops - 1):
            raise BadInput(
                f"Parameter k={p.k} needs {p.k // 2} pairs of {p.crops} crops.", param="params.k"
            )
        policies, finder = plan.policies, None
        if p.boxes == "attention":
            policies = (*policies, lambda prompt: Gaze(prompt.layout))
        else:
            finder = open_finder(p.detector)
        search = Corrected(ctx, p, open_matcher(p.matcher, p.weights), finder)
        return replace(plan, policies=policies, search=search)


class Contrast(NamedTuple):
    """Rows [k, V] of the pairs of crops that differ most, with all distances [n, n]."""

    distances: Tensor
    pairs: list[tuple[int, int]]
    scores: Tensor


def contrasted(rows: Tensor, k: int, weight: float, mode: str) -> Contrast:
    """k contrasts of crops' rows [n, V]."""
    rows = rows.double()
    distances = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, j in combinations(range(len(rows)), 2):
        distances[i, j] = distance(rows[i], rows[j], mode)
    pairs = sorted(combinations(range(len(rows)), 2), key=lambda pair: -float(distances[pair]))
    pairs = pairs[: k // 2]
    scores = [rows[a] - weight * rows[b] for i, j in pairs for a, b in ((j, i), (i, j))]
    return Contrast(distances, pairs, torch.stack(scores))


def distance(a: Tensor, b: Tensor, mode: str) -> Tensor:
    """How far two rows [V] are apart."""
    if mode == "paper":
        return jensen_shannon(a, b)
    logp, logq = torch.log_softmax(a, -1), torch.log_softmax(b, -1)
    middle = (logp.exp() + logq.exp()) / 2
    return (torch.xlogy(middle, middle) - middle * (logp + logq) / 2).sum()


@dataclass
class Corrected:
    """The search: picks or draws like plain decoding, and goes back to a word that is mended."""

    ctx: Context
    params: HALC.Params
    matcher: Matcher
    finder: Finder | None
    streams: bool = False
    goes_back: bool = True
    asks: bool = True
    pick: Pick = field(default_factory=Pick)
    pieces: list[str] = field(default_factory=list)  # text of each token
    checked: int = -1  # start of the last word that was looked at
    lost: list[int] = field(default_factory=list)  # starts of words to be taken out

    @property
    def most(self) -> int:
        """One."""
        return 1

    def start(
        self, sampling: Sampling, ends: frozenset[int], prompt: tuple[int, ...]
    ) -> "Corrected":
        """A fresh search for one request."""
        pick = Pick().start(sampling, ends, prompt)
        return Corrected(self.ctx, self.params, self.matcher, self.finder, pick=pick)

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Policies = ()) -> list[Choice]:
        """The next token, or another first token for the word that it would end."""
        (choice,) = self.pick.advance(rows, seen)
        said = seen[0]
        start = self._word(said)
        if start <= self.checked or not _begins(self._piece(said, choice.token)):
            return [choice]
        self.checked = start
        word = "".join(self.pieces[start:])
        if not is_noun(word) or self._skips():
            return [choice]
        box, found = self._place(singular(word), start, len(said), policies)
        if box is None:
            return [choice]
        token = self._best(box, said[:start])
        if token == said[start]:
            if not found and self.params.mode == "official" and len(said) >= LOST_AFTER:
                self.lost.append(start)
            return [choice]
        del self.pieces[start:]
        return [Choice(0, token, keep=start)]

    def best(self, live: list[list[int]], *, final: bool) -> list[int] | None:
        """The one hypothesis, when it has ended, without the sentences of lost words."""
        tokens = self.pick.best(live, final=final)
        if tokens is None or not self.lost:
            return tokens
        self._word(tokens)
        ends = (bool(re.search(r"[.!?]", piece)) for piece in self.pieces)
        sentence, of = 0, []
        for end in ends:
            of.append(sentence)
            sentence += end
        gone = {of[start] for start in self.lost}
        last = self.pick.ends
        return [t for t, own in zip(tokens, of, strict=True) if own not in gone or t in last]

    def _word(self, said: Sequence[int]) -> int:
        """Where the last word of what has been said starts; -1 where nothing has."""
        del self.pieces[len(said) :]
        for index in range(len(self.pieces), len(said)):
            self.pieces.append(self._piece(said[:index], said[index]))
        starts = [i for i, piece in enumerate(self.pieces) if i == 0 or _begins(piece)]
        return starts[-1] if starts else -1

    def _piece(self, said: Sequence[int], token: int) -> str:
        return self.ctx.text([*said, token])[len(self.ctx.text(said)) :]

    def _skips(self) -> bool:
        p = self.params
        share = (0.3 if p.mode == "official" else 0.0) if p.skip is None else p.skip
        return bool(share) and float(torch.rand((), generator=self.ctx.rng)) < share

    def _place(
        self, word: str, start: int, stop: int, policies: Policies
    ) -> tuple[Box | None, bool]:
        """The word's box, or none if it is to be left alone; and whether something was found."""
        p = self.params
        if self.finder is None:
            gaze = next(policy for policy in policies[0] if isinstance(policy, Gaze))
            return around(gaze.heat(start, stop), p.heat), True
        image = self.ctx.main.prompt.images[0]
        boxes = self.finder.find(image, word, p.box_threshold, p.text_threshold)
        boxes = distinct(boxes, SMALLEST, SAME)
        if len(boxes) > MOST_BOXES:
            return None, True
        return min(boxes, key=lambda box: box.area, default=MIDDLE), bool(boxes)

    def _best(self, box: Box, said: Sequence[int]) -> int:
        """The token that goes on from `said`, by the crops and the whole picture."""
        p = self.params
        crops = [
            self.ctx.branch(f"crop {index}", image=partial(cut, box=around_it), steered=False)
            for index, around_it in enumerate(nested(box, p.ratio, p.crops))
        ]
        scores = contrasted(self.ctx.after(crops, said), p.k, p.weight, p.mode).scores
        tokens: list[int] = list(dict.fromkeys(scores.argmax(-1).tolist()))
        texts = [_sentence(self.ctx.text([*said, token])) for token in tokens]
        fits = self.matcher.similarities(self.ctx.main.prompt.images[0], texts)
        return tokens[max(range(len(tokens)), key=fits.__getitem__)]


def _begins(piece: str) -> bool:
    """Whether a token's text starts something new: a space, a mark, or the end."""
    return not piece[:1].isalnum()


def _sentence(text: str) -> str:
    """The last sentence of a text."""
    return re.split(r"(?<=[.!?])\s+", text.strip())[-1]
