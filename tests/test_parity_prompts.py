"""VDGD, CARVE and ARA: the released implementations' numbers, and whole models.

The vectors (tests/data/parity/prompts) were made by running the authors' code; our strategies are
driven through their own plans. ARA has no public code. On random models all three are computed once
more, slowly, from the equations.
"""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from PIL import Image
from recorder import PARAMS, full_rows, record
from test_parity import NO, Stub, Z, assert_close, plan_of, prompt_of
from torch import Tensor
from vectors import Vectors

import halu
from halu import retrieval
from halu.conversation import question_of
from halu.decoders.carve import contrast
from halu.engine import Local
from halu.errors import BadInput, Unavailable, Unsupported
from halu.grounding import Box
from halu.layout import Grid, ImageSpan, Layout
from halu.prompt import Prompt
from halu.regions import around, stretched, top_regions
from halu.retrieval import Found
from halu.strategy import Branch, Plan, Said, Step
from halu.testing.random_models import FAMILIES, random_adapter
from halu.types import Message, Picture, Request, Text, question
from halu.vlm import asking

VECTORS = Vectors("prompts")
cases, stored = VECTORS.of, VECTORS.stored
CHECKED = ("llava", "qwen2_5_vl")


def request(
    picture: Any,
    strategy: str | None = None,
    params: dict[str, Any] | None = None,
    text: str = "Is there a dog in the image?",
    **own: Any,
) -> Request:
    image = picture(90, 60, seed=3)
    return asking(image, text, strategy=strategy, params=params, **({"max_new_tokens": 4} | own))


class Asker(Stub):
    """A context whose branches say what a script has them say."""

    def __init__(self, messages: tuple[Message, ...], prompt: Prompt | None = None) -> None:
        super().__init__(prompt)
        self.request = Request(messages=messages)
        self.speak: Callable[[Branch, int, Any], Said] | None = None
        self.rows = torch.zeros(2, 4)

    def branch(self, name: str, **view: Any) -> Branch:
        return replace(super().branch(name, **view), messages=view.get("messages"))

    def say(
        self, branch: Branch, max_new_tokens: int, policies: Any = (), each: Any = None
    ) -> Said:
        assert self.speak is not None
        for row in self.rows if each is not None else ():
            each(row)
        return self.speak(branch, max_new_tokens, policies)


def test_every_vector_is_used_and_every_file_is_there() -> None:
    VECTORS.assert_complete()
    assert VECTORS.tasks == {"vdgd.score", "carve.fuse", "carve.grid"}


# VDGD


def vdgd(rows: Tensor, **params: Any) -> Plan:
    """The plan after a description with these rows."""
    ctx = Asker(question("Why?", Image.new("RGB", (8, 8))))
    ctx.speak, ctx.rows = lambda *asked: Said((0,) * len(rows), "A dog."), rows
    return plan_of("vdgd", ctx, **params)


@cases("vdgd.score")
def test_vdgd(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    own = {"top_p": p["top_p"], "temperature": p["temperature"]}
    z, kept = data.in_z[0], data.out_nucleus[0].isfinite()
    for reduction in ("min", "avg", "sum"):
        wanted = getattr(data, f"out_scores_{reduction}")[0]
        for kl_scale, factor in (("repo", 1), ("paper", len(z))):
            plan = vdgd(data.in_description_logits, reduction=reduction, kl_scale=kl_scale, **own)
            found = plan.rule(Step(3, {"main": z}, [1, 2, 3]))
            assert_close(found / factor, wanted, case["tolerance"])
            assert torch.equal(found.isfinite(), kept)


def test_vdgd_golden_rows() -> None:
    """methods-logits 11."""
    rows = torch.tensor([[3.0, 0, 0, 0], [0, 2, 0, 1], [0, 0, 0, 4]])
    everything = {"top_p": 1.0}
    wanted = {
        "min": torch.tensor([-0.139206, -0.493812, -2.493812, -0.053490]),
        "avg": torch.tensor([-2.228836, -2.562169, -3.228836, -1.562169]),
    }
    wanted["sum"] = 3 * wanted["avg"]
    for reduction, row in wanted.items():
        for kl_scale, factor in (("paper", 1), ("repo", 4)):
            plan = vdgd(rows, reduction=reduction, kl_scale=kl_scale, **everything)
            assert_close(plan.rule(Step(0, {"main": Z}, [])), row / factor, 4e-6)
    (best,) = vdgd(rows).rule(Step(0, {"main": Z}, [])).isfinite().nonzero()
    assert int(best) == 0
    assert float(torch.softmax(Z / 0.5, -1)[0]) == pytest.approx(0.864955, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        ((0.4, 0.3, 0.25, 0.05), (0, 1, 2)),
        ((0.1, 0.7, 0.1, 0.1), (1,)),
        ((0.28, 0.25, 0.24, 0.23), (0,)),
        ((0.02, 0.48, 0.47, 0.03), (1, 2)),
    ],
)
def test_vdgd_knee(p: tuple[float, ...], kept: tuple[int, ...]) -> None:
    plan = vdgd(torch.zeros(2, 4), candidates="knee")
    found = plan.rule(Step(0, {"main": torch.tensor(p).log()}, []))
    assert tuple(found.isfinite().nonzero().flatten().tolist()) == kept


