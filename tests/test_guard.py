"""The numerical guard: batching, shared beginnings, recorded steps and kernels change no token of
an answer.

On both built-in models, for every strategy, 64 tokens: what a request says alone, by steps that are
not recorded, with nothing shared and attention in torch, it also says among all others with
everything switched on, and, on a GPU, through kernels and graphs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from recorder import PARAMS
from unending import TOKENS, attention, ids, names, on_both, requests, scene, unending

from halu.errors import Unsupported
from halu.strategy import strategies
from halu.types import Answer


@pytest.fixture(scope="module")
def loaded() -> Callable[..., Any]:
    """Models of this module's own."""
    return unending()


@pytest.fixture(scope="module")
def together(loaded: Any) -> Callable[..., dict[str, Answer]]:
    """All strategies' answers from one batch, steps recorded and beginnings shared."""

    @cache
    def answered(model: str, device: str = "cpu") -> dict[str, Answer]:
        asked = requests(model)
        vlm = loaded(model, True, device=device)
        return dict(zip(asked, vlm.generate(list(asked.values())), strict=True))

    return answered


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


@pytest.mark.gpu
@on_both
@pytest.mark.parametrize("name", strategies.names())
def test_on_a_gpu_64_tokens_of_kernels_and_graphs_are_those_of_the_reference(
    model: str, name: str, loaded: Any, together: Any
) -> None:
    """Every strategy in one batch, CUDA graphs recorded, against each alone in torch."""
    if name not in names(model):
        pytest.skip(f"{name} does not run on {model}")
    with attention("reference"):
        (alone,) = loaded(model, False, device="cuda").generate([requests(model)[name]])
    with attention("triton"):
        found = together(model, "cuda")
    assert ids(found[name]) == ids(alone)
    assert loaded(model, True, device="cuda").adapter.runner.replays is not None
