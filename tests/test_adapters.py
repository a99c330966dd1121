"""Every family: which token is what, the stock model's numbers, loading and refusing."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recorder import ending, full_rows, record
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import halu
from halu.adapters import Adapter, supported
from halu.adapters.cache import RowCache
from halu.adapters.vision import Features, Vision
from halu.attention import Epilogue
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.engine import Local
from halu.errors import BadInput, Failed, HaluError, Unavailable, Unknown, Unsupported
from halu.host import enable
from halu.layout import Grid, ImageSpan, Layout
from halu.prompt import Prompt
from halu.search import filtered
from halu.testing.random_models import FAMILIES, random_adapter
from halu.types import Sampling, question
from halu.vlm import asking

on_all_families = pytest.mark.parametrize("family", FAMILIES)
SIZES = {"none": [], "one": [(56, 56)], "wide": [(200, 60)], "two": [(60, 150), (90, 70)]}
on_all_pictures = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def encoded(adapter: Adapter, picture: Any, sizes: Any, text: str = "Is there a dog?") -> Prompt:
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    return adapter.encode(question(text, *images))


def inputs_of(adapter: Adapter, picture: Any, sizes: Any) -> Any:
    """What a user of transformers feeds to the stock model for the same conversation."""
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    content = [{"type": "image", "image": image} for image in images]
    content.append({"type": "text", "text": "Is there a dog?"})
    return adapter.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


# Layout


@on_all_families
@on_all_pictures
def test_the_layout_says_of_each_token_what_it_is(
    family: str, sizes: Any, adapter: Any, picture: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture, sizes)
    layout = prompt.layout
    assert layout.length == len(prompt.ids)
    assert len(layout.images) == len(sizes) == len(prompt.images)
    is_image = [token == mine.image_token for token in prompt.ids]
    assert layout.is_image().tolist() == is_image
    assert layout.image_tokens == sum(is_image)
    parts = [layout.system, layout.question]
    covered = np.zeros(layout.length, dtype=int)
    for part in parts:
        covered[part] += 1
    if sizes:
        between = np.arange(layout.images[0].start, layout.images[-1].stop)
        covered[between] += 1
    assert (covered == 1).all()
    features = mine.runner.features(prompt)
    assert (features is None) == (not sizes)
    if features is not None:
        assert features.tokens.shape == (layout.image_tokens, mine.facts.hidden)
    for span in layout.images:
        fine = max(span.grids, key=lambda grid: grid.rows * grid.columns)
        places = [
            grid.start + row * grid.stride + column
            for grid in span.grids
            for row in range(grid.rows)
            for column in range(grid.columns)
        ]
        assert len(set(places)) == len(places)
        assert max(places) < span.stop - span.start
        heat = span.heat(np.ones(span.stop - span.start))
        assert heat.shape == (fine.rows, fine.columns)
        assert heat.sum() == pytest.approx(len(places))


@on_all_families
@on_all_pictures
def test_ids_and_positions_are_the_stock_models(
    family: str, sizes: Any, adapter: Any, picture: Any, stock: Any
) -> None:
    mine = adapter(family)
    prompt, inputs = encoded(mine, picture, sizes), inputs_of(mine, picture, sizes)
    assert list(prompt.ids) == inputs["input_ids"][0].tolist()
    for key, value in prompt.pixels.items():
        assert torch.equal(value, inputs[key])
    if mine.position_axes == 1:
        assert prompt.positions.tolist() == list(range(len(prompt.ids)))
        assert prompt.next_position == len(prompt.ids)
        return
    wanted, delta = stock(family).model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        attention_mask=inputs["attention_mask"],
    )
    assert torch.equal(prompt.positions, wanted[:, 0])
    assert prompt.next_position == len(prompt.ids) + int(delta)


def test_llava_next_lays_an_overview_and_tiles_with_line_ends(adapter: Any, picture: Any) -> None:
    mine = adapter("llava_next")
    side = 4  # patches of the 56-pixel tower
    shapes = {(56, 56): (4, 4), (120, 120): (8, 8), (200, 60): (2, 8), (60, 200): (8, 2)}
    for size, (rows, columns) in shapes.items():
        (span,) = encoded(mine, picture, [size]).layout.images
        overview, tiles = span.grids
        assert overview == Grid(0, side, side, side)
        assert (tiles.start, tiles.stride) == (side**2, tiles.columns + 1)
        assert (tiles.rows, tiles.columns) == (rows, columns)
        assert span.stop - span.start == side**2 + rows * (columns + 1)


def test_qwen_grids_are_the_merged_patches(adapter: Any, picture: Any) -> None:
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        prompt = encoded(adapter(family), picture, [(112, 56), (56, 168)])
        cells = prompt.pixels["image_grid_thw"][:, 1:] // 2
        for span, (rows, columns) in zip(prompt.layout.images, cells.tolist(), strict=True):
            assert span.grids == (Grid(0, rows, columns, columns),)
            assert span.stop - span.start == rows * columns
        assert cells[0, 1] > cells[0, 0]
        assert cells[1, 0] > cells[1, 1]


def test_heat_lies_where_the_token_lies(adapter: Any, picture: Any) -> None:
    (span,) = encoded(adapter("llava_next"), picture, [(120, 120)]).layout.images
    weights = np.zeros(span.stop - span.start)
    tiles = span.grids[1]
    weights[tiles.start + tiles.stride * 1 + 6] = 1.0  # row 1, column 6
    weights[tiles.start + tiles.columns] = 5.0  # a line end lies nowhere
    heat = span.heat(weights)
    assert heat[1, 6] == 1
    assert heat.sum() == 1
    coarse = ImageSpan(0, 20, (Grid(0, 2, 2, 2), Grid(4, 4, 4, 4)))
    spread = coarse.heat(np.array([0, 4.0, 0, 0] + [0.0] * 16))
    assert spread[:2, 2:].tolist() == [[1, 1], [1, 1]]
    assert spread.sum() == 4


def test_a_layout_without_pictures_is_all_question() -> None:
    layout = Layout(5)
    assert (layout.system, layout.question) == (slice(0, 0), slice(0, 5))
    assert (layout.image_tokens, layout.is_image().sum()) == (0, 0)


@on_all_families
def test_a_count_that_does_not_fit_the_pictures_is_refused(
    family: str, adapter: Any, picture: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture, [(56, 56)])
    start = prompt.layout.images[0].start
    ids = torch.tensor(prompt.ids)
    broken = {
        "one less": torch.cat([ids[:start], ids[start + 1 :]]),
        "one more": torch.cat([ids[:start], ids[start : start + 1], ids[start:]]),
        "torn apart": torch.cat([ids[: start + 1], ids[:1], ids[start + 1 :]]),
    }
    for what, changed in broken.items():
        with pytest.raises(Failed, match=r"image tokens|picture"):
            mine.prompts({"input_ids": changed[None], **prompt.pixels})
        assert what


# Prompts of other people's batches


@on_all_families
def test_prompts_come_back_from_a_padded_batch(family: str, adapter: Any, picture: Any) -> None:
    mine = adapter(family)
    cases = [SIZES["two"], [], [(56, 56)], [(200, 60)]]
    single = [inputs_of(mine, picture, sizes) for sizes in cases]
    wanted = [encoded(mine, picture, sizes) for sizes in cases]
    longest = max(one["input_ids"].shape[1] for one in single)
    for left in (True, False):
        ids, mask = torch.zeros(2, len(cases), longest, dtype=torch.long)
        for row, one in enumerate(single):
            length = one["input_ids"].shape[1]
            place = slice(longest - length, longest) if left else slice(0, length)
            ids[row, place], mask[row, place] = one["input_ids"][0], 1
        pixels = _joined([one for one in single if "pixel_values" in one], mine.pixel_keys)
        found = mine.prompts({"input_ids": ids, "attention_mask": mask, **pixels})
        for one, other in zip(found, wanted, strict=True):
            assert one.ids == other.ids
            assert one.layout == other.layout
            assert torch.equal(one.positions, other.positions)
            assert one.next_position == other.next_position
            for key in other.pixels:
                common = tuple(slice(0, size) for size in other.pixels[key].shape)
                assert torch.equal(one.pixels[key][common], other.pixels[key])


def _joined(singles: list[Any], keys: tuple[str, ...]) -> dict[str, Tensor]:
    """The pixels of several processor outputs as one batch has them."""
    found = {}
    for key in keys:
        parts = [one[key] for one in singles]
        most = max(part.shape[1] for part in parts)
        if key == "pixel_values" and parts[0].dim() == 5:  # NeXT pads the number of tiles
            parts = [torch.nn.functional.pad(p, (0, 0) * 3 + (0, most - p.shape[1])) for p in parts]
        found[key] = torch.cat(parts)
    return found


# Views


@on_all_families
@on_all_pictures
def test_pictures_can_be_dropped(
    family: str, sizes: Any, adapter: Any, picture: Any, stock: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture, sizes)
    blind = mine.without_images(prompt)
    assert blind.ids == tuple(t for t in prompt.ids if t not in mine.placeholders)
    assert (blind.images, blind.layout) == ((), Layout(len(blind.ids)))
    assert dict(blind.pixels) == {}
    assert blind.next_position == len(blind.ids)
    assert blind.positions.reshape(-1, len(blind.ids))[0].tolist() == [*range(len(blind.ids))]
    assert mine.image_token in mine.placeholders
    if sizes:
        assert "dog" in mine.tokenizer.decode(blind.ids)


@on_all_families
def test_pictures_can_be_exchanged_for_some_of_another_size(
    family: str, adapter: Any, picture: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture, [(60, 150), (90, 70)])
    others = (picture(200, 60, 7), picture(56, 56, 8))
    changed = mine.with_images(prompt, others)
    wanted = mine.encode(question("Is there a dog?", *others))
    assert changed.ids == wanted.ids
    assert changed.layout == wanted.layout
    assert torch.equal(changed.positions, wanted.positions)
    assert changed.images == others
    assert all(torch.equal(changed.pixels[key], wanted.pixels[key]) for key in wanted.pixels)
    same = mine.with_images(prompt, prompt.images)
    assert same.ids == prompt.ids
    assert all(torch.equal(same.pixels[key], prompt.pixels[key]) for key in prompt.pixels)


@on_all_families
def test_a_view_of_the_pixels_sees_each_picture_and_keeps_the_frames_equal(
    family: str, adapter: Any, picture: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture, [(60, 150)])
    shapes = []

    def view(pixels: Tensor) -> Tensor:
        shapes.append(pixels.shape)
        return -2 * pixels

    seen = mine.with_pixels(prompt, view)
    assert len(shapes) == 1
    assert shapes[0][-3] == 3
    assert torch.equal(seen.pixels["pixel_values"], -2 * prompt.pixels["pixel_values"])
    assert (seen.ids, seen.layout) == (prompt.ids, prompt.layout)
    calls = [0]

    def fresh(pixels: Tensor) -> Tensor:
        calls[0] += 1
        return torch.randn(pixels.shape, generator=torch.Generator().manual_seed(calls[0]))

    noisy = mine.with_pixels(prompt, fresh).pixels["pixel_values"]
    if mine.position_axes == 3:
        vision = mine.model.config.vision_config
        frames = noisy.reshape(len(noisy), 3, vision.temporal_patch_size, -1)
        assert torch.equal(frames[:, :, 0], frames[:, :, 1])


@on_all_families
@pytest.mark.parametrize("sizes", [SIZES["one"], SIZES["wide"], SIZES["two"]])
def test_pictures_read_from_pixels_give_the_same_pixels_again(
    family: str, sizes: Any, adapter: Any, picture: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture, sizes)
    shown = mine.pictures(prompt.pixels)
    assert len(shown) == len(sizes)
    again = mine.with_images(prompt, shown)
    assert again.ids == prompt.ids
    level = 1 / 255 / min(mine.processor.image_processor.image_std)
    for key in prompt.pixels:
        gap = (again.pixels[key].float() - prompt.pixels[key].float()).abs()
        if family == "llava_next":  # only the overview is read; tiles come from it, coarser
            assert gap.mean() < 0.5
        else:
            assert gap.max() <= 0.51 * level


def test_features_of_a_picture_are_computed_once_and_not_confused(
    adapter: Any, picture: Any
) -> None:
    mine, looks = random_adapter("llava"), []
    mine.tower.register_forward_hook(lambda *call: looks.append(1))
    first, second = (encoded(mine, picture, [(56, 56)]) for _ in range(2))
    assert torch.equal(mine.runner.features(first).tokens, mine.runner.features(second).tokens)
    assert len(looks) == 1
    other = mine.with_pixels(first, lambda pixels: pixels + 1e-3)
    assert not torch.equal(mine.runner.features(other).tokens, mine.runner.features(first).tokens)
    assert len(looks) == 2


def test_features_are_kept_up_to_a_bound_in_bytes(adapter: Any, picture: Any) -> None:
    mine, looks = adapter("llava"), []

    def look(pixels: Any) -> Features:
        looks.append(len(pixels["pixel_values"]))
        return mine.look(pixels)

    first, *others = (encoded(mine, picture, [(56, 56 + n)]) for n in range(4))
    size = mine.runner.features(first).size
    vision = Vision(look, mine.runner.device, kept_bytes=3 * size + 1)
    for prompt in (first, *others[:2], first):
        vision.features([prompt])
    assert looks == [1] * 3
    vision.features([others[2]])  # the least recently used leaves
    vision.features([first])
    assert looks == [1] * 4
    vision.features([others[0]])
    assert looks == [1] * 5


def test_a_picture_that_cannot_be_seen_makes_nobody_forget_others(
    adapter: Any, picture: Any
) -> None:
    mine, looks = adapter("llava"), []

    def look(pixels: Any) -> Features:
        looks.append(1)
        if len(looks) == 2:
            raise ValueError("too dark")
        return mine.look(pixels)

    first, second = (encoded(mine, picture, [(56, 56 + n)]) for n in range(2))
    vision = Vision(look, mine.runner.device)
    vision.features([first])
    with pytest.raises(ValueError, match="too dark"):
        vision.features([first, second])
    vision.features([first])
    assert len(looks) == 2


def test_a_prompt_asks_for_its_picture_once_even_if_nothing_is_remembered(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, looks = adapter("llava"), []

    def look(pixels: Any) -> Features:
        looks.append(len(pixels["pixel_values"]))
        return mine.look(pixels)

    monkeypatch.setattr(mine.runner, "vision", Vision(look, mine.runner.device, kept_bytes=0))
    pictures = [picture(56, 56 + n) for n in range(3)]
    Local(mine).generate([asking(one, "a", max_new_tokens=2) for one in pictures])
    assert sum(looks) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_go_through_the_tower_together(family: str, adapter: Any, picture: Any) -> None:
    """Those whose pixels have the same shapes; the features are those of each alone."""
    mine, looks = adapter(family), []

    def look(pixels: Any) -> Features:
        looks.append(1)
        return mine.look(pixels)

    sizes = [[(60, 90)], [(60, 90), (60, 90)], [(60, 91)], []]
    prompts = [encoded(mine, picture, size) for size in sizes]
    vision = Vision(look, mine.runner.device)
    together = vision.features(prompts)
    assert len(looks) == 1
    assert together[3] is None
    for prompt, found in zip(prompts[:3], together, strict=False):
        (alone,) = Vision(mine.look, mine.runner.device).features([prompt])
        assert (found.tokens - alone.tokens).abs().max() < 1e-4
        for a, b in zip(found.deep, alone.deep, strict=True):
            assert (a - b).abs().max() < 1e-4


# The stock model's numbers


class Identity(AttentionPolicy):
    """Two groups, weights of one: everything is recomputed and nothing changed."""

    groups = 2

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.calls: dict[str, list[int]] = {"labels": [], "weights": [], "head_scale": []}

    def labels(self, layer: int) -> Tensor:
        self.calls["labels"].append(layer)
        return torch.arange(self.layout.length) % 2

    def epilogue(self, layer: int) -> Epilogue:
        return partial(self.weights, layer)

    def weights(self, layer: int, mass: Tensor) -> Tensor:
        self.calls["weights"].append(layer)
        assert torch.allclose(mass.sum(-1), torch.ones(mass.shape[:-1]), atol=1e-5)
        return torch.ones_like(mass)

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor:
        self.calls["head_scale"].append(layer)
        return torch.ones(4)


@on_all_families
@on_all_pictures
def test_the_identity_policy_gives_the_stock_rows_and_reaches_every_layer(
    family: str, sizes: Any, adapter: Any, picture: Any, stock: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture, sizes)
    policy, cache = Identity(prompt.layout), RowCache(mine.facts.layers)
    steered = [Steered(prompt.layout, (policy,))]
    tokens = [5, 77, 300]
    rows = [mine.runner.read([prompt], steered, cache)[0]]
    layers = list(range(mine.facts.layers))
    # A long prompt is worked on in blocks of queries.
    assert list(dict.fromkeys(policy.calls["weights"])) == policy.calls["head_scale"] == layers
    policy.calls["weights"].clear()
    for done, token in enumerate(tokens):
        length, position = len(prompt.ids) + done, prompt.next_position + done
        rows.append(mine.runner.step([token], [length], [position], steered, cache)[0])
    assert policy.calls["weights"] == layers * 3
    assert set(policy.calls["labels"]) == set(layers)
    wanted = full_rows(stock(family), prompt, tokens)
    for mine_row, row in zip(rows, wanted, strict=True):
        assert (mine_row - row).abs().max() < 1e-4


@on_all_families
def test_rows_do_not_depend_on_the_pictures_place_in_a_batch(
    family: str, adapter: Any, picture: Any, stock: Any
) -> None:
    """Prompts of unequal length, with and without pictures, some steered, in one forward."""
    mine = adapter(family)
    prompts = [encoded(mine, picture, sizes) for sizes in SIZES.values()]
    prompts.append(encoded(mine, picture, [(90, 60)], "a very long question about dogs and cats"))
    policies = [(Identity(p.layout),) if n % 2 else () for n, p in enumerate(prompts)]
    steered = [Steered(p.layout, own) for p, own in zip(prompts, policies, strict=True)]
    cache, lengths = RowCache(mine.facts.layers), [len(p.ids) for p in prompts]
    found = [mine.runner.read(prompts, steered, cache)]
    fed = [[10 + row for row in range(len(prompts))], [20 + row for row in range(len(prompts))]]
    for done, tokens in enumerate(fed):
        places = [p.next_position + done for p in prompts]
        found.append(mine.runner.step(tokens, [n + done for n in lengths], places, steered, cache))
    for row, prompt in enumerate(prompts):
        wanted = full_rows(stock(family), prompt, [tokens[row] for tokens in fed])
        for mine_rows, theirs in zip(found, wanted, strict=True):
            assert (mine_rows[row] - theirs).abs().max() < 1e-4


@on_all_families
def test_what_a_row_leaves_behind_does_not_reach_the_next_one(
    family: str, adapter: Any, picture: Any, stock: Any
) -> None:
    """A request whose values left their type's range ends; a shorter one takes its row."""
    mine = adapter(family)
    long = encoded(mine, picture, [(90, 60)], "a very long question about dogs and cats")
    short = encoded(mine, picture, [], "a dog?")
    cache = RowCache(mine.facts.layers)
    mine.runner.read([long, long], [Steered(long.layout)] * 2, cache)
    with torch.inference_mode():
        for left in (*cache.keys, *cache.values):
            assert left is not None
            left[1] = float("nan")
    cache.arrange([0])
    mine.runner.read([short], [Steered(short.layout)], cache)
    places, lengths = [long.next_position, short.next_position], [len(long.ids), len(short.ids)]
    steered = [Steered(long.layout), Steered(short.layout)]
    rows = mine.runner.step([7, 8], lengths, places, steered, cache)
    for row, prompt, token in zip(rows, (long, short), (7, 8), strict=True):
        assert (row - full_rows(stock(family), prompt, [token])[1]).abs().max() < 1e-4


