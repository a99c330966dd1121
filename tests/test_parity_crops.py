"""AGLA and HALC: the released implementations' numbers, and whole models.

The vectors (tests/data/parity/crops) were made by running the authors' code; our strategies are
driven through their own plans. On random models the same methods are followed once more, slowly,
from the equations.
"""

import math
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from PIL import Image
from recorder import full_rows, record
from test_parity import NO, Z1, Stored, Stub, Z, assert_close, combined, plan_of
from torch import Tensor
from vectors import Vectors

import halu
from halu.aside import Aside, alone, continued
from halu.decoders import agla, halc
from halu.engine import Local
from halu.errors import BadInput, Unavailable, Unsupported
from halu.grounding import Box, Relevance, open_matcher
from halu.grounding.boxes import cut, nested
from halu.grounding.nouns import is_noun
from halu.scenes import draw
from halu.strategy import Step
from halu.testing.random_models import FAMILIES, random_adapter
from halu.types import Request, Sampling, question
from halu.vlm import asking

VECTORS = Vectors("crops")
cases, stored = VECTORS.of, VECTORS.stored
on_two_families = pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])


def test_every_vector_is_used_and_every_file_is_there() -> None:
    VECTORS.assert_complete()
    assert VECTORS.tasks == {
        *("agla.map", "agla.augment", "agla.combine", "agla.generate_released"),
        *("halc.boxes", "halc.contrast"),
    }


# AGLA


class Fixed:
    """A matcher that answers with a given map."""

    def __init__(self, found: Any, similarity: float) -> None:
        self.found = Relevance(np.asarray(found), similarity)
        self.asked: list[str] = []

    def relevance(self, image: Image.Image, text: str) -> Relevance:
        self.asked.append(text)
        return self.found


@pytest.fixture
def masking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The view that AGLA's plan makes of a picture when the matcher answers with a given map."""

    def made(found: Any, similarity: float, **params: Any) -> Any:
        monkeypatch.setattr(agla, "open_matcher", lambda *args: Fixed(found, similarity))
        ctx: Any = Stub()
        ctx.request = Request(messages=question("Is there a dog?"))
        plan_of("agla", ctx, **params)
        return ctx.asked["masked"]["image"]

    return made


@cases("agla.map")
def test_agla_map(case: dict[str, Any]) -> None:
    data = stored(case)
    found = torch.from_numpy(agla.enlarged(data.in_map.numpy(), case["params"]["size"]))
    if data.out_map.isnan().all():  # where the release divides by 0 every place stays
        assert agla.relevant(found.numpy(), 0.5).all()
        return
    assert_close(found, data.out_map, case["tolerance"])


@cases("agla.augment")
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_agla_masked_picture(case: dict[str, Any], mode: str, masking: Any) -> None:
    data, size = stored(case), case["params"]["size"]
    mask = np.unpackbits(data.out_mask_bits.numpy()).reshape(size, size).astype(bool)
    picture = data.in_image.numpy().repeat(16, 0).repeat(16, 1)
    view = masking(data.in_map, float(data.in_similarity), mode=mode)
    assert np.array_equal(np.asarray(view(Image.fromarray(picture))), picture * mask[..., None])
    found = agla.enlarged(data.in_map.numpy(), size)
    assert_close(torch.from_numpy(found[::8, ::8].copy()), data.out_map_every_8, case["tolerance"])
    kept = agla.relevant(found, float(data.in_similarity))
    assert kept.mean() == pytest.approx(float(data.out_kept_fraction), abs=5e-4)
    assert found[kept].min() == pytest.approx(float(data.out_threshold), abs=case["tolerance"])


def test_agla_keeps_the_pictures_size_unless_official(masking: Any, picture: Any) -> None:
    ramp = np.arange(16, dtype=np.float32).reshape(4, 4)
    image = picture(90, 60)
    own = masking(ramp, 1.0)(image)
    assert own.size == (90, 60)
    black = (np.asarray(own) == 0).all(-1)
    assert 0.45 < black.mean() < 0.55  # similarity 1 takes half away
    assert black[:20].mean() > black[-20:].mean()
    assert np.array_equal(np.asarray(own)[~black], np.asarray(image)[~black])
    assert masking(ramp, 1.0, mode="official")(image).size == (384, 384)
    assert np.array_equal(np.asarray(masking(0 * ramp, 1.0)(image)), np.asarray(image))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Is there a DOG in the image?", "is there a dog in the image?"),
        ('  "Red"  (car);\nwhere... #1: *a*~b! ', "red car where 1 a b"),
        (" ".join(["word"] * 60), " ".join(["word"] * 50)),
        ("...", ""),
    ],
)
def test_agla_cleans_the_question(text: str, wanted: str) -> None:
    assert agla.cleaned(text) == wanted