def test_vdgd_asks_for_a_description_and_puts_it_before_the_question() -> None:
    messages = (
        Message(role="system", content=(Text(text="Be short."),)),
        *question("Why?", Image.new("RGB", (8, 8))),
    )
    ctx = Asker(messages)
    ctx.speak = lambda branch, most, policies: (
        Said((1, 2), "A dog.") if most == 7 else pytest.fail("limit")
    )
    own = {"describe": "Tell all for: {question}", "prefix": "It shows:", "describe_tokens": 7}
    plan = plan_of("vdgd", ctx, **own)
    asked, told = (ctx.asked[name]["messages"] for name in ("description", "main"))
    assert asked[0] == told[0] == messages[0]
    assert [type(part) for part in asked[1].content] == [Picture, Text]
    assert question_of(asked) == "Tell all for: Why?"
    assert question_of(told) == "It shows: A dog. Why?"
    assert plan.main.messages == told
    assert plan.extra == ()
    assert plan_of("vdgd", ctx, describe_tokens=0).main == ctx.main


def greedy(model: Any, prompt: Prompt, n: int, ends: frozenset[int]) -> list[int]:
    """A stock model's greedy tokens, without a cache."""
    tokens: list[int] = []
    while len(tokens) < n and not (tokens and tokens[-1] in ends):
        tokens.append(int(full_rows(model, prompt, tokens)[-1].argmax()))
    return tokens


@pytest.mark.parametrize("family", CHECKED)
@pytest.mark.parametrize(
    "own",
    [{}, {"reduction": "avg", "kl_scale": "repo"}, {"reduction": "sum", "candidates": "knee"}],
)
def test_vdgd_equals_divergences_one_by_one(
    family: str, own: dict[str, Any], adapter: Any, stock: Any, picture: Any
) -> None:
    mine, model = adapter(family), stock(family)
    asked = request(
        picture, "vdgd", {"describe_tokens": 5, "top_p": 0.9, "temperature": 1.0, **own}
    )
    run = record(mine, asked)
    p = run.answer.strategy.params
    image, words = asked.images[0], question_of(asked.messages)
    describing = mine.encode(question(p["describe"].replace("{question}", words), image))
    said = greedy(model, describing, 5, mine.ends)
    description = torch.softmax(full_rows(model, describing, said)[: len(said)].double(), -1)
    text = mine.tokenizer.decode(said, skip_special_tokens=True).strip()
    assert len(said) == 5
    words = " ".join(part for part in (p["prefix"], text, words) if part)
    main = mine.encode(question(words, image))
    assert run.plan.main.prompt.ids == main.ids
    rows = full_rows(model, main, run.tokens)
    for z, found, step in zip(rows, run.ruled, run.steps, strict=False):
        assert (z - step.main).abs().max() < 1e-4
        assert_close(found, divergences(z, description, p), 1e-3)