@on_all_families
@on_all_pictures
def test_greedy_tokens_are_those_of_stock_generate(
    family: str, sizes: Any, adapter: Any, picture: Any, stock: Any
) -> None:
    mine, inputs = adapter(family), inputs_of(adapter(family), picture, sizes)
    out = stock(family).generate(**inputs, max_new_tokens=12, do_sample=False)
    images = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
    answer = Local(mine).ask(images, "Is there a dog?", max_new_tokens=12)
    assert [t.id for t in answer.tokens] == out[0, inputs["input_ids"].shape[1] :].tolist()
    assert answer.usage.prompt_tokens == inputs["input_ids"].shape[1]


@on_all_families
def test_beams_are_those_of_stock_generate(
    family: str, adapter: Any, picture: Any, stock: Any
) -> None:
    """Rows, caches and hypotheses together; the search alone meets harder cases in test_search."""
    mine, theirs = adapter(family), stock(family)
    for sizes in ([(90, 60)], [(60, 150), (90, 70)]):
        inputs = inputs_of(mine, picture, sizes)
        start = inputs["input_ids"].shape[1]
        own = {"num_beams": 3, "do_sample": False, "early_stopping": False}
        whole = theirs.generate(**inputs, max_new_tokens=8, **own)[0, start:].tolist()
        ends = [whole[3]]
        with ending(mine, ends):
            asked = asking(
                [picture(*size, seed=seed) for seed, size in enumerate(sizes)],
                "Is there a dog?",
                strategy="beam",
                params={"beams": 3},
                max_new_tokens=8,
            )
            answer = record(mine, asked).answer
        out = theirs.generate(**inputs, max_new_tokens=8, eos_token_id=ends, **own)
        wanted = out[0, start:].tolist()
        assert wanted != whole
        assert answer.usage.completion_tokens == len(wanted)
        assert answer.finish_reason == ("stop" if wanted[-1] in ends else "length")
        spoken = [t for t in wanted if t not in ends]
        assert [t.id for t in answer.tokens if t.id not in ends] == spoken


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_repetition_penalty_is_that_of_stock_generate(
    family: str, adapter: Any, picture: Any, stock: Any
) -> None:
    inputs = inputs_of(adapter(family), picture, [(90, 60)])
    out = stock(family).generate(
        **inputs, max_new_tokens=12, do_sample=False, repetition_penalty=1.8
    )
    vlm = Local(adapter(family))
    answer = vlm.ask(
        picture(90, 60, 0), "Is there a dog?", max_new_tokens=12, repetition_penalty=1.8
    )
    assert [t.id for t in answer.tokens] == out[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 64])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_filtered_rows_are_those_of_transformers(
    temperature: float, top_k: int, top_p: float, penalty: float
) -> None:
    rng = torch.Generator().manual_seed(7)
    row = 3 * torch.randn(64, generator=rng)
    row[3:6] = float("-inf")  # a rule's cutoff
    seen = [1, 4, 9, 9, 40]
    steps: list[Any] = [TemperatureLogitsWarper(temperature)]
    if penalty != 1:
        steps.insert(0, RepetitionPenaltyLogitsProcessor(penalty))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    wanted = LogitsProcessorList(steps)(torch.tensor([seen]), row[None].clone())[0]
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty
    )
    found = filtered(row, sampling, seen)
    assert torch.equal(torch.isneginf(found), torch.isneginf(wanted))
    assert torch.allclose(found, wanted, atol=1e-5)
    greedy = filtered(row, Sampling(repetition_penalty=penalty, top_k=top_k, top_p=top_p), seen)
    assert int(greedy.argmax()) == int(wanted.argmax())


