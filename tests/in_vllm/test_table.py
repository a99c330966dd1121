"""What is done to the rows of a forward, without an engine around it: needs no vLLM."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from halu.attention import ScoreMap
from halu.attention.keys import Keys
from halu.attention.pages import Pages
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.layout import Layout
from halu.vllm.table import Rows, Table

HEADS, WIDTH, NOWHERE = 2, 3, 99


class Scaled(AttentionPolicy):
    """Scales heads by what it is given, and counts how often it is asked."""

    def __init__(self, factor: Any, settled: bool = True) -> None:
        self.factor = factor
        self.settled = settled
        self.asked = 0

    def head_scale(self, layer: int, last: Tensor | None) -> Any:
        self.asked += 1
        return self.factor


class Keyed(AttentionPolicy):
    """Looks at the newest row, which takes keys."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def looks(self, layer: int) -> bool:
        return True

    def look(self, layer: int, x: Tensor) -> None:
        self.seen.append(x.shape[-1])


class Changed(AttentionPolicy):
    """Halves all scores in layer 0."""

    settled = True
    groups = 2

    def labels(self, layer: int) -> Tensor | None:
        return torch.zeros(4, dtype=torch.int64) if layer == 0 else None

    def score_map(self, layer: int) -> ScoreMap:
        return ScoreMap(torch.full((2,), 0.5), torch.full((2,), 0.5), torch.zeros(2))


class Both(Keyed, Changed):
    """Looks, and changes."""


class Broken(Changed):
    """Cannot say whether it changes anything."""

    settled = False

    def labels(self, layer: int) -> Tensor | None:
        raise ValueError("broken")


def steered(*policies: AttentionPolicy) -> Steered:
    return Steered(Layout(4), policies)


def forward(table: Table, rows: Sequence[tuple[int, Steered]]) -> Tensor:
    """Head outputs of one layer, all 1 before; a generated token each at these rows."""
    pages = torch.full((4, 2), NOWHERE)  # to fetch the keys of who needs none would be an error
    for row, one in rows:
        if one.curious(0):
            pages[row] = 0
    pool = torch.ones(1, HEADS, 4, WIDTH)
    table.show([Rows(one, row, row, row + 1, before=6) for row, one in rows])
    out = torch.ones(4, HEADS, WIDTH)
    table.attend(0, torch.ones(4, HEADS, WIDTH), out, Keys(pool, pool, Pages(pages, 4)), 1.0)
    table.show(())
    return out[:, :, 0]


def test_heads_of_all_requests_are_scaled_and_of_no_other() -> None:
    twice, half = torch.tensor([2.0, 1.0]), torch.tensor([0.5])
    rows = [(0, steered(Scaled(twice), Scaled(half))), (2, steered(Scaled(None), Scaled(twice)))]
    out = forward(Table(), rows)
    assert out.tolist() == [[1.0, 0.5], [1.0, 1.0], [2.0, 1.0], [1.0, 1.0]]


def test_neighbours_are_scaled_at_once() -> None:
    rows = [(n, steered(Scaled(torch.tensor([1.0, n])))) for n in (1, 2, 3)]
    assert forward(Table(), rows).tolist() == [[1.0, 1.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]


def test_settled_policies_are_asked_once_as_long_as_they_run_together() -> None:
    table, one, other = Table(), Scaled(torch.tensor([2.0])), Scaled(torch.tensor([3.0]))
    first, second = steered(one), steered(other)
    for _ in range(3):
        assert forward(table, [(0, first), (1, second)])[:2].tolist() == [[2.0] * 2, [3.0] * 2]
    assert (one.asked, other.asked) == (1, 1)
    assert forward(table, [(0, second)])[0].tolist() == [3.0] * 2
    assert (one.asked, other.asked) == (1, 2)


def test_a_policy_that_is_not_settled_is_asked_every_time() -> None:
    table, one = Table(), Scaled(torch.tensor([2.0]), settled=False)
    first = steered(one)
    assert forward(table, [(0, first)])[0].tolist() == [2.0] * 2
    one.factor = torch.tensor([5.0])
    assert forward(table, [(0, first)])[0].tolist() == [5.0] * 2
    assert one.asked == 2


def test_who_needs_keys_is_shown_them_beside_who_does_not() -> None:
    looks = Keyed()
    rows = [(0, steered(looks)), (1, steered(Scaled(torch.tensor([2.0])))), (3, steered(looks))]
    out = forward(Table(), rows)
    assert out[1].tolist() == [2.0] * 2
    assert out[0].tolist() == out[2].tolist() == out[3].tolist() == [1.0] * 2
    assert looks.seen == [7, 7]


def test_stock_attention_is_not_needed_only_where_nothing_of_it_stays() -> None:
    one, other, looks = steered(Changed()), steered(Changed(), Scaled(None)), steered(Both())

    def replaced(*rows: Rows, layer: int = 0, of: int = 2) -> bool:
        table = Table()
        table.show(rows)
        return table.replaces(layer, torch.ones(of, HEADS, WIDTH))

    first, second = Rows(one, 0, 0, 1, before=6), Rows(other, 1, 1, 2, before=6)
    assert replaced(first, second)
    assert not replaced(first, second, layer=1)
    assert not replaced(first, second, of=3)
    assert not replaced(first)
    assert not replaced(Rows(one, 0, 0, 2, before=2))  # a prompt's
    for stays in (looks, steered(Scaled(None)), steered(), steered(Broken())):
        assert not replaced(first, Rows(stays, 1, 1, 2, before=6))


@pytest.mark.parametrize("wrong", [torch.ones(HEADS + 1), torch.ones(2, 2), "two"])
def test_factors_that_do_not_fit_are_their_requests_own_fault(wrong: Any) -> None:
    bad, good = steered(Scaled(wrong)), steered(Scaled(torch.tensor([2.0])))
    out = forward(Table(), [(0, bad), (1, good)])
    assert bad.failure is not None
    assert good.failure is None
    assert out.tolist() == [[1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [1.0, 1.0]]