def divergences(z: Tensor, description: Tensor, p: dict[str, Any]) -> Tensor:
    q = torch.softmax(z.double() / (p["temperature"] if p["candidates"] == "nucleus" else 1), -1)
    order = sorted(range(len(q)), key=lambda k: -float(q[k]))
    if p["candidates"] == "knee":
        drops = [float(q[a] - q[b]) for a, b in itertools.pairwise(order)]
        kept = order[: max(range(len(drops)), key=lambda k: drops[k]) + 1]
    else:
        kept, mass = [], 0.0
        while mass < p["top_p"]:
            kept.append(order[len(kept)])
            mass += float(q[kept[-1]])
    scores = torch.full_like(z, NO)
    for k in kept:
        kl = [-math.log(float(row[k])) for row in description]
        joint = {"min": min(kl), "avg": sum(kl) / len(kl), "sum": sum(kl)}[p["reduction"]]
        scores[k] = -joint / (len(z) if p["kl_scale"] == "repo" else 1)
    return scores


@pytest.mark.parametrize("family", CHECKED)
def test_vdgd_and_var(family: str, adapter: Any, stock: Any, picture: Any) -> None:
    """A replacing rule on a steered main branch: the maps change after the description, too."""
    own = {f"var.{key}": value for key, value in PARAMS["var"].items()}
    own["vdgd.describe_tokens"] = 4
    runs = [
        record(adapter(family), request(picture, name, own)) for name in ("vdgd+var", "var+vdgd")
    ]
    alone = record(adapter(family), request(picture, "vdgd", {"describe_tokens": 4}))
    main = runs[0].plan.main.prompt
    assert main.ids == alone.plan.main.prompt.ids
    assert runs[0].tokens == runs[1].tokens
    var = {key.removeprefix("var."): value for key, value in own.items()} | {"mode": "paper"}
    oracle = oracles.VarOracle(stock(family), main, var)
    try:
        rows = oracles.oracle_rows(stock(family), main, runs[0].tokens, oracle)
    finally:
        oracle.remove()
    assert oracle.changed > 0
    for step, row in zip(runs[0].steps, rows, strict=False):
        assert (step.main - row).abs().max() < 1e-4
        assert_close(runs[0].plan.rule(step), alone.plan.rule(Step(0, {"main": row}, [])), 1e-3)


# CARVE


def looking(maps: dict[str, Tensor], layers: Sequence[int]) -> Callable[..., Said]:
    """Branches whose two heads attend to the picture as the maps [steps, layers, N] say, and to one
    more key for the rest.
    """

    def speak(branch: Branch, most: int, policies: Any) -> Said:
        (policy,) = policies
        own = maps[branch.name][:most]
        for step in own:
            for layer in range(len(step)):
                if policy.looks(layer):
                    row = torch.cat([1 - step[layer].sum()[None], step[layer]])
                    policy.look(layer, row.log().expand(2, -1))
        looked.append(policy)
        return Said((0,) * len(own), "")

    looked: list[Any] = []
    speak.looked = looked
    return speak


NAMES = {"attention_sum": "mass", "size": "size", "remove_small": "all"}


