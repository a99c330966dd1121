"""The row algebra: what is added, what stays eligible, and how far rows are apart."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from halu.rules import Additive, against, guided, jensen_shannon, mixture, plausible, towards
from halu.strategy import Branch, Plan, Step

MAIN = torch.tensor([2.0, 1.0, 0.0, -1.0])
OTHER = torch.tensor([0.0, 3.0, 1.0, -2.0])
NO = -math.inf


def step(**rows: Tensor) -> Step:
    return Step(0, {"main": MAIN, **rows}, [])


def test_terms_are_added_to_the_main_row_and_keeps_all_have_to_agree() -> None:
    def one(step: Step) -> Tensor:
        return torch.ones(4)

    def first_two(step: Step) -> Tensor:
        return torch.tensor([True, True, False, False])

    def last_three(step: Step) -> Tensor:
        return torch.tensor([False, True, True, True])

    assert Additive()(step()).equal(MAIN)
    assert Additive((one, one))(step()).equal(MAIN + 2)
    assert Additive((one,), (first_two,))(step()).tolist() == [3.0, 2.0, NO, NO]
    both = Additive((one,), (first_two,)) + Additive((one,), (last_three,))
    assert both(step()).tolist() == [NO, 3.0, NO, NO]


def test_against_moves_away_from_a_branch() -> None:
    rule = Additive((against("other", 0.5),))
    assert rule(step(other=OTHER)).equal(MAIN + 0.5 * (MAIN - OTHER))


def test_towards_adds_a_branch() -> None:
    rule = Additive((towards("other", 3.0),))
    assert rule(step(other=OTHER)).equal(MAIN + 3 * OTHER)


@pytest.mark.parametrize(
    ("beta", "least", "kept"),
    [
        (math.exp(-1.0), 1, [True, True, False, False]),  # the threshold itself stays
        (0.36, 1, [True, True, False, False]),
        (0.37, 1, [True, False, False, False]),
        (1.0, 1, [True, False, False, False]),
        (1.0, 3, [True, True, True, False]),
        (1.0, 9, [True, True, True, True]),  # more than there are
        (1e-9, 1, [True, True, True, True]),
    ],
)
def test_plausible_tokens(beta: float, least: int, kept: list[bool]) -> None:
    (keep,) = plausible(beta, least)
    assert keep(step()).tolist() == kept


def test_no_cutoff_keeps_all() -> None:
    assert plausible(0) == ()


class Asked:
    """A context that remembers how branches were asked for."""

    def branch(self, name: str, **how: Any) -> Branch:
        self.how = how
        return Branch(name, SimpleNamespace())


def test_guidance_runs_a_branch_without_the_picture() -> None:
    ctx, plan = Asked(), Plan(Branch("main", SimpleNamespace()))
    found = guided(plan, ctx, 1.5, 0.0)
    assert ctx.how == {"blind": True, "steered": False}
    assert [branch.name for branch in found.extra] == ["text_only"]
    assert found.rule(step(text_only=OTHER)).equal(1.5 * MAIN - 0.5 * OTHER)
    assert guided(plan, ctx, 1.0, 0.5) is plan
    assert guided(plan, ctx, 1.5, 0.9).rule(step(text_only=OTHER))[1] == NO


def test_a_mixture_is_of_probabilities() -> None:
    found = mixture({"a": 0.5, "b": 1.5})(step(a=OTHER, b=MAIN.flip(0)))
    p, a, b = (torch.softmax(row, -1) for row in (MAIN, OTHER, MAIN.flip(0)))
    assert torch.allclose(found.exp(), (p + 0.5 * a + 1.5 * b) / 3)


def test_jensen_shannon() -> None:
    assert float(jensen_shannon(MAIN, MAIN + 7)) == pytest.approx(0, abs=1e-7)
    several = jensen_shannon(MAIN, torch.stack([MAIN, OTHER]))
    assert several.tolist() == pytest.approx([0, float(jensen_shannon(MAIN, OTHER))], abs=1e-7)
    far = torch.tensor([0.0, -100.0])
    assert float(jensen_shannon(far, far.flip(0))) == pytest.approx(math.log(2))
    assert float(jensen_shannon(MAIN, OTHER)) == pytest.approx(float(jensen_shannon(OTHER, MAIN)))
    sure = torch.tensor([0.0, NO])  # p = (1, 0), q = (1/2, 1/2), middle (3/4, 1/4)
    wanted = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert float(jensen_shannon(sure, torch.zeros(2))) == pytest.approx(wanted)