@cases("agla.combine")
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_agla_rule(case: dict[str, Any], mode: str) -> None:
    data = stored(case)
    plan = rule_of(mode, **case["params"])
    assert_close(combined(plan, data.in_z, data.in_z_alt), data.out_scores, case["tolerance"])


def rule_of(mode: str, **params: Any) -> Any:
    ctx: Any = Stub()
    ctx.request = Request(messages=question("Is there a dog?"))
    return plan_of("agla", ctx, mode=mode, **params)


@pytest.mark.parametrize(
    ("params", "index", "wanted"),
    [
        ({}, 0, [4, NO, NO, NO]),
        ({"beta": 0.1}, 0, [4, 4, 0, NO]),
        ({"beta": 0.1}, 3, [4, 4, 0, NO]),
        ({"beta": 0.1, "mode": "official"}, 0, [4, 4, 0, NO]),
        ({"beta": 0.1, "mode": "official"}, 3, [6, 3, 0, NO]),  # the second branch is the first
    ],
)
def test_agla_golden_vectors(params: dict[str, Any], index: int, wanted: list[float]) -> None:
    plan = rule_of(**{"mode": "paper", **params})
    assert_close(combined(plan, Z, Z1, index), torch.tensor(wanted), 2e-6)


def test_agla_second_branch_equal_to_the_first_sharpens() -> None:
    rng = torch.Generator().manual_seed(2)
    z = 3 * torch.randn(40, generator=rng)
    found = combined(rule_of("paper", beta=0.0), z, z)
    assert torch.allclose(found, 3 * z)
    moved = combined(rule_of("paper"), z + 5, z - 3).softmax(-1)
    assert torch.allclose(moved, combined(rule_of("paper"), z, z).softmax(-1), atol=1e-5)