def test_memory_grows_without_changing_a_row(adapter: Any, picture: Any, stock: Any) -> None:
    from halu.adapters.cache import ROOM

    mine = adapter("llava")
    asked = asking(picture(), "a", max_new_tokens=2 * ROOM + 5)
    run = record(mine, asked)
    assert len(run.tokens) == 2 * ROOM + 5
    wanted = full_rows(stock("llava"), run.plan.main.prompt, run.tokens[:-1])
    gaps = [(s.main - row).abs().max() for s, row in zip(run.steps, wanted, strict=True)]
    assert max(gaps) < 1e-4


@on_all_families
def test_release_gives_the_model_back(family: str, picture: Any) -> None:
    mine = random_adapter(family)
    model = mine.model
    assert model.config.text_config._attn_implementation == "halu"
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    mine.release()
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"
    left = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    assert hooks == mine.facts.layers + 1  # and one behind the last layer
    assert left == 0


def test_facts_are_the_models(adapter: Any) -> None:
    for family in FAMILIES:
        facts, text = adapter(family).facts, adapter(family).model.config.text_config
        assert (facts.family, facts.name) == (family, f"random-{family}")
        assert (facts.layers, facts.heads) == (text.num_hidden_layers, text.num_attention_heads)
        assert facts.hidden == text.hidden_size
        assert all(isinstance(end, int) for end in adapter(family).ends)
        assert math.isfinite(sum(adapter(family).ends))
    assert set(FAMILIES) == set(supported())