@cases("carve.fuse")
def test_carve(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    rows, columns = p["grid"]
    grid = Grid(0, rows, columns, columns)
    layout = Layout(1 + rows * columns, (ImageSpan(1, 1 + rows * columns, (grid,)),))
    image = Image.fromarray(data.in_image.numpy())
    ctx = Asker(question("Why?", image), replace(prompt_of(4, [1, 2]), layout=layout))
    depth = data.in_query_maps.shape[1]
    ctx.model = replace(ctx.model, layers=depth)
    ctx.speak = looking({"query": data.in_query_maps, "general": data.in_general_maps}, p["layers"])
    own = {
        "mode": "official",
        "layers": [
            layer for layer in p["layers"] if layer < depth
        ],  # ours refuses what is not there
        "lam": p["lam"],
        "steps": p["step_mode"],
        "top": p["top_percent"],
        "regions": p["min_keep_regions"],
        "regions_by": NAMES[p["strategy"]],
    }
    plan_of("carve", ctx, **own)
    query, general = ctx.speak.looked
    heat = stretched(
        contrast(query.heats(0), general.heats(0), p["lam"], p["step_mode"]), image.size
    )
    assert np.allclose(heat, data.out_S.numpy(), rtol=case["tolerance"], atol=0)
    mask = top_regions(
        heat, p["top_percent"], NAMES[p["strategy"]], p["min_keep_regions"], more=True
    )
    assert np.array_equal(mask, data.out_mask.numpy().astype(bool))
    assert around(mask) == tuple(data.out_bbox.tolist())
    first, second = shown(ctx.asked["main"]["messages"])
    assert first is image
    assert second.size == tuple(data.out_crop_size.tolist())
    gap = np.asarray(second, int) - data.out_crop.numpy().astype(int)
    assert np.abs(gap).max() <= 1
    if len(own["layers"]) < len(p["layers"]):
        with pytest.raises(BadInput, match="layers"):
            plan_of("carve", ctx, **own | {"layers": p["layers"]})


def shown(messages: tuple[Message, ...]) -> list[Image.Image]:
    return [part.image for m in messages for part in m.content if isinstance(part, Picture)]


@cases("carve.grid")
def test_carve_takes_the_true_grid(case: dict[str, Any]) -> None:
    """The released table scrambles what it knows by count alone; ours has the layout's grid."""
    given, wanted = case["json_inputs"], case["json_outputs"]["grid"]
    rows, columns = given["true_grid"] or wanted or (5, 10)
    span = ImageSpan(0, given["tokens"], (Grid(0, rows, columns, columns),))
    weights = np.arange(given["tokens"], dtype=float)
    assert np.array_equal(span.heat(weights), weights.reshape(rows, columns))
    same = wanted == [rows, columns]
    assert same or case["id"] in ("carve-shape-known", "carve-shape-none")


@pytest.mark.parametrize(
    ("steps", "weights"),
    [("all", (1, 2)), ("unweighted", (1, 1)), ("first", (1, 0)), ("last", (0, 1))],
)
def test_carve_time(steps: Any, weights: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    query, general = rng.random((3, 2, 4, 5)), rng.random((2, 2, 4, 5))
    found = contrast(list(query), list(general), 0.5, steps)
    wanted = sum(
        w * query[t][layer] / (general[t][layer] + 0.5)
        for t, w in enumerate(weights)
        for layer in range(2)
    )
    assert np.allclose(found, wanted)


def test_carve_paper_keeps_at_most_and_official_at_least() -> None:
    heat = np.diag(1.0 + np.arange(21))  # 21 regions that touch at corners only
    few = top_regions(heat, 0.04, "mass", 3, more=False)
    assert np.argwhere(few).tolist() == [[18, 18], [19, 19], [20, 20]]
    checkers = np.indices((20, 20)).sum(0) % 2 + np.linspace(0, 0.1, 400).reshape(20, 20)
    assert top_regions(checkers, 0.5, "mass", 3, more=True).sum() == 100  # half of 200 regions
    assert top_regions(checkers, 0.5, "mass", 3, more=False).sum() == 3


def test_carve_prompts() -> None:
    image = Image.new("RGB", (20, 10))
    layout = Layout(9, (ImageSpan(1, 9, (Grid(0, 2, 4, 4),)),))
    ctx = Asker(question("Why?", image), replace(prompt_of(4, [1, 2]), layout=layout))
    ctx.model = replace(ctx.model, layers=28)
    maps = torch.full((2, 28, 8), 0.1)
    ctx.speak = looking({"query": maps, "general": maps}, ())
    plan = plan_of("carve", ctx)
    assert ctx.speak.looked[0].layers == list(range(20, 26))
    assert question_of(ctx.asked["query"]["messages"]) == (
        "Why? Answer the question using a single word or phrase."
    )
    assert question_of(ctx.asked["general"]["messages"]) == (
        "Write a general description of the image."
        " Answer the question using a single word or phrase."
    )
    assert question_of(ctx.asked["main"]["messages"]) == "Why?"
    (refined,) = shown(ctx.asked["main"]["messages"])
    assert refined.size == image.size
    assert plan.main.messages == ctx.asked["main"]["messages"]
    assert len(shown(plan_of("carve", ctx, mode="official").main.messages or ())) == 2


def flood(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """4-connected regions, one pixel at a time."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        region, front = [], [min(left)]
        left.discard(front[0])
        while front:
            y, x = front.pop()
            region.append((y, x))
            for spot in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if spot in left:
                    left.discard(spot)
                    front.append(spot)
        found.append(region)
    return found


def carved(
    model: Any, mine: Any, asked: Request, p: dict[str, Any], layers: Sequence[int]
) -> Image.Image:
    """CARVE's refined picture from whole maps of the stock model."""
    image = asked.images[0]
    maps = []
    for words in (question_of(asked.messages), p["general"]):
        prompt = mine.encode(question(f"{words} {p['suffix']}", image))
        said = greedy(model, prompt, p["max_steps"], mine.ends)
        kept: dict[int, Tensor] = {}

        def keep(layer: int, weights: Tensor, v: Tensor, kept: Any = kept) -> Tensor:
            kept[layer] = weights.mean(0)
            return weights @ v

        oracles.oracle_rows(model, prompt, said, keep)
        span, first = prompt.layout.images[0], len(prompt.ids) - 1
        maps.append(
            [
                [
                    span.heat(kept[layer][first + t, span.start : span.stop].numpy())
                    for layer in layers
                ]
                for t in range(len(said))
            ]
        )
    total = np.zeros((image.height, image.width))
    for t in range(min(map(len, maps))):
        for q, g in zip(maps[0][t], maps[1][t], strict=True):
            ratio = Image.fromarray((q / (g + p["lam"])).astype(np.float32))
            wide = ratio.resize(image.size, Image.Resampling.BILINEAR)
            total += (t + 1) * np.asarray(wide, float)
    over = np.sort(total.ravel())
    place = (1 - p["top"]) * (over.size - 1)
    low = math.floor(place)
    threshold = over[low] + (place - low) * (over[min(low + 1, over.size - 1)] - over[low])
    regions = flood(total >= threshold)
    regions.sort(key=lambda region: -sum(total[spot] for spot in region))
    count = p["regions"]
    if p["mode"] == "official":
        count = max(count, int(len(regions) * p["top"]))
    pixels = np.zeros_like(np.asarray(image))
    spots = [spot for region in regions[:count] for spot in region]
    for y, x in spots:
        pixels[y, x] = np.asarray(image)[y, x]
    left, top = min(x for _, x in spots), min(y for y, _ in spots)
    right, bottom = max(x for _, x in spots) + 1, max(y for y, _ in spots) + 1
    scale = max(image.width / (right - left), image.height / (bottom - top))
    size = (int((right - left) * scale), int((bottom - top) * scale))
    return Image.fromarray(pixels[top:bottom, left:right]).resize(size, Image.Resampling.LANCZOS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_carve_equals_whole_maps(
    family: str, mode: str, adapter: Any, stock: Any, picture: Any
) -> None:
    mine, model = adapter(family), stock(family)
    own = {"mode": mode, "max_steps": 3, "layers": (1, 3), "regions": 1, "lam": 1e-4}
    asked = request(picture, "carve", own)
    run = record(mine, asked)
    refined = carved(model, mine, asked, run.answer.strategy.params, (1, 3))
    images = (refined,) if mode == "paper" else (asked.images[0], refined)
    main = run.plan.main.prompt
    found = main.images
    assert [one.size for one in found] == [one.size for one in images]
    for one, other in zip(found, images, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    assert len(main.layout.images) == len(images)
    rows = full_rows(model, main, run.tokens)
    for step, row in zip(run.steps, rows, strict=False):
        assert (step.main - row).abs().max() < 1e-4


def test_carve_refines_each_picture_in_its_place(adapter: Any, picture: Any) -> None:
    content = (
        Picture(image=picture(90, 60, seed=1)),
        Text(text="and"),
        Picture(image=picture(60, 120, seed=2)),
        Text(text="differ how?"),
    )
    asked = Request(
        messages=(Message(role="user", content=content),),
        strategy="carve",
        params={"mode": "official", "max_steps": 2},
    )
    (plan, _) = halu.planning.choose(asked).plan(adapter("qwen2_5_vl"), asked)
    (message,) = plan.main.messages or ()
    kinds = [type(part) for part in message.content]
    assert kinds == [Picture, Picture, Text, Picture, Picture, Text]
    assert shown((message,))[0] == content[0].image
    assert shown((message,))[2] == content[2].image


def test_carve_without_scipy_says_what_to_install(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(Unavailable, match=r"scipy.*\[eval\]"):
        Local(adapter("llava")).generate([request(picture, "carve", {"max_steps": 1})])


# ARA


class Shelf:
    """A retriever that always finds the same and remembers what it was asked."""

    captions = ("A red cat.", "two of image", "Is it yes", "a dog.")

    def __init__(self) -> None:
        self.asked: list[tuple[Image.Image, int, bool]] = []
        self.said: list[str] = []

    def search(self, image: Image.Image, k: int, *, regions: bool = False) -> list[Found]:
        self.asked.append((image, k, regions))
        return [Found(("R " if regions else "") + caption, 0.5) for caption in self.captions]

    def alike(self, text: str, others: Sequence[str]) -> list[float]:
        self.said.append(text)
        return [0.1, 0.9, 0.5, 0.2]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf()
    monkeypatch.setattr(retrieval, "load", lambda name: made)
    return made


def dependence(model: Any, mine: Any, prompt: Prompt) -> float:
    seen = full_rows(model, prompt, [])[0].log_softmax(-1)
    blind = full_rows(model, mine.without_images(prompt), [])[0].log_softmax(-1)
    return float(seen.max() - blind[seen.argmax()])


@pytest.mark.parametrize("family", FAMILIES)
def test_ara_equals_its_equations(
    family: str, adapter: Any, stock: Any, picture: Any, shelf: Shelf
) -> None:
    mine, model = adapter(family), stock(family)
    own = {"threshold": 100.0, "coarse": 0.7, "fine": 0.2, "keep": 2, "caption_tokens": 3}
    asked = request(picture, "ara", {**own, "candidates": 4, "crop": 0.5})
    run = record(mine, asked)
    image, words = asked.images[0], question_of(asked.messages)
    assert [(k, regions) for _, k, regions in shelf.asked] == [(4, False), (4, True)]
    assert shelf.asked[0][0] is image
    crop = shelf.asked[1][0]
    assert crop == image.crop(hottest(model, mine.encode(asked.messages), image))
    p = run.answer.strategy.params
    for shown_, said in zip((image, crop), shelf.said, strict=True):
        describing = mine.encode(question(p["caption"], shown_))
        tokens = greedy(model, describing, 3, mine.ends)
        assert said == mine.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    parts = ((1.0, words), *((w, f"{p['introduction']} {t} {words}") for w, t in told(own)))
    probabilities = sum(
        weight
        * torch.softmax(full_rows(model, mine.encode(question(t, image)), run.tokens).double(), -1)
        for weight, t in parts
    )
    for found, wanted in zip(run.ruled, probabilities / 1.9, strict=False):
        assert (found.exp() - wanted).abs().max() < 1e-5


def told(own: dict[str, Any]) -> list[tuple[float, str]]:
    """Weights and the captions used: the two most alike, as sentences."""
    return [
        (own["coarse"], "two of image. Is it yes."),
        (own["fine"], "R two of image. R Is it yes."),
    ]


def hottest(model: Any, prompt: Prompt, image: Image.Image) -> tuple[int, int, int, int]:
    """The half window with most of the last row's attention, tried one by one."""
    kept: list[Tensor] = []

    def keep(layer: int, weights: Tensor, v: Tensor) -> Tensor:
        kept.append(weights[:, len(prompt.ids) - 1].mean(0))
        return weights @ v

    oracles.oracle_rows(model, prompt, [], keep)
    span = prompt.layout.images[0]
    heat = span.heat(torch.stack(kept).mean(0)[span.start : span.stop].numpy())
    rows, columns = heat.shape
    h, w = max(1, round(rows / 2)), max(1, round(columns / 2))
    best = max(
        ((y, x) for y in range(rows - h + 1) for x in range(columns - w + 1)),
        key=lambda at: float(heat[at[0] : at[0] + h, at[1] : at[1] + w].sum()),
    )
    down, across = image.height / rows, image.width / columns
    top, left = round(best[0] * down), round(best[1] * across)
    return left, top, round((best[1] + w) * across), round((best[0] + h) * down)


@pytest.mark.parametrize("family", CHECKED)
def test_ara_looks_up_only_where_the_picture_hardly_counts(
    family: str, adapter: Any, stock: Any, picture: Any, shelf: Shelf
) -> None:
    mine = adapter(family)
    asked = request(picture, "ara")
    m = dependence(stock(family), mine, mine.encode(asked.messages))
    for threshold, looked_up in ((m - 0.01, False), (m + 0.01, True)):
        shelf.asked.clear()
        run = record(mine, request(picture, "ara", {"threshold": threshold, "caption_tokens": 0}))
        assert bool(shelf.asked) is bool(run.plan.extra) is looked_up
        assert run.count.prompts - 1 == 2
    assert not shelf.said  # caption_tokens 0: nothing is reordered
    run = record(mine, request(picture, "ara", {"threshold": 100, "fine": 0, "caption_tokens": 0}))
    assert [branch.name for branch in run.plan.extra] == ["coarse"]
    assert "A red cat. two of image. Is it yes." in question_of(run.plan.extra[0].messages or ())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("Is there a dog in the image?", "dog"),
        ("Is there any traffic on a wet street?", "traffic"),
        ("How many dogs are in the picture?", "dog"),
        ("What color is the big red car?", "car"),
        ("Why?", None),
    ],
)
def test_ara_with_a_detector_looks_up_what_the_question_names(
    words: str, named: str | None, adapter: Any, picture: Any, shelf: Shelf, monkeypatch: Any
) -> None:
    asked: list[tuple[str, ...]] = []

    class Finds:
        def find(self, image: Image.Image, phrase: str, box: float, text: float) -> list[Box]:
            asked.append((phrase,))
            return [Box(0, 0.5, 0.5, 1), Box(0, 0, 1, 1)] if phrase == "dog" else []

    monkeypatch.setattr("halu.decoders.ara.open_finder", lambda weights: Finds())
    own = {"threshold": 100, "boxes": "grounding-dino", "caption_tokens": 0}
    run = record(adapter("llava"), request(picture, "ara", own, text=words))
    assert asked == ([(named,)] if named else [])
    found = named == "dog"
    assert [branch.name for branch in run.plan.extra] == ["coarse", *(["fine"] if found else [])]
    if found:
        assert shelf.asked[1][0].size == (45, 30)


def test_ara_wants_one_picture(adapter: Any, picture: Any, shelf: Shelf) -> None:
    messages = question("Differ?", picture(), picture(seed=1))
    with pytest.raises(Unsupported, match="one picture, not 2"):
        Local(adapter("llava")).generate([Request(messages=messages, strategy="ara")])


# Together


@pytest.mark.parametrize("joined", ["vdgd+carve", "carve+vdgd"])
def test_two_parts_cannot_rewrite_the_conversation(joined: str, adapter: Any, picture: Any) -> None:
    with pytest.raises(Unsupported, match="both rewrite"):
        Local(adapter("llava")).generate([request(picture, joined, {"carve.max_steps": 1})])


@pytest.mark.parametrize("joined", ["carve+icd", "icd+carve"])
def test_others_see_the_rewritten_conversation(joined: str, adapter: Any, picture: Any) -> None:
    own = {"carve.mode": "official", "max_steps": 2}
    run = record(adapter("llava"), request(picture, joined, own))
    (disturbed,) = run.plan.extra
    assert len(run.plan.main.prompt.layout.images) == 2
    assert len(disturbed.prompt.layout.images) == 2
    alone = record(adapter("llava"), request(picture, "carve", own))
    assert alone.plan.main.prompt.images[1] == disturbed.prompt.images[1]


@pytest.mark.parametrize("name", ["vdgd", "carve", "ara"])
def test_a_hosts_conversation_is_not_rewritten(name: str, picture: Any, shelf: Shelf) -> None:
    released = random_adapter("llava")
    released.release()
    model, processor = released.model, released.processor
    params = {"threshold": 100.0} if name == "ara" else {}
    halu.enable(model, processor, name, **params)
    try:
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a dog"}]}],
            add_generation_prompt=True,
        )
        inputs = processor(images=picture(), text=text, return_tensors="pt")
        with pytest.raises(Unsupported, match="rewrites the conversation"):
            model.generate(**inputs, max_new_tokens=2)
    finally:
        halu.disable(model)