@cases("agla.generate_released")
def test_agla_loop_as_released(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    adapter = Stored(data, p)

    def run(strategy: str, **params: Any) -> Any:
        sampling = Sampling(max_new_tokens=p["new_tokens"])
        messages = question("stored")
        asked = Request(messages=messages, strategy=strategy, params=params, sampling=sampling)
        return record(adapter, asked)

    mine = run("agla", mode="official", alpha=p["alpha"], beta=p["beta"])
    assert mine.tokens == data.out_tokens.tolist()
    assert_close(torch.stack(mine.ruled), data.out_scores, case["tolerance"])
    assert run("greedy").tokens == data.out_plain_greedy.tolist()
    paper = run("agla", alpha=p["alpha"], beta=p["beta"])
    assert_close(paper.ruled[0], data.out_scores[0], case["tolerance"])
    assert not torch.allclose(paper.steps[1].rows["masked"], paper.steps[1].main, atol=1e-2)


def request(image: Any, strategy: str, params: dict[str, Any] | None = None, **own: Any) -> Request:
    text = own.pop("text", "Is there a dog in the image?")
    return asking(image, text, strategy=strategy, params=params or {}, **own)


@on_two_families
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_agla_equals_two_whole_models(family: str, mode: str, adapter: Any, stock: Any) -> None:
    scene = draw(2, split="test")
    image = Image.fromarray(scene.image).resize((120, 84))
    text = f"Is there a {scene.things[0].name} in the image?"
    params = {"mode": mode, "beta": 0.9}
    mine = record(adapter(family), request(image, "agla", params, text=text, max_new_tokens=5))

    found = open_matcher("clip").relevance(image, text.lower())
    heat = agla.enlarged(found.map, 384)
    ordered = sorted(heat.ravel().tolist(), reverse=True)
    threshold = ordered[int(384 * 384 * (1 - found.similarity / 2))]
    shown = image.resize((384, 384), Image.Resampling.BICUBIC) if mode == "official" else image
    pixels = np.asarray(shown).copy()
    for y in range(len(pixels)):
        for x in range(len(pixels[0])):
            row = int((y + 0.5) * 384 / len(pixels))
            column = int((x + 0.5) * 384 / len(pixels[0]))
            if heat[row, column] < threshold:
                pixels[y, x] = 0
    assert 0.02 < (pixels == 0).all(-1).mean() < 0.5
    messages = question(text, Image.fromarray(pixels))
    other = adapter(family).encode(messages)
    first = full_rows(stock(family), mine.plan.main.prompt, mine.tokens[:-1])
    second = full_rows(stock(family), other, mine.tokens[:-1])
    for step, row, z, z_alt in zip(mine.steps, mine.ruled, first, second, strict=True):
        assert (step.rows["masked"] - z_alt).abs().max() < 1e-4
        alive = z_alt if mode == "paper" or step.index == 0 else z
        wanted = (z + 2 * alive).masked_fill(z < z.max() + math.log(0.9), NO)
        assert_close(row, wanted, 1e-3)
    assert mine.tokens == [int(row.argmax()) for row in mine.ruled]
    assert (first - second).abs().max() > 1e-3


def test_agla_in_somebody_elses_app_needs_the_question(adapter: Any, picture: Any) -> None:
    mine = adapter("llava")
    inputs = mine.processor(
        text="USER: <image> Is there a dog? ASSISTANT:", images=picture(), return_tensors="pt"
    )
    from halu.testing.random_models import random_adapter

    released = random_adapter("llava")
    released.release()
    model, processor = released.model, released.processor
    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    halu.enable(model, processor, "agla")
    with pytest.raises(Unsupported, match=r"question.*text="):
        model.generate(**inputs, max_new_tokens=4)
    halu.disable(model)
    halu.enable(model, processor, "agla", text="Is there a dog?", alpha=10, beta=0)
    found = model(**inputs).logits[:, -1]
    halu.disable(model)
    assert (found - model(**inputs).logits[:, -1]).abs().max() > 1e-2
    assert torch.equal(plain, model.generate(**inputs, max_new_tokens=4, do_sample=False))


def test_agla_without_scipy(adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(Unavailable, match=r"scipy.*\[clip\]"):
        Local(adapter("llava")).generate([request(picture(), "agla")])


# HALC


@cases("halc.boxes")
def test_halc_boxes(case: dict[str, Any]) -> None:
    data = stored(case)
    boxes, ratios = data.in_boxes.tolist(), data.in_ratios.tolist()
    for box, ratio, wanted in zip(boxes, ratios, data.out_boxes, strict=True):
        found = torch.tensor(nested(Box(*box), ratio, 4), dtype=torch.float64)
        assert_close(found, wanted, case["tolerance"])


@cases("halc.contrast")
def test_halc_contrast(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    found = halc.contrasted(data.in_z_crops, p["k"], p["weight"], "official")
    assert_close(found.distances, data.out_J, case["tolerance"])
    assert found.pairs == [tuple(pair) for pair in data.out_pairs.tolist()]
    assert_close(found.scores, data.out_scores.double(), case["tolerance"])
    assert found.scores.argmax(-1).tolist() == data.out_tokens.tolist()


GOLDEN = [Z, Z1, torch.tensor([0.5, 0, 0.2, 0.1]), torch.tensor([1.5, 1.2, -0.3, -0.5])]


def test_halc_golden_vectors() -> None:
    found = halc.contrasted(torch.stack(GOLDEN), 4, 0.05, "official")
    wanted = [0.061877, 0.100574, 0.015284, 0.136173, 0.028421, 0.068722]
    upper = found.distances[torch.ones(4, 4).triu(1).bool()]
    assert upper.tolist() == pytest.approx(wanted, abs=1e-6)
    assert found.pairs == [(1, 2), (0, 2)]
    assert torch.allclose(found.scores[0].float(), GOLDEN[2] - 0.05 * GOLDEN[1])
    assert torch.allclose(found.scores[1].float(), GOLDEN[1] - 0.05 * GOLDEN[2])


def test_halc_paper_distance_is_the_textbooks() -> None:
    found = halc.contrasted(torch.stack(GOLDEN), 4, 0.05, "paper").distances
    for i, j in ((0, 1), (0, 2), (1, 3)):
        p, q = (torch.softmax(GOLDEN[n].double(), -1) for n in (i, j))
        assert float(found[i, j]) == pytest.approx(divergence(p, q), abs=1e-6)


def divergence(p: Tensor, q: Tensor) -> float:
    """Jensen-Shannon, term by term."""
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        m = (a + b) / 2
        total += (a * math.log(a / m) if a else 0) / 2 + (b * math.log(b / m) if b else 0) / 2
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_can_be_asked_what_follows_an_answer(
    family: str, adapter: Any, stock: Any, picture: Any
) -> None:
    mine = adapter(family)
    prompts = [mine.encode(question("a dog", picture(w, 60))) for w in (60, 110)]
    for said in ([7, 40, 11, 9], [5], []):
        asides = [Aside.of(continued(prompt, said)) for prompt in prompts]
        alone(mine, asides)
        rows = [one.row for one in asides]
        for row, prompt in zip(rows, prompts, strict=True):
            assert (row - full_rows(stock(family), prompt, said)[-1]).abs().max() < 1e-4


class Followed:
    """HALC from its equations: no cache, no search, every row from a stock model; greedy base."""

    def __init__(self, adapter: Any, model: Any, image: Image.Image, text: str, p: Any) -> None:
        self.adapter, self.model, self.image, self.question, self.p = adapter, model, image, text, p
        self.prompt = adapter.encode(question(text, image))
        self.mended = self.looked = 0

    def text(self, tokens: Sequence[int]) -> str:
        found: str = self.adapter.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return found

    def run(self, steps: int) -> list[int]:
        said: list[int] = []
        done: set[int] = set()
        while len(said) < steps and not (said and said[-1] in self.adapter.ends):
            token = int(full_rows(self.model, self.prompt, said)[-1].argmax())
            start = self.last_word(said)
            new = self.text([*said, token])[len(self.text(said)) :]
            if said and start > max(done, default=-1) and not new[:1].isalnum():
                done.add(start)
                word = self.text(said)[len(self.text(said[:start])) :]
                if is_noun(word):
                    better = self.better(said, start)
                    self.looked += 1
                    if better != said[start]:
                        self.mended += 1
                        said = [*said[:start], better]
                        continue
            said.append(token)
        return said

    def last_word(self, said: list[int]) -> int:
        for i in range(len(said) - 1, 0, -1):
            if not self.text(said[: i + 1])[len(self.text(said[:i])) :][:1].isalnum():
                return i
        return 0

    def better(self, said: list[int], start: int) -> int:
        rows = []
        for box in nested(self.box(said, start), self.p["ratio"], self.p["crops"]):
            crop = self.adapter.encode(question(self.question, cut(self.image, box)))
            rows.append(full_rows(self.model, crop, said[:start])[-1].double())
        pairs = []
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                far = divergence(rows[i].softmax(-1), rows[j].softmax(-1))
                pairs.append((-far, i, j))
        tokens: list[int] = []
        for _, i, j in sorted(pairs)[: self.p["k"] // 2]:
            for a, b in ((j, i), (i, j)):
                best = int((rows[a] - self.p["weight"] * rows[b]).argmax())
                tokens += [best] if best not in tokens else []
        texts = []
        for token in tokens:
            text = self.text([*said[:start], token]).strip()
            for end in range(len(text) - 1, 0, -1):
                if text[end].isspace() and text[end - 1] in ".!?":
                    text = text[end + 1 :]
                    break
            texts.append(text)
        fits = open_matcher("clip").similarities(self.image, texts)
        return tokens[int(np.argmax(fits))]

    def box(self, said: list[int], start: int) -> Box:
        span = self.prompt.layout.images[0]
        heat = np.zeros(span.stop - span.start)

        def keep(layer: int, p: Tensor, v: Tensor) -> Tensor:
            for row in range(start, len(said)):
                seen = p[:, len(self.prompt.ids) - 1 + row, span.start : span.stop].mean(0)
                heat[:] += seen.numpy()
            return p @ v

        oracles.oracle_rows(self.model, self.prompt, said, keep)
        cells = span.heat(heat)
        hot = [
            (row, column)
            for row in range(cells.shape[0])
            for column in range(cells.shape[1])
            if cells[row, column] >= self.p["heat"] * cells.max()
        ]
        height, width = cells.shape
        return Box(
            min(c for _, c in hot) / width,
            min(r for r, _ in hot) / height,
            (max(c for _, c in hot) + 1) / width,
            (max(r for r, _ in hot) + 1) / height,
        )


OFTEN = {"base": "greedy", "heat": 0.9, "weight": 0.5, "ratio": 1.5}


@on_two_families
def test_halc_equals_a_slow_walk(
    family: str, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, looked, mended, seed = "Describe the image.", 0, 0, -1
    # a random model speaks in bits of words
    monkeypatch.setitem(globals(), "is_noun", any_word)
    monkeypatch.setattr(halc, "is_noun", any_word)
    while not looked > mended > 2:
        seed += 1
        assert seed < 20  # many a random model says one token for ever
        adapter, plain = random_adapter(family, seed=seed), random_adapter(family, seed=seed)
        plain.release()
        # crops that are alike would share what they have in common, and could not be counted
        adapter.runner.worth = 10**9
        image = picture(112, 84, seed=seed)
        asked = request(image, "halc", OFTEN, text=text, max_new_tokens=12)
        mine = record(adapter, asked)
        slow = Followed(adapter, plain.model, image, text, mine.answer.strategy.params)
        assert mine.tokens == slow.run(12)
        looked += slow.looked
        mended += slow.mended
        assert mine.answer.usage.forwards == mine.count.rows
        assert mine.count.prompt_rows == 1 + 4 * slow.looked
        assert mine.count.prompts == 1 + slow.looked  # all crops in one forward
        rows = full_rows(plain.model, mine.plan.main.prompt, mine.steps[-1].tokens)
        assert (mine.steps[-1].main - rows[-1]).abs().max() < 1e-4


def any_word(word: str) -> bool:
    return bool(word.strip())


class Script:
    """A context whose crops say what they are told to, and whose tokens are words."""

    words = ("", " a", " dog", " cat", " red", ".", " sees", " bird", "s", " hat")

    def __init__(self, picks: Sequence[int] = ()) -> None:
        self.picks = list(picks)
        self.rng = torch.Generator().manual_seed(0)
        image = Image.new("RGB", (100, 100))
        self.main = SimpleNamespace(prompt=SimpleNamespace(images=(image,)))
        self.boxes: list[Any] = []
        self.read: list[list[int]] = []

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(self.words[token] for token in tokens)

    def branch(self, name: str, *, image: Any, steered: bool) -> Any:
        assert not steered
        self.boxes.append(image.keywords["box"])
        return name

    def after(self, branches: Sequence[Any], tokens: Sequence[int]) -> Tensor:
        """Flat rows but for one crop's favourite, so that it is every pair's."""
        self.read.append(list(tokens))
        rows = torch.zeros(len(branches), len(self.words))
        rows[:, self.picks.pop(0)] = torch.arange(1.0, len(branches) + 1)
        return rows


class Named:
    """A matcher that likes some words, a finder that knows where some are."""

    def __init__(self, boxes: Sequence[Box] = ()) -> None:
        self.boxes = list(boxes)
        self.texts: list[str] = []

    def similarities(self, image: Any, texts: list[str]) -> list[float]:
        self.texts += texts
        return [float(len(text)) for text in texts]

    def find(self, image: Any, phrase: str, box: float, text: float) -> list[Box]:
        assert (box, text) == (0.45, 0.4)
        return self.boxes


def searched(script: Script, named: Named, tokens: Sequence[int], **params: Any) -> list[int]:
    """What the search makes of a model that always says these tokens, by their place."""
    own = halc.HALC.Params(boxes="grounding-dino", **params)
    made: Any = halc.Corrected(script, own, named, named)
    search = made.start(Sampling(), frozenset([0]), ())
    said: list[int] = []
    for _ in range(40):
        row = torch.zeros(1, len(script.words))
        row[0, tokens[len(said)]] = 1
        (choice,) = search.advance(row, [said])
        said = [*said[: choice.keep], choice.token]
        found = search.best([said], final=len(said) == len(tokens))
        if found is not None:
            return list(found)
    raise AssertionError("it does not end")


BOX = Box(0.4, 0.4, 0.6, 0.6)
SENTENCE = [1, 4, 2, 8, 6, 1, 3, 5, 0]  # a red dogs sees a cat.


def test_halc_goes_back_to_the_first_token_of_a_word() -> None:
    script, named = Script([7, 9]), Named([BOX])
    found = searched(script, named, SENTENCE)
    # the word starts with " dog"; the model goes on by place: its "s" completes the new word
    assert found == [1, 4, 7, 8, 6, 1, 9, 5, 0]
    assert script.read == [[1, 4], [1, 4, 7, 8, 6, 1]]
    assert script.boxes[:4] == nested(BOX, 0.6, 4)
    assert named.texts == ["a red bird", "a red birds sees a hat"]


def test_halc_leaves_a_word_that_the_crops_repeat() -> None:
    script = Script([2, 3])
    assert searched(script, Named([BOX]), SENTENCE) == SENTENCE
    assert len(script.read) == 2


@pytest.mark.parametrize(
    ("boxes", "used"),
    [
        ([], halc.MIDDLE),
        ([Box(0, 0, 1, 1), BOX], BOX),  # the smallest
        ([Box(0, 0, 0.05, 0.05), Box(0, 0, 0.9, 0.9)], Box(0, 0, 0.9, 0.9)),  # a speck is none
        ([Box(0, 0, 0.1 * n, 0.2) for n in (2, 4, 7, 10)], Box(0, 0, 0.2, 0.2)),
        ([Box(0.2 * n, 0, 0.2 * n + 0.2, 1) for n in range(4)], None),  # more than three
    ],
)
def test_halc_takes_the_releases_box(boxes: list[Box], used: Box | None) -> None:
    script = Script([2, 3])
    searched(script, Named(boxes), SENTENCE)
    assert (script.boxes[1] if script.boxes else None) == used


def test_halc_takes_out_what_was_not_found_as_the_release_does() -> None:
    said = [1, 2, 6, 4, 3, 5, 1, 4, 2, 6, 7, 5, 1, 2, 0]
    picks = [2, 3, 2, 7, 2]
    official = {"mode": "official", "skip": 0.0}
    assert searched(Script(picks), Named([BOX]), said, **official) == said
    assert searched(Script(picks), Named([]), said) == said  # paper
    # the first sentence was said before the eighth token, the others fall with their words
    assert searched(Script(picks), Named([]), said, **official) == [*said[:6], 0]
    assert searched(Script([9, 9, 2, 7, 9]), Named([]), said, **official)[-2:] == [9, 0]


def test_halc_skips_words_at_random_as_the_release_does() -> None:
    def looked(**params: Any) -> int:
        script = Script([2] * 100)
        tokens = [1, *[2, 4] * 100, 0]
        own = halc.HALC.Params(boxes="grounding-dino", **params)
        made: Any = halc.Corrected(script, own, Named([BOX]), Named([BOX]))
        search, said = made.start(Sampling(), frozenset([0]), ()), []
        for token in tokens:
            (choice,) = search.advance(torch.eye(10)[token][None], [said])
            said.append(choice.token)
        return len(script.read)

    assert looked() == 100
    assert 55 < looked(mode="official") < 85
    assert looked(mode="official", skip=0.0) == 100
    assert 35 < looked(skip=0.5) < 65


def test_halc_is_dola_between_its_corrections(adapter: Any, picture: Any) -> None:
    asked = request(picture(), "halc", {"skip": 1.0}, max_new_tokens=5)
    dola = request(picture(), "dola", {"layers": (0, 2)}, max_new_tokens=5)
    mine, theirs = record(adapter("llava"), asked), record(adapter("llava"), dola)
    for a, b in zip(mine.ruled, theirs.ruled, strict=True):
        assert_close(a, b, 1e-6)
    assert mine.plan.taps == theirs.plan.taps


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"crops": 2, "k": 4}, BadInput, "k=4"),
        ({"k": 3}, BadInput, "k=3"),
        ({"boxes": "grounding-dino"}, Unavailable, "grounding-dino-tiny"),
        ({"matcher": "blip-itm"}, Unavailable, "blip-itm-large-coco"),
        ({"weights": "/nowhere"}, BadInput, "/nowhere"),
    ],
)
def test_halc_says_what_is_wrong(
    params: dict[str, Any], error: type[Exception], says: str, adapter: Any, picture: Any
) -> None:
    with pytest.raises(error, match=says):
        Local(adapter("llava")).generate([request(picture(), "halc", params)])


def test_halc_refuses_what_it_cannot_do(adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("llava"))
    with pytest.raises(Unsupported, match="one picture"):
        vlm.generate([request([picture(), picture()], "halc")])
    with pytest.raises(Unsupported, match=r"halc.*evidence"):
        vlm.generate([request(picture(), "halc", evidence="mass")])
    with pytest.raises(Unsupported, match="search"):
        vlm.generate([request(picture(), "halc+beam")])


def test_gaze_forks_and_forgets_what_was_taken_back(adapter: Any, picture: Any) -> None:
    from halu.attention.gaze import Gaze

    layout = adapter("llava").encode(question("a", picture())).layout
    gaze, keys = Gaze(layout), layout.length + 1
    span = layout.images[0]
    peak = torch.zeros(2, keys)
    peak[:, span.start + 3] = 50
    for layer in range(2):
        gaze.look(layer, peak)
    other = gaze.fork()
    assert gaze.heat(1, 2).ravel()[3] == pytest.approx(2)
    moved = peak.roll(1, -1)
    for layer in range(2):
        gaze.look(layer, moved)
    assert gaze.heat(1, 2).ravel()[4] == pytest.approx(2)
    assert other.heat(1, 2).ravel()[3] == pytest.approx(2)
    assert Step(0, {"main": Z}, []).main is Z
