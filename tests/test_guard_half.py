"""The numerical guard in half precision: where rounding depends on the batch, answers may part
where two tokens were near.
"""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import pytest
import torch
from recorder import record
from unending import SHORT, TOKENS, ids, on_both, requests, unending

from halu.strategy import strategies
from halu.types import Request

LENGTH = TOKENS // 2 if SHORT else TOKENS
"""Of an answer: half suffices where time is short."""
STEP = 0.0625
"""What bfloat16 tells apart between 8 and 16, where the built-in models' best scores lie."""
WEIGHTS = {"agla": 3, "dola": 2, "icd": 3, "m3id": 3, "ritual": 4, "sid": 3, "vcd": 3}
"""Sum of the absolute weights with which a rule adds rows of scores, where it is more than 1.2."""
LEAPS = {
    "beam": "hypotheses compete by sums, no row tells by how much",
    "code": "the description that is said first may part, and then the prompts differ",
    "deco": "the layer whose row is added is the one with the greatest number",
    "halc": "hypotheses compete by sums, no row tells by how much",
    "opera": "hypotheses compete by sums, no row tells by how much",
    "sample": "a draw falls anywhere in its row, and no margin guards it",
    "sentinel": "draws, and hypotheses that compete by sums",
    "sparc": "a threshold picks the tokens whose keys grow, for all steps to come",
    "spin": "a rank picks the heads that are kept, anew at every token",
    "vdgd": "the description that is said first may part, and then the prompts differ",
    "woodpecker": "the text is rewritten by what other texts say",
}
"""Why rounding may move a strategy further than its rule adds up."""


@pytest.fixture(scope="module")
def loaded() -> Callable[..., Any]:
    """Models of this module's own."""
    return unending()


def half(model: str) -> dict[str, Request]:
    """Every other strategy, with the cutoff of its paper where it has one."""
    found = {name: one for name, one in requests(model, LENGTH).items() if name not in LEAPS}
    for name, one in found.items():
        params = {key: value for key, value in one.params.items() if key != "beta" or name == "act"}
        found[name] = one.model_copy(update={"params": params})
    return found


def test_what_is_left_out_of_half_precision_exists() -> None:
    assert set(strategies.names()) > LEAPS.keys() | WEIGHTS.keys()
    assert not LEAPS.keys() & WEIGHTS.keys()


@pytest.mark.slow
@on_both
def test_in_half_precision_answers_part_only_where_two_tokens_are_near(
    model: str, loaded: Any
) -> None:
    """Where the answer from the batch has another token than the request alone, the row of the
    request alone gives that token at most three steps of bfloat16 less than its own, times what the
    rule makes of a step. What comes after is another text. Two thirds of all tokens come before.
    Left out are the strategies in `LEAPS`, each with its reason.
    """
    asked = half(model)
    there, here = (loaded(model, recorded, "bfloat16") for recorded in (True, False))
    answers = there.generate(list(asked.values()))
    equal, told = 0, []
    for (name, one), answer in zip(asked.items(), answers, strict=True):
        run = record(here.adapter, one)
        pairs = enumerate(zip_longest(ids(answer), run.tokens))
        place, mine, its = next(((p, a, b) for p, (a, b) in pairs if a != b), (LENGTH, 0, 0))
        equal += place
        if place < LENGTH:
            row = run.ruled[place].float()
            gap, most = float(row[its] - row[mine]), 3 * STEP * WEIGHTS.get(name, 1.2)
            told += [f"{name}: {gap:.3f} > {most} at {place}"] if gap > most else []
    assert not told
    assert equal >= 2 * LENGTH * len(asked) // 3, equal / LENGTH / len(asked)
    assert here.adapter.model.dtype == torch.bfloat16