# Loading


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders with a model as transformers writes it, by family."""
    folders = {}
    for family in ("llava", "qwen2_5_vl"):
        mine = random_adapter(family)
        mine.release()
        folder = tmp_path_factory.mktemp(family)
        mine.model.save_pretrained(folder)
        mine.processor.save_pretrained(folder)
        folders[family] = folder
    return folders


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_saved_folder_answers_as_the_model_did(
    family: str, saved: Any, adapter: Any, picture: Any
) -> None:
    vlm = halu.load(str(saved[family]), device="cpu")
    assert vlm.name == str(saved[family])
    assert vlm.adapter.model.dtype == torch.float32
    for strategy in ("greedy", "vcd", "vhr"):
        own = {"strategy": strategy, "max_new_tokens": 5}
        wanted = Local(adapter(family)).ask(picture(), "a", **own)
        answer = vlm.ask(picture(), "a", **own)
        assert [t.id for t in answer.tokens] == [t.id for t in wanted.tokens]
        assert (answer.text, answer.strategy) == (wanted.text, wanted.strategy)
    half = halu.load(str(saved[family]), device="cpu", dtype="bfloat16")
    assert half.adapter.model.dtype == torch.bfloat16
    answer = half.ask(picture(), "a", strategy="vhr+vcd", evidence="map", max_new_tokens=3)
    assert len(answer.tokens) == 3


def _folder(tmp_path: Path, config: Any, **files: bytes) -> str:
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "config.json").write_text(text)
    for name, data in files.items():
        (tmp_path / f"{name}.safetensors").write_bytes(data)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "bert"}, "bert.*llava.*llava_next.*qwen2_vl.*qwen2_5_vl.*qwen3_vl"),
        ({"model_type": "qwen3_vl_moe"}, "qwen3_vl_moe.*llava"),
        ({}, "llava"),
        ({"model_type": "llava"}, "no weights"),
        ({"model_type": ["llava"]}, "llava"),
        ("{broken", "not valid JSON"),
        ("[1]", "not valid JSON|config"),
        (None, "config.json"),
    ],
)
def test_a_folder_that_is_no_supported_model_is_refused(
    config: Any, says: str, tmp_path: Path
) -> None:
    folder = str(tmp_path) if config is None else _folder(tmp_path, config)
    with pytest.raises(HaluError, match=f"(?s){says}") as error:
        halu.load(folder, device="cpu")
    assert isinstance(error.value, (BadInput, Unsupported))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("harm", ["garbage", "cut short", "no processor"])
def test_a_damaged_folder_is_refused(harm: str, saved: Any, tmp_path: Path) -> None:
    for file in saved["llava"].iterdir():
        data = file.read_bytes()
        if file.suffix == ".safetensors":
            data = {"garbage": b"no weights at all", "cut short": data[: len(data) // 2]}.get(
                harm, data
            )
        elif harm == "no processor" and file.name in (
            "processor_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ):
            continue
        (tmp_path / file.name).write_bytes(data)
    with pytest.raises(BadInput, match="cannot be loaded") as error:
        halu.load(str(tmp_path), device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "own", "error", "says"),
    [
        ("tiny-lava", {}, Unknown, "tiny-lava"),
        ("nobody/nothing", {}, Unavailable, "nobody/nothing"),
        ("./no/such/folder", {}, Unknown, "no/such/folder"),
        ("", {}, BadInput, "no config.json"),
        ("tiny-llava", {"device": "cuda:99"}, Unavailable, "cuda:99"),
        ("tiny-llava", {"device": "toaster"}, Unavailable, "toaster"),
        ("tiny-llava", {"backend": "abacus"}, Unsupported, "abacus"),
        ("tiny-llava", {"device": "cpu", "graphs": True}, Unsupported, "need a GPU"),
        ("tiny-llava", {"backend": "vllm", "graphs": True}, Unsupported, "need a GPU"),
    ],
)
def test_unknown_models_devices_and_backends_are_refused(
    name: str, own: dict[str, Any], error: type[HaluError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        halu.load(name, **own)
    assert "\n" not in str(caught.value)


def test_a_wrong_dtype_is_refused(saved: Any) -> None:
    for dtype in ("float99", "Tensor", "int"):
        with pytest.raises(BadInput, match=dtype):
            halu.load(str(saved["llava"]), device="cpu", dtype=dtype)


def test_an_unsupported_model_cannot_be_enabled() -> None:
    import transformers as tf

    config = tf.LlamaConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=9,
    )
    with pytest.raises(Unsupported, match=r"llama.*qwen2_vl"):
        enable(tf.LlamaForCausalLM(config), None, "vcd")
