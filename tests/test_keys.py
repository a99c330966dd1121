"""Keys and values in pages are those in a row, however a page lies in memory."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from halu.attention import Spans, grouped_attention, weighted_attention
from halu.attention.keys import Keys
from halu.attention.pages import Pages, runs
from halu.errors import BadInput

LANES, HEADS, SIZE, WIDTH, COUNT = 3, 2, 4, 6, 11
PAGES = torch.tensor([[5, 0, 7], [2, 8, 1], [3, 6, 4]], dtype=torch.int32)


def in_a_row() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, LANES, HEADS, COUNT, WIDTH, generator=rng)
    return k, v


def pool(rows: Tensor, transposed: bool, empty: float = 0.0) -> Tensor:
    """Pages [P, Hkv, S, D] with these keys or values; slots that none fills are `empty`."""
    found = torch.full((9, HEADS, WIDTH, SIZE), empty).transpose(-1, -2)
    found = found if transposed else found.contiguous()
    for lane in range(LANES):
        for key in range(COUNT):
            found[PAGES[lane, key // SIZE], :, key % SIZE] = rows[lane, :, key]
    return found


@pytest.fixture(params=["keys transposed, as on CPUs", "side by side, as on GPUs"])
def paged(request: Any) -> Keys:
    k, v = in_a_row()
    if request.param.endswith("CPUs"):
        return Keys(pool(k, transposed=True), pool(v, transposed=False), Pages(PAGES, SIZE))
    both = torch.cat([pool(k, transposed=False), pool(v, transposed=False)], -1)
    return Keys(*both.split(WIDTH, -1), Pages(PAGES, SIZE))


def test_pages_are_read_as_keys_in_a_row(paged: Keys) -> None:
    plain = Keys(*in_a_row())
    assert paged.room == 12
    for got, wanted in zip(paged.in_a_row(), plain.in_a_row(), strict=True):
        assert torch.equal(got[:, :, :COUNT], wanted)
    for span in (slice(3, 9), slice(0, 4), slice(5)):
        for got, wanted in zip(paged.stretch(1, span), plain.stretch(1, span), strict=True):
            assert got.shape == (1, HEADS, len(range(COUNT)[span]), WIDTH)
            assert torch.equal(got, wanted)


def test_some_rows_and_the_first_keys(paged: Keys) -> None:
    plain, pick = Keys(*in_a_row()), torch.tensor([2, 0])
    some = paged.rows(pick).upto(5)
    assert some.room == 8
    for got, wanted in zip(some.in_a_row(), plain.rows(pick).upto(5).in_a_row(), strict=True):
        assert torch.equal(got[:, :, :5], wanted)


def test_products_are_those_of_keys_in_a_row(paged: Keys) -> None:
    plain, rng = Keys(*in_a_row()), torch.Generator().manual_seed(1)
    q = torch.randn(LANES, 2 * HEADS, 3, WIDTH, generator=rng)
    torch.testing.assert_close(paged.dot(q)[..., :COUNT], plain.dot(q))
    p = torch.rand(LANES, 2 * HEADS, 3, COUNT, generator=rng)
    padded = torch.nn.functional.pad(p, (0, paged.room - COUNT))
    torch.testing.assert_close(paged.mix(padded), plain.mix(p))
    for stop in ([COUNT, 4, 0], [COUNT + 9, 8, 5]):
        few, ends = p.clone(), torch.tensor(stop, dtype=torch.int32)
        few[torch.arange(COUNT) >= ends[:, None, None, None].expand_as(few)] = 0
        padded = torch.nn.functional.pad(few, (0, paged.room - COUNT))
        filled = replace(paged, pages=Pages(PAGES, SIZE, ends))
        torch.testing.assert_close(filled.mix(padded), plain.mix(few))
        got, wanted = filled.dot(q)[..., :COUNT], plain.dot(q)
        for lane, end in enumerate(stop):
            torch.testing.assert_close(got[lane, ..., :end], wanted[lane, ..., :end])


def test_neighbouring_pages_are_multiplied_at_once() -> None:
    pages = [4, 5, 6, 9, 2, 3, 8]
    assert runs(pages) == [(0, 3, 4), (3, 4, 9), (4, 6, 2), (6, 7, 8)]
    assert runs(pages, leave_out=[1, 6]) == [(0, 1, 4), (2, 3, 6), (3, 4, 9), (4, 6, 2)]
    assert runs(pages, leave_out=range(7)) == runs([]) == []


def test_a_pool_is_visited_from_front_to_back_whoever_has_a_page() -> None:
    """A shared page comes a second time, and pages that a row has not come to yet not at all."""
    table = torch.tensor([[7, 3, 4], [7, 5, 0]])
    way = Pages(table, SIZE, torch.tensor([11, 8])).way
    assert table[way.rows, way.numbers].tolist() == [3, 4, 5, 7, 7]
    assert way.rows.tolist() == [0, 0, 1, 0, 1]
    assert way.runs == [(0, 3, 3), (3, 4, 7), (4, 5, 7)]
    assert way.whole == [(0, 1, 3), (2, 3, 5), (3, 4, 7), (4, 5, 7)]
    assert way.part == [1]
    assert way.visits[1] == (0, 4, 0, 2, 3)


@pytest.mark.parametrize("lanes", [0, 2])
def test_rows_that_have_filled_nothing_get_zeros(lanes: int) -> None:
    stop = torch.zeros(lanes, dtype=torch.int32)
    k = torch.full((9, HEADS, SIZE, WIDTH), math.nan)
    none = Keys(k, k, Pages(PAGES[:lanes], SIZE, stop))
    assert none.dot(torch.ones(lanes, HEADS, 1, WIDTH)).shape == (lanes, HEADS, 1, none.room)
    mixed = none.mix(torch.zeros(lanes, HEADS, 1, none.room))
    assert torch.equal(mixed, torch.zeros(lanes, HEADS, 1, WIDTH))
    if lanes:
        q, labels = torch.ones(lanes, HEADS, 1, WIDTH), torch.zeros(lanes, none.room).long()
        how: dict[str, Any] = {"scale": 1.0, "epilogue": None, "within": (stop, stop)}
        for pages in (PAGES[:lanes], Pages(PAGES[:lanes], SIZE)):
            out = weighted_attention(q, k, k, labels, 1, pages=pages, **how)
            assert torch.equal(out, torch.zeros_like(out))


def test_pages_of_another_size_are_refused() -> None:
    k = torch.zeros(9, HEADS, SIZE, WIDTH)
    labels = torch.zeros(LANES, 6).long()
    with pytest.raises(BadInput, match="Shapes do not fit"):
        weighted_attention(
            torch.ones(LANES, HEADS, 1, WIDTH),
            k,
            k,
            labels,
            1,
            scale=1.0,
            epilogue=None,
            pages=Pages(PAGES, 2),
        )


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_a_slot_that_nobody_filled_holds_is_nothing(poison: float) -> None:
    """A pool's memory is used again: after a request whose values were no numbers, too."""
    k, v = in_a_row()
    q = torch.randn(LANES, 2 * HEADS, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    edges = Spans(torch.tensor([[[0, 0], [2, 6]]] * LANES, dtype=torch.int32))
    stop = torch.tensor([COUNT, 7, 4], dtype=torch.int32)
    within = (torch.zeros_like(stop), stop)
    pages = (pool(k, True, poison), pool(v, False, poison))
    how: dict[str, Any] = {"scale": 0.4, "within": within}
    got = grouped_attention(q, *pages, edges, 2, pages=PAGES, **how)
    wanted = grouped_attention(q, k, v, edges, 2, **how)
    for name in ("mass", "out", "lse"):
        torch.testing.assert_close(getattr(got, name), getattr(wanted, name))
    weighed = weighted_attention(q, *pages, edges, 2, pages=PAGES, epilogue=None, **how)
    torch.testing.assert_close(weighed, wanted.out.sum(3))
