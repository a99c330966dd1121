"""The numerical guard of the Triton kernels, in the interpreter where there is no GPU: the answers
of both built-in models through them are those of torch.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from unending import (
    DEVICE,
    MODELS,
    SHORT,
    TOKENS,
    attention,
    ids,
    names,
    on_both,
    requests,
    unending,
)

STEPS = frozenset("act adhh caac fia hgai pai sid sparc vaf var zerotuning".split())
"""Strategies that change the attention of generated tokens."""
PROMPTS = frozenset({"eah", "glc"})
"""Those that change nothing but the prompt's, or sum its columns."""


@pytest.fixture(scope="module")
def loaded() -> Callable[..., Any]:
    """Models of this module's own."""
    return unending()


def through_both(loaded: Any, model: str, name: str, tokens: int) -> Counter[str]:
    """The same answer through the kernels, steps recorded, as in torch; the kernels' calls."""
    request = requests(model, tokens)[name]
    with attention("reference") as called:
        (wanted,) = loaded(model, False, device=DEVICE).generate([request])
        assert not called
    with attention("triton") as called:
        (found,) = loaded(model, True, device=DEVICE).generate([request])
    assert len(found.tokens) == tokens
    assert ids(found) == ids(wanted)
    return called


def pairs() -> list[tuple[str, str]]:
    """Who answers under what: every strategy on both models; in the interpreter the models take
    turns, if HALU_EXAMPLES does not say otherwise.
    """
    found = []
    for turn, name in enumerate(sorted(STEPS | PROMPTS)):
        there = [model for model in MODELS if name in names(model)]
        found += [(model, name) for model in (there if not SHORT else [there[turn % len(there)]])]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("model", "name"), pairs())
def test_an_answer_through_the_kernels_is_that_of_the_reference(
    model: str, name: str, loaded: Any
) -> None:
    tokens = 4 if SHORT else TOKENS
    called = through_both(loaded, model, name, tokens)
    assert called["step"] >= tokens - 1 or name in PROMPTS
    assert called.total() > 0


@pytest.mark.parametrize(
    ("model", "name"), [("tiny-llava", "var"), ("tiny-qwen", "sid"), ("tiny-llava", "pai")]
)
def test_a_few_tokens_through_the_kernels_are_those_of_the_reference(
    model: str, name: str, loaded: Any
) -> None:
    assert through_both(loaded, model, name, 3)["step"] >= 2


@on_both
def test_no_other_strategy_goes_through_the_kernels(model: str, loaded: Any) -> None:
    """Whoever adds one that does is told to add it above."""
    vlm = loaded(model, True, device=DEVICE)
    for name, request in requests(model, 2).items():
        if name not in STEPS | PROMPTS:
            with attention("triton") as called:
                vlm.generate([request])
            assert not called, name
