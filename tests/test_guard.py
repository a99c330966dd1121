"""The numerical guard: batching, shared beginnings and recorded steps change no token of an answer.

On both built-in models, for every strategy, 64 tokens: what a request says alone, by steps that are
not recorded and with nothing shared, it also says among all others with everything switched on. In
half precision, where rounding depends on the batch, answers may part where two tokens were near.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import zip_longest
from typing import Any

import pytest
import torch
from PIL import Image
from recorder import ONLY_ON, PARAMS, ending, record

import halu
from halu.adapters.replay import repeated
from halu.engine import Local
from halu.errors import Unsupported
from halu.models import builtin
from halu.scenes import draw
from halu.strategy import strategies
from halu.types import Answer, Request
from halu.vlm import asking

MODELS = {"tiny-llava": "llava", "tiny-qwen": "qwen2_5_vl"}
TOKENS = 64
MARGIN = 0.25
"""Logits within which half precision may choose another token."""
NEVER = -1

on_both = pytest.mark.parametrize("model", MODELS)


def names(model: str) -> list[str]:
    return [n for n in strategies.names() if MODELS[model] in ONLY_ON.get(n, MODELS.values())]


@cache
def scene() -> Image.Image:
    return Image.fromarray(draw(3, "test", 112).image)


@cache
def requests(model: str) -> dict[str, Request]:
    own: dict[str, Any] = {"max_new_tokens": TOKENS}
    words = ("Describe this image in detail.", "What is in the image?", "Describe this image.")
    return {
        name: asking(scene(), words[n % 3], strategy=name, params=PARAMS.get(name), seed=n, **own)
        for n, name in enumerate(names(model))
    }


@pytest.fixture(scope="module")
def loaded() -> Callable[..., Any]:
    @cache
    def made(model: str, recorded: bool, dtype: str = "float32") -> Any:
        if model not in builtin():
            pytest.skip(f"{model} is not in the tree")
        vlm = halu.load(model, dtype=dtype, device="cpu")
        assert isinstance(vlm, Local)
        if recorded:
            vlm.adapter.runner.record(repeated)
        vlm.adapter.runner.worth = 1 if recorded else 10**9
        return vlm

    return made


@pytest.fixture(autouse=True)
def endless(loaded: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """No token ends an answer, so that all are as long as they may be."""
    model = request.node.callspec.params["model"]
    with (
        ending(loaded(model, True).adapter, [NEVER]),
        ending(loaded(model, False).adapter, [NEVER]),
    ):
        yield


@pytest.fixture(scope="module")
def together(loaded: Any) -> Callable[[str], dict[str, Answer]]:
    """All strategies' answers from one batch, steps recorded and beginnings shared."""

    @cache
    def answered(model: str) -> dict[str, Answer]:
        asked = requests(model)
        return dict(zip(asked, loaded(model, True).generate(list(asked.values())), strict=True))

    return answered


def ids(answer: Answer) -> list[int]:
    return [token.id for token in answer.tokens]


@pytest.mark.slow
@on_both
@pytest.mark.parametrize("name", strategies.names())
def test_64_tokens_are_those_of_the_request_alone(
    model: str, name: str, loaded: Any, together: Any
) -> None:
    if name not in names(model):
        with pytest.raises(Unsupported):
            loaded(model, False).ask(scene(), "a", strategy=name, params=PARAMS.get(name))
        return
    (alone,) = loaded(model, False).generate([requests(model)[name]])
    mine = together(model)[name]
    assert len(alone.tokens) == TOKENS or strategies.get(name).kind == "control"
    assert ids(mine) == ids(alone)
    assert mine.usage == alone.usage


@pytest.mark.slow
@on_both
def test_in_half_precision_answers_part_only_where_two_tokens_are_near(
    model: str, loaded: Any
) -> None:
    """Rules multiply what rounding does to their rows, and a cutoff would make it a leap."""
    chosen = {"greedy": 1, "vcd": 3, "icd": 3, "ritual": 4, "dola": 1}
    chosen |= dict.fromkeys(("vhr", "var", "pai", "vaf", "zerotuning", "hgai", "spin"), 1)
    asked = [requests(model)[name] for name in chosen]
    uncut = [{**one.params, "beta": 0.0} if "beta" in one.params else one.params for one in asked]
    asked = [o.model_copy(update={"params": p}) for o, p in zip(asked, uncut, strict=True)]
    there, here = (loaded(model, recorded, "bfloat16") for recorded in (True, False))
    with ending(there.adapter, [NEVER]), ending(here.adapter, [NEVER]):
        answers = there.generate(asked)
        runs = [record(here.adapter, one) for one in asked]
    equal = 0
    for answer, run, rows in zip(answers, runs, chosen.values(), strict=True):
        pairs = enumerate(zip_longest(ids(answer), run.tokens))
        parted = next((place for place, (a, b) in pairs if a != b), None)
        equal += TOKENS if parted is None else parted
        if parted is not None:
            best = run.ruled[parted].float().topk(2).values
            assert float(best[0] - best[1]) < MARGIN * rows
    assert equal >= TOKENS * len(chosen) // 2
    assert here.adapter.model.dtype == torch.bfloat16
