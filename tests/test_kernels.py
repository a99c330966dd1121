"""The attention kernels against float64: on a GPU if there is one, else in Triton's interpreter."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recorder import PARAMS, record
from torch import Tensor
from unending import SHORT, wide

from halu.attention import (
    KeyMap,
    Redistribution,
    ScoreMap,
    Spans,
    at_least,
    choice,
    column_mass,
    grouped_attention,
    weighted_attention,
)
from halu.attention.inputs import Inputs
from halu.decode import Decoder
from halu.errors import BadInput, HaluError, Unavailable, Unsupported
from halu.types import Request, Sampling, question

pytest.importorskip("triton")

from halu.attention.triton import configs, launch
from halu.attention.triton.configs import Config

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TYPES = (torch.float32, torch.float16, torch.bfloat16)
SMALL = Config(rows=16, keys=16, warps=4, stages=2, chunk=32)
"""Tiles so small that few keys make several splits."""
ASKED = os.environ.get("HALU_EXAMPLES")
FEW = settings(max_examples=int(ASKED or 6), derandomize=ASKED is None)
"""Examples beside the listed ones: the interpreter is slow. With HALU_EXAMPLES that many, and new
ones each time.
"""


@dataclass(frozen=True)
class Exact:
    """Attention in float64, all at once."""

    mass: Tensor
    out: Tensor
    lse: Tensor


def exact(inputs: Inputs, dtype: torch.dtype = torch.float64) -> Exact:
    """In float64 by the definition; in another type the way eager code does it: products in that
    type, the softmax in float32, probabilities rounded back.
    """
    q, k, v = (t.to(dtype) for t in (inputs.q, *inputs.cached.in_a_row()))
    b, h, n, _ = q.shape
    share, keys = h // k.shape[1], k.shape[2]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = (q @ k.transpose(-1, -2)).to(wide) * inputs.scale
    table = inputs.table
    labels = table if table.dim() == 3 else table[:, None].expand(b, h, keys)
    if inputs.score_map is not None:
        maps = inputs.score_map
        up, down, bias = (
            t.to(wide).expand(b, h, -1).gather(-1, labels.long())[:, :, None]
            for t in (maps.up, maps.down, maps.bias)
        )
        x = torch.where(x > 0, up, down) * x + bias
    gain = torch.ones((), dtype=wide, device=q.device)
    if inputs.key_map is not None:
        own = inputs.key_map
        x = x * own.factor.to(wide)[..., None, :] + own.bias.to(wide)[..., None, :]
        gain = own.gain.to(wide)[..., None, :]
    position = torch.arange(keys, device=q.device)
    seen = torch.ones(b, 1, n, keys, dtype=torch.bool, device=q.device)
    if inputs.within is not None:
        start, stop = (edge[:, None, None, None] for edge in inputs.within)
        seen = seen & (position >= start) & (position < stop)
    if inputs.first is not None:
        seen = seen & (position <= torch.arange(n, device=q.device)[:, None] + inputs.first)
    x = x.masked_fill(~seen, -math.inf)
    lse = torch.logsumexp(x, -1)
    p = torch.exp(x - lse.clamp(min=torch.finfo(wide).min)[..., None])
    member = torch.stack([labels == g for g in range(inputs.groups)], 2)[:, :, None]
    split = p[:, :, :, None] * member
    out = (split * gain[..., None, :] if gain.dim() else split).to(dtype) @ v[:, :, None]
    return Exact(split.sum(-1), out, lse)


def made(
    *,
    lanes: int = 1,
    kv_heads: int = 2,
    share: int = 2,
    queries: int = 1,
    keys: int = 63,
    width: int = 32,
    groups: int = 3,
    dtype: torch.dtype = torch.float32,
    labels: str = "lane",
    maps: str = "none",
    keyed: bool = False,
    ragged: bool = False,
    page: int = 0,
    causal: bool = False,
    seed: int = 0,
) -> Inputs:
    """A random call; the last group is empty if there are two or more."""
    rng = torch.Generator().manual_seed(seed)
    heads = kv_heads * share

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    q = 2 * random(lanes, heads, queries, width)
    k, v = random(lanes, kv_heads, keys, width), random(lanes, kv_heads, keys, width)
    shape = (lanes, heads, keys) if labels == "head" else (lanes, keys)
    table: Any = torch.randint(max(1, groups - 1), shape, generator=rng)
    if labels == "span":
        table = Spans(torch.randint(keys + 1, (lanes, groups, 2), generator=rng).to(torch.int32))
    table = replace(table, edges=table.edges.to(DEVICE)) if labels == "span" else table.to(DEVICE)
    sizes = {"group": (groups,), "head": (heads, groups), "lane": (lanes, heads, groups)}
    score_map = key_map = within = pages = None
    if maps != "none":
        up, down, bias = (0.5 * random(*sizes[maps]) for _ in range(3))
        score_map = ScoreMap((1 + up).to(DEVICE), (1 + down).to(DEVICE), bias.to(DEVICE))
    if keyed:
        by_head, by_lane = 1 + 0.3 * random(heads, keys), random(lanes, 1, keys)
        key_map = KeyMap(by_head.to(DEVICE), by_lane.to(DEVICE), 1 + 0.5 * random(keys).to(DEVICE))
    if ragged:
        edges = torch.randint(keys + 1, (2, lanes), generator=rng).sort(0).values
        within = tuple(edges.to(device=DEVICE, dtype=torch.int32))
    if page:
        k, v, pages = paged(k, v, page, rng)
    k, v, q = (t.to(device=DEVICE, dtype=dtype) for t in (k, v, q))
    if page:
        stop = torch.full((lanes,), keys, dtype=torch.int32, device=DEVICE)
        start, own = within or (torch.zeros_like(stop), stop)
        within = (start, torch.minimum(own, stop))
    first = max(0, keys - queries) if causal else None
    scale = width**-0.5
    room = 0 if pages is None else pages.shape[1] * page - keys
    if room and labels != "span":
        table = torch.nn.functional.pad(table, (0, room))
    if room and key_map is not None:
        parts = (key_map.factor, key_map.bias, key_map.gain)
        key_map = KeyMap(*(torch.nn.functional.pad(part, (0, room)) for part in parts))
    tables = (None, first, within, pages, score_map, key_map)
    return Inputs(q, k, v, table, groups, scale, *tables)


def paged(k: Tensor, v: Tensor, page: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values in a pool of pages in random order, the last of each lane partly empty."""
    lanes, heads, keys, width = k.shape
    each = -(-keys // page)
    order = torch.randperm(lanes * each + 2, generator=rng)[: lanes * each].reshape(lanes, each)
    pools = []
    for t in (k, v):
        filled = torch.nn.functional.pad(t, (0, 0, 0, each * page - keys))
        parts = filled.reshape(lanes, heads, each, page, width).transpose(1, 2)
        pool = torch.zeros(lanes * each + 2, heads, page, width)
        pool[order] = parts
        pools.append(pool)
    return pools[0], pools[1], order.to(device=DEVICE, dtype=torch.int32)


def redistribution(inputs: Inputs, seed: int = 0) -> Redistribution:
    """Random, by lane and head, with conditions that hold for some of them."""
    rng = torch.Generator().manual_seed(seed)
    lanes, heads = inputs.q.shape[:2]
    shape = (lanes, heads, inputs.groups)
    keep, give = torch.rand(shape, generator=rng), torch.rand(shape, generator=rng)
    give = give * (torch.rand(shape, generator=rng) < 0.5)
    when = [torch.randn(shape, generator=rng) + 0.5 for _ in range(2)]
    return Redistribution.of(keep, give, when).on(DEVICE)


def assert_within_budget(
    found: Tensor, wanted: Tensor, eager: Tensor, dtype: torch.dtype, score: float
) -> None:
    """At most twice the error of eager code in the same type, and what is lost without any error:
    one step of that type, and what one step of the largest score in float32 makes of a probability.
    """
    assert not found.isnan().any()
    steps = torch.finfo(dtype).eps + score * torch.finfo(torch.float32).eps
    budget = 2 * (eager.double() - wanted).abs().max() + steps * wanted.abs().max().clamp(min=1)
    gap = float((found.double() - wanted).abs().max())
    assert gap <= float(budget)


def assert_right(inputs: Inputs, config: Config | None = SMALL, seed: int = 0) -> None:
    """Masses, partial outputs, log-sum-exp, and outputs under both kinds of epilogue."""
    dtype = inputs.q.dtype
    wanted, eager = exact(inputs), exact(inputs, dtype)
    mass, pieces, lse = launch.grouped(inputs, config)
    some = wanted.lse.isfinite()
    score = float(wanted.lse[some].abs().max()) if some.any() else 0.0
    assert {t.dtype for t in (mass, pieces, lse)} == {torch.float32}
    assert_within_budget(mass, wanted.mass, eager.mass, dtype, score)
    assert_within_budget(pieces, wanted.out, eager.out, dtype, score)
    assert torch.equal(torch.isneginf(lse), torch.isneginf(wanted.lse))
    if some.any():
        assert_within_budget(lse[some], wanted.lse[some], eager.lse[some], dtype, score)
    closed = redistribution(inputs, seed)
    weights = closed(wanted.mass)
    # A condition may fall the other way if rounding moves a mass: leave those rows out.
    conditions = (closed.table.double().unsqueeze(-3)[..., 2:, :] * wanted.mass.unsqueeze(-2)).sum(
        -1
    )
    clear = (conditions.abs() > 0.02).all(-1)
    for epilogue in (None, closed, lambda found: closed(found)):
        own = torch.ones_like(weights) if epilogue is None else weights
        found = launch.weighted(inputs, epilogue, config=config)
        assert found.dtype == dtype
        assert not found.isnan().any()
        sums = [(one * own.unsqueeze(-1)).sum(-2) for one in (wanted.out, eager.out.double())]
        keep = torch.ones_like(clear) if epilogue is None else clear
        if keep.any():
            assert_within_budget(found[keep], sums[0][keep], sums[1][keep].to(dtype), dtype, score)


def one_query(
    lanes: int,
    kv_heads: int,
    share: int,
    keys: int,
    width: int,
    groups: int,
    dtype: torch.dtype,
    labels: str,
    maps: str,
    *,
    keyed: bool = False,
    ragged: bool = False,
    page: int = 0,
) -> Any:
    """An edge that is always tried."""
    return example(**locals(), seed=0)


def some_rows(
    lanes: int,
    share: int,
    queries: int,
    keys: int,
    width: int,
    groups: int,
    dtype: torch.dtype,
    labels: str,
    maps: str,
    *,
    keyed: bool = False,
    ragged: bool = False,
    page: int = 0,
    causal: bool = False,
) -> Any:
    """An edge that is always tried."""
    return example(**locals(), seed=0)


@pytest.mark.slow
@FEW
@given(
    lanes=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    share=st.sampled_from([1, 2, 4, 7]),
    keys=st.sampled_from([1, 2, 17, 63, 64, 65, 130]),
    width=st.sampled_from([8, 32, 64, 80, 96, 128]),
    groups=st.integers(1, 4),
    dtype=st.sampled_from(TYPES),
    labels=st.sampled_from(["lane", "head", "span"]),
    maps=st.sampled_from(["none", "group", "head", "lane"]),
    keyed=st.booleans(),
    ragged=st.booleans(),
    page=st.sampled_from([0, 0, 8, 16]),
    seed=st.integers(0, 10**6),
)
@one_query(1, 1, 1, 1, 8, 1, torch.float32, "lane", "none")
@one_query(2, 1, 2, 2, 80, 2, torch.bfloat16, "head", "group", keyed=True)
@one_query(3, 1, 4, 17, 32, 4, torch.float16, "span", "head", ragged=True)
@one_query(1, 2, 7, 65, 96, 3, torch.bfloat16, "lane", "lane", page=8)
@one_query(2, 1, 1, 64, 64, 4, torch.float32, "head", "lane", keyed=True, ragged=True, page=16)
@one_query(1, 1, 2, 130, 32, 2, torch.float16, "span", "group", keyed=True)
def test_one_query_a_lane(seed: int, **own: Any) -> None:
    assert_right(made(seed=seed, **own), seed=seed)


@pytest.mark.slow
@FEW
@given(
    lanes=st.integers(1, 2),
    share=st.sampled_from([1, 2]),
    queries=st.integers(2, 20),
    keys=st.sampled_from([2, 17, 40]),
    width=st.sampled_from([8, 32, 64, 80, 128]),
    groups=st.integers(1, 4),
    dtype=st.sampled_from(TYPES),
    labels=st.sampled_from(["lane", "head", "span"]),
    maps=st.sampled_from(["none", "group", "head", "lane"]),
    keyed=st.booleans(),
    ragged=st.booleans(),
    page=st.sampled_from([0, 0, 16]),
    causal=st.booleans(),
    seed=st.integers(0, 10**6),
)
@some_rows(1, 1, 2, 2, 8, 1, torch.float32, "lane", "none", causal=True)
@some_rows(2, 1, 17, 17, 32, 4, torch.bfloat16, "span", "head", causal=True, ragged=True)
@some_rows(1, 2, 20, 40, 80, 2, torch.float16, "head", "lane", keyed=True, page=16)
@some_rows(1, 2, 5, 40, 8, 3, torch.float32, "lane", "group", ragged=True)
@some_rows(1, 2, 18, 40, 64, 3, torch.float32, "lane", "head", keyed=True, causal=True)
@some_rows(1, 2, 18, 40, 128, 4, torch.bfloat16, "head", "group", causal=True)
def test_chosen_rows_of_a_prompt(seed: int, queries: int, keys: int, **own: Any) -> None:
    queries = min(queries, keys) if own["causal"] else queries
    inputs = made(seed=seed, kv_heads=1, queries=queries, keys=keys, **own)
    assert_right(inputs, Config(16, 16, 4, 2), seed=seed)


@pytest.mark.parametrize(
    ("keys", "share", "width", "groups", "dtype"),
    [
        (577, 1, 128, 4, torch.bfloat16),
        (1000, 7, 128, 4, torch.float16),
        (1000, 4, 64, 2, torch.float32),
    ],
)
def test_lengths_that_are_not_round(
    keys: int, share: int, width: int, groups: int, dtype: torch.dtype
) -> None:
    """With the stored tile sizes."""
    own = {"share": share, "width": width, "groups": groups, "dtype": dtype, "maps": "head"}
    assert_right(made(keys=keys, kv_heads=1, **own), config=None)


def test_a_prompt_of_577_tokens() -> None:
    own = {"width": 96, "share": 1, "kv_heads": 1, "groups": 2, "dtype": torch.float16}
    assert_right(made(keys=577, queries=3, causal=True, **own), config=None)


@pytest.mark.parametrize("queries", [1, 5])
def test_lanes_that_see_nothing_and_groups_that_are_hidden(queries: int) -> None:
    inputs = made(lanes=3, kv_heads=1, queries=queries, keys=40, groups=2, labels="span")
    edges = torch.tensor([[[0, 0], [10, 20]]] * 3, dtype=torch.int32, device=DEVICE)
    start = torch.tensor([0, 7, 12], dtype=torch.int32, device=DEVICE)
    stop = torch.tensor([40, 7, 18], dtype=torch.int32, device=DEVICE)
    off = torch.tensor([0.0, -math.inf], device=DEVICE)
    one = torch.ones(2, device=DEVICE)
    inputs = replace(inputs, labels=Spans(edges), within=(start, stop))
    assert_right(inputs)
    mass, out, lse = launch.grouped(inputs, SMALL)
    assert (mass[1] == 0).all()
    assert (out[1] == 0).all()
    assert torch.isneginf(lse[1]).all()
    assert (mass[2, ..., 0] == 0).all()  # its keys all belong to group 1
    hidden = replace(inputs, score_map=ScoreMap(one, one, off))
    assert_right(hidden)
    mass, out, lse = launch.grouped(hidden, SMALL)
    assert (mass[..., 1] == 0).all()
    assert (out[..., 1, :] == 0).all()
    assert torch.isneginf(lse[2]).all()
    assert torch.equal(mass[0, ..., 0], torch.ones_like(mass[0, ..., 0]))


@pytest.mark.parametrize("page", [0, 16])
def test_memory_behind_the_last_key_does_not_leak(page: int) -> None:
    """A cache has room for more keys than there are, and what lies there may be anything."""
    inputs = made(lanes=2, keys=70, page=page, dtype=torch.float16)
    stop = torch.tensor([33, 64], dtype=torch.int32, device=DEVICE)
    inputs = replace(inputs, within=(torch.zeros_like(stop), stop))
    wanted = launch.weighted(inputs, None, config=SMALL)
    k, v = inputs.k.clone(), inputs.v.clone()
    for lane, length in enumerate(stop.tolist()):
        for t in (k, v):
            if inputs.pages is None:
                t[lane, :, length:] = math.nan
            else:
                t[inputs.pages[lane, length // page].long(), :, length % page :] = math.nan
                t[inputs.pages[lane, length // page + 1 :].long()] = math.nan
    scratch = launch.scratch_for(inputs, SMALL)
    for memory in scratch:
        memory.fill_(math.nan)
    out = torch.full_like(inputs.q, math.nan)
    found = launch.weighted(replace(inputs, k=k, v=v), None, out=out, scratch=scratch, config=SMALL)
    assert found is out
    assert torch.equal(found, wanted)


def test_large_scores_do_not_overflow() -> None:
    inputs = made(keys=50)
    assert_right(replace(inputs, q=100 * inputs.q, k=10 * inputs.k, scale=1.0))


def test_the_choice_of_tiles_does_not_change_the_outcome() -> None:
    inputs = made(lanes=2, keys=130, share=7, groups=4, ragged=True, maps="head")
    wanted = launch.grouped(inputs, SMALL)
    for config in (Config(32, 32, 4, 1, 64), Config(16, 64, 4, 2, 128), Config(64, 16, 4, 2, 16)):
        for mine, other in zip(launch.grouped(inputs, config), wanted, strict=True):
            assert torch.allclose(mine, other, atol=1e-5)


MASSES = torch.tensor([[0.1, 0.3, 0.2, 0.4], [0.6, 0.05, 0.05, 0.3], [0.5, 0.0, 0.5, 0.0]])
FORMS: dict[str, tuple[Redistribution, Callable[[list[float]], list[float]]]] = {
    "var": (
        Redistribution.of(
            torch.tensor([1, 1, 0.6, 0.6]),
            torch.tensor([0.0, 1, 0, 0]),
            [at_least(0, 0, 0.5, -0.5, 0), at_least(0.2, 0, 1, 1, 0)],
        ),
        lambda a: (
            [1, 1 + 0.4 * (a[2] + a[3]) / a[1], 0.6, 0.6]
            if a[1] >= 0.5 * (a[1] + a[2]) and a[1] + a[2] >= 0.2
            else [1.0, 1, 1, 1]
        ),
    ),
    "zerotuning": (
        Redistribution.of(torch.tensor([1.0, 4, 1, 1]), torch.tensor([1.0, 4, 1, 1])),
        lambda a: [(4 if g == 1 else 1) / (1 + 3 * a[1]) for g in range(4)],
    ),
    "adhh": (
        Redistribution.of(
            torch.tensor([1.0, 1, 1, 0]), torch.zeros(4), [at_least(0.35, 0, 0, 0, 1)]
        ),
        lambda a: [1.0, 1, 1, 0 if a[3] >= 0.35 else 1],
    ),
    "act": (
        Redistribution.of(torch.tensor([1.0, 0.4, 1, 1]), torch.tensor([1.0, 0, 1, 1])),
        lambda a: [0.4 if g == 1 else 1 + 0.6 * a[1] / (1 - a[1]) for g in range(4)],
    ),
}


@pytest.mark.parametrize("method", FORMS)
def test_the_closed_forms_of_the_methods(method: str) -> None:
    form, formula = FORMS[method]
    wanted = torch.tensor([formula(row) for row in MASSES.tolist()])
    assert torch.allclose(form(MASSES[None, None])[0, 0], wanted, atol=1e-6)
    wider = form.widened(6)(torch.nn.functional.pad(MASSES, (0, 2))[None, None])[0, 0]
    assert torch.allclose(wider, torch.nn.functional.pad(wanted, (0, 2), value=1), atol=1e-6)


@pytest.mark.parametrize("method", FORMS)
def test_a_kernel_computes_them_alike(method: str) -> None:
    """Three heads whose masses are those above: keys score the logarithm of their share."""
    form, _ = FORMS[method]
    q = torch.zeros(1, 3, 1, 16, device=DEVICE)
    k = v = torch.eye(16, device=DEVICE)[None, None, :4].expand(1, 3, 4, 16).contiguous()
    bias = MASSES.log().clamp(min=-1e4).to(DEVICE)
    labels = torch.arange(4, device=DEVICE)[None]
    inputs = Inputs(q, k, v, labels, 4, 1.0, key_map=KeyMap(bias=bias[None]))
    found = launch.weighted(inputs, form, config=SMALL)[0, :, 0, :4]
    wanted = form(MASSES[None, None])[0, 0] * MASSES
    assert torch.allclose(found.cpu(), wanted, atol=1e-6)


def test_a_redistribution_has_room_for_two_conditions() -> None:
    one = torch.ones(2)
    with pytest.raises(Unsupported, match="at most 2"):
        Redistribution.of(one, one, [one, one, one])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [24, 64, 80])
@pytest.mark.parametrize("rows", ["all", "some", "one"])
def test_column_masses(rows: str, width: int, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 83, width, generator=rng).to(device=DEVICE, dtype=dtype)
    k = torch.randn(2, 2, 83, width, generator=rng).to(device=DEVICE, dtype=dtype)
    some = {"all": torch.arange(83), "some": torch.tensor([70, 3, 40]), "one": torch.tensor([0])}
    picked, scale = some[rows].to(DEVICE), 1.5 * width**-0.5
    found = column_mass(q, k, picked, scale, impl="triton")

    def by_hand(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        x = (q @ k.repeat_interleave(2, 1).transpose(-1, -2)).to(torch.float64) * scale
        later = torch.ones(83, 83, device=DEVICE).triu(1).bool()
        p = torch.softmax(x.masked_fill(later, -math.inf), -1)
        own = torch.zeros(p.shape[:3], dtype=p.dtype, device=DEVICE)
        own[:, :, picked] = p.diagonal(dim1=-2, dim2=-1)[:, :, picked]
        return p[:, :, picked].sum(2), own

    for mine, wanted, eager in zip(
        found, by_hand(q.double(), k.double()), by_hand(q, k), strict=True
    ):
        assert_within_budget(mine, wanted, eager, dtype, score=6.0)


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"mask": torch.ones(1, 1, 1, 63, dtype=torch.bool)}, Unsupported, "no masks"),
        ({"q": torch.zeros(1, 4, 1, 32).double()}, Unsupported, "not float64, float32"),
        ({"k": torch.zeros(1, 2, 0, 32), "v": torch.zeros(1, 2, 0, 32)}, BadInput, "do not fit"),
        ({"pages": torch.zeros(2, 1, dtype=torch.int32)}, BadInput, r"pages \(2, 1\)"),
        ({"labels": Spans(torch.zeros(1, 2, 2))}, BadInput, r"labels \(1, 2, 2\)"),
    ],
)
def test_what_the_kernels_do_not_do_is_refused(
    change: dict[str, Any], kind: type[HaluError], told: str
) -> None:
    made_of = made()
    call = {"q": made_of.q, "k": made_of.k, "v": made_of.v, "labels": made_of.labels, **change}
    with pytest.raises(kind, match=told):
        grouped_attention(**call, groups=3, scale=1.0, impl="triton")


def test_wide_heads_and_unfitting_tables_are_refused() -> None:
    with pytest.raises(Unsupported, match="up to 128, not 160"):
        launch.grouped(made(width=160))
    with pytest.raises(BadInput, match="3 groups"):
        launch.weighted(made(groups=3), Redistribution.neutral(2))


@pytest.mark.skipif(DEVICE.type == "cuda", reason="the kernels run here")
def test_without_a_gpu_the_kernels_are_refused_and_auto_is_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = made()
    call = (inputs.q, inputs.k, inputs.v, inputs.labels, 3)
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(Unavailable, match="need a GPU, the tensors are on cpu"):
        weighted_attention(*call, scale=1.0, epilogue=None, impl="triton")
    auto = weighted_attention(*call, scale=1.0, epilogue=None)
    assert torch.equal(auto, weighted_attention(*call, scale=1.0, epilogue=None, impl="reference"))


def test_spans_are_labels() -> None:
    edges = torch.tensor([[[9, 9], [1, 3], [2, 5]], [[0, 0], [0, 0], [4, 9]]], dtype=torch.int32)
    assert Spans(edges).labels(6).tolist() == [[0, 1, 2, 2, 2, 0], [0, 0, 0, 0, 2, 2]]


def test_every_size_of_tile_is_stored() -> None:
    for kernel in ("decode", "prompt", "columns"):
        for width in (8, 32, 64, 80, 96, 128):
            for dtype in TYPES:
                for keys in (1, 577, 1025, 32768):
                    found = configs.pick(kernel, torch.device("cpu"), width, dtype, keys)
                    assert found.rows >= 16
                    assert found.keys >= 16
                    assert found.chunk % found.keys == 0
                    assert (found.chunk > 0) == (kernel == "decode")


# The way there: policies, steering, models


METHODS = ("pai", "vaf", "sparc", "zerotuning", "adhh", "act", "var", "var+zerotuning")


def asked(name: str, picture: Any) -> Request:
    own = PARAMS | {"vaf": {"layers": (0, 1, 2)}}
    own["var"] = {"dimensions": (1, 2), "tau": 1.0, "summ": 0.0, "rho": 0.0}
    params = {key: value for part in name.split("+") for key, value in own.get(part, {}).items()}
    return Request(
        messages=question("What is this?", picture()),
        strategy=name,
        params=params,
        sampling=Sampling(max_new_tokens=3),
    )


@pytest.fixture
def impl(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes an implementation the best one."""

    if SHORT:
        wide(monkeypatch)

    def use(name: str) -> None:
        monkeypatch.setattr(choice, "best", lambda device: name)

    return use


@pytest.mark.parametrize("name", METHODS)
def test_a_request_through_the_kernels_is_the_request_through_the_reference(
    name: str, adapter: Any, picture: Any, impl: Any
) -> None:
    request, found = asked(name, picture), {}
    for best in ("reference", "triton"):
        impl(best)
        found[best] = record(adapter("qwen2_5_vl"), request)
    plain = record(
        adapter("qwen2_5_vl"), request.model_copy(update={"strategy": None, "params": {}})
    )
    assert found["triton"].tokens == found["reference"].tokens
    rows = [[step.main for step in run.steps] for run in (*found.values(), plain)]
    for own, mine in zip(*rows[:2], strict=True):
        assert torch.allclose(own, mine, atol=1e-5)
    assert any(
        not torch.allclose(own, other, atol=1e-4) for own, other in zip(*rows[1:], strict=False)
    )


def test_a_mixed_batch_goes_through_one_kernel(adapter: Any, picture: Any, impl: Any) -> None:
    """Rows without a policy, with closed forms, with score maps and with both."""
    requests = [asked(name, picture) for name in ("greedy", "var", "pai", "var+pai")]
    tokens = {}
    for best in ("reference", "triton"):
        impl(best)
        decoder = Decoder(adapter("qwen2_5_vl"))
        jobs = decoder.add(requests)
        while decoder.jobs:
            decoder.step()
        tokens[best] = [[token.id for token in job.answer.tokens] for job in jobs]
    assert tokens["triton"] == tokens["reference"]


# On a GPU only


@pytest.mark.gpu
def test_a_captured_call_follows_lengths_that_change_on_the_device() -> None:
    inputs = made(lanes=2, keys=300, share=4, groups=4, maps="head", dtype=torch.bfloat16)
    start = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    stop = torch.tensor([300, 300], dtype=torch.int32, device=DEVICE)
    inputs = replace(inputs, within=(start, stop))
    closed = redistribution(inputs)
    out, scratch = torch.empty_like(inputs.q), launch.scratch_for(inputs)
    launch.weighted(inputs, closed, out=out, scratch=scratch)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch.weighted(inputs, closed, out=out, scratch=scratch)
    for lengths in ([300, 1], [17, 129]):
        stop.copy_(torch.tensor(lengths))
        graph.replay()
        assert torch.equal(out, launch.weighted(inputs, closed))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("keys", [4096, 32768])
def test_long_contexts(keys: int, dtype: torch.dtype) -> None:
    assert_right(made(keys=keys, share=7, width=128, groups=4, dtype=dtype), config=None)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus(capability: int) -> None:
    """Without a GPU: machine code comes out; at the three pairs of type and width that are compiled
    no register spills with the stored tile sizes.
    """
    script = Path(__file__).with_name("compile_kernels.py")
    plain = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(capability)],
        env=plain,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    names = {f"{name}_kernel" for name in ("split", "join", "mass", "output", "column")}
    assert {line.partition(":")[0] for line in told} == names
    assert [line for line in told if not line.endswith(" 0 bytes stack")] == []


@pytest.mark.skipif(DEVICE.type == "cuda", reason="they would run")
@pytest.mark.parametrize("script", ["kernels.py", "tune_kernels.py"])
def test_measuring_without_a_gpu_is_refused(script: str) -> None:
    path = Path(__file__).parent.parent / "benchmarks" / script
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "CUDA device, and there is none here." in done.stderr
    assert "Traceback" not in done.stderr
