"""Prompts that begin alike are read once; every row is what it would have been."""

from typing import Any

import pytest
import torch
from recorder import PARAMS, counted, record

from halu.adapters.cache import RowCache
from halu.adapters.sharing import reading
from halu.attention.boost import Boost
from halu.attention.steered import Steered
from halu.engine import Local
from halu.layout import Layout
from halu.prompt import Prompt
from halu.testing.random_models import FAMILIES
from halu.types import question
from halu.vlm import asking


@pytest.fixture(autouse=True)
def worth_a_token(monkeypatch: pytest.MonkeyPatch, adapter: Any) -> None:
    for family in FAMILIES:
        monkeypatch.setattr(adapter(family).runner, "worth", 1)


def rows_of(mine: Any, prompts: list[Any], worth: int, monkeypatch: Any) -> tuple[Any, Any]:
    """Rows after the prompts, and after one more token for each."""
    monkeypatch.setattr(mine.runner, "worth", worth)
    cache = RowCache(mine.facts.layers)
    mine.runner.read(prompts[:1], [Steered(prompts[0].layout)], cache)  # a row that is there before
    steered = [Steered(prompt.layout) for prompt in prompts]
    first = mine.runner.read(prompts, steered, cache)
    fed = [prompts[0], *prompts]
    tokens = [7 + index for index in range(len(fed))]
    lengths = [len(prompt.ids) for prompt in fed]
    places = [prompt.next_position for prompt in fed]
    steered = [Steered(prompt.layout) for prompt in fed]
    return first, mine.runner.step(tokens, lengths, places, steered, cache)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_share_a_beginning_are_those_read_whole(
    family: str, adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = adapter(family)
    one, two = picture(60, 90), picture(60, 90, 1)
    asked = [
        question("Is there a dog?", one),
        question("Is there a dog in the image?", one),
        question("Is there a dog?", two),
        question("red", one),
        question("Is there a dog?", one),
        question("no picture"),
        question("Is there a dog?", two, one),
    ]
    prompts = [mine.encode(messages) for messages in asked]
    prompts.append(mine.without_images(prompts[0]))
    plan = reading(prompts, [Steered(prompt.layout) for prompt in prompts], 1)
    assert {1, 3, 4} <= set(plan.rest)
    same = dict(zip(plan.rest, zip(plan.sources, plan.starts, strict=True), strict=True))
    assert same[4] == (0, len(prompts[0].ids) - 1)
    with counted(mine) as count:
        shared = rows_of(mine, prompts, 1, monkeypatch)
    assert count.prompts == 3
    whole = rows_of(mine, prompts, 10**9, monkeypatch)
    for a, b in zip(shared, whole, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_prompts_of_one_token_share_nothing() -> None:
    one = Prompt((5,), Layout(1), {}, torch.arange(1), 1, ())
    assert reading([one, one], [Steered(one.layout)] * 2, 1).rest == ()


def test_other_pictures_positions_and_steering_are_not_shared(adapter: Any, picture: Any) -> None:
    mine = adapter("qwen2_5_vl")
    wide, tall = picture(120, 60), picture(60, 120)
    prompts = [mine.encode(question("a dog?", image)) for image in (wide, tall, wide)]
    assert prompts[0].ids == prompts[1].ids
    steered = [Steered(prompt.layout) for prompt in prompts]
    plan = reading(prompts, steered, 1)
    start = prompts[0].layout.images[0].start
    assert (plan.rest, plan.sources) == ((1, 2), (0, 0))
    assert plan.starts == (start, len(prompts[0].ids) - 1)
    labels = torch.zeros(prompts[0].layout.length, dtype=torch.long)
    steered[0] = Steered(prompts[0].layout, (Boost(labels, [1.0], range(2)),))
    plan = reading(prompts, steered, 1)
    assert 0 in plan.whole
    assert 0 not in plan.sources
    assert reading(prompts[:2], steered[:2], 1).rest == ()


def test_a_few_tokens_are_not_worth_a_second_forward(adapter: Any, picture: Any) -> None:
    mine = adapter("llava")
    prompts = [mine.encode(question(text, picture())) for text in ("a dog?", "a cat?")]
    steered = [Steered(prompt.layout) for prompt in prompts]
    (saved,) = reading(prompts, steered, 1).starts
    assert reading(prompts, steered, saved).rest == (1,)
    assert reading(prompts, steered, saved + 1).rest == ()


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_requests_about_one_picture_answer_as_each_alone(
    family: str, adapter: Any, picture: Any
) -> None:
    """Branch strategies, taps, evidence and steered requests mixed."""
    vlm, image = Local(adapter(family)), picture(60, 90)
    own: list[tuple[str, str, dict[str, Any]]] = [
        ("Is there a dog?", "greedy", {}),
        ("Is there a dog?", "dola", {"params": PARAMS["dola"]}),
        ("Is there a cat?", "icd", {"params": PARAMS["icd"]}),
        ("Is there a cat?", "vcd", {"params": PARAMS["vcd"]}),
        ("Is there a dog?", "var", {"params": PARAMS["var"]}),
        ("Is there a man?", "greedy", {"evidence": "mass"}),
    ]
    asked = [
        asking(image, text, strategy=name, max_new_tokens=6, **more) for text, name, more in own
    ]
    alone = [record(vlm.adapter, one).tokens for one in asked]
    with counted(vlm.adapter) as count:
        together = vlm.generate(asked)
    assert [[token.id for token in answer.tokens] for answer in together] == alone
    assert count.prompts == 2
