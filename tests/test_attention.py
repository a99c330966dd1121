"""Attention by key group against a slow loop in float64, and the steering that calls it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from halu.attention import Epilogue, Grouped, ScoreMap, grouped_attention, merge
from halu.attention.boost import Boost
from halu.attention.keys import Keys
from halu.attention.policy import AttentionPolicy, Stacked
from halu.attention.regrouping import Regrouping
from halu.attention.stacking import Stack
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.errors import BadInput, Unavailable
from halu.layout import Grid, ImageSpan, Layout

IMPLS = ("reference",)
on_all_impls = pytest.mark.parametrize("impl", IMPLS)


def oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    groups: int,
    scale: float,
    mask: Tensor | None = None,
    score_map: ScoreMap | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Masses, partial outputs and log-sum-exp, one query and one key at a time, float64."""
    b, h, n, d = q.shape
    keys, share = k.shape[2], h // k.shape[1]
    labels = labels if labels.dim() == 3 else labels[:, None].expand(b, h, keys)
    seen = torch.ones(b, h, n, keys) if mask is None else mask.expand(b, h, n, keys)
    mass = torch.zeros(b, h, n, groups, dtype=torch.float64)
    out = torch.zeros(b, h, n, groups, d, dtype=torch.float64)
    lse = torch.full((b, h, n), -math.inf, dtype=torch.float64)
    for i in range(b):
        for head in range(h):
            key, value = k[i, head // share].double(), v[i, head // share].double()
            for row in range(n):
                x = (key @ q[i, head, row].double() * scale).tolist()
                group = labels[i, head].tolist()
                if score_map is not None:
                    tables = (score_map.up, score_map.down, score_map.bias)
                    for j in range(keys):
                        up, down, bias = (_at(t, i, head, group[j]) for t in tables)
                        x[j] = (up if x[j] > 0 else down) * x[j] + bias
                visible = [j for j in range(keys) if seen[i, head, row, j]]
                if not visible:
                    continue
                top = max(x[j] for j in visible)
                total = sum(math.exp(x[j] - top) for j in visible)
                lse[i, head, row] = top + math.log(total)
                for j in visible:
                    p = math.exp(x[j] - top) / total
                    mass[i, head, row, group[j]] += p
                    out[i, head, row, group[j]] += p * value[j]
    return mass, out, lse


def _at(table: Tensor, batch: int, head: int, group: int) -> float:
    table = table.double()
    if table.dim() == 3:
        return float(table[batch, head, group])
    return float(table[head, group] if table.dim() == 2 else table[group])


@dataclass(frozen=True)
class Case:
    """Random inputs of one call."""

    q: Tensor
    k: Tensor
    v: Tensor
    labels: Tensor
    groups: int
    scale: float
    mask: Tensor | None = None
    score_map: ScoreMap | None = None

    def run(self, impl: str = "reference") -> Grouped:
        return grouped_attention(
            self.q,
            self.k,
            self.v,
            self.labels,
            self.groups,
            scale=self.scale,
            mask=self.mask,
            score_map=self.score_map,
            impl=impl,
        )

    def oracle(self) -> tuple[Tensor, Tensor, Tensor]:
        return oracle(
            self.q,
            self.k,
            self.v,
            self.labels,
            self.groups,
            self.scale,
            self.mask,
            self.score_map,
        )


def case(
    *,
    batch: int = 1,
    heads: int = 4,
    kv_heads: int = 2,
    queries: int = 3,
    keys: int = 63,
    width: int = 8,
    groups: int = 3,
    empty: bool = False,
    per_head: bool = False,
    mask: str = "none",
    maps: str = "none",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Case:
    rng = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(dtype)

    q = 2 * random(batch, heads, queries, width)
    k, v = random(batch, kv_heads, keys, width), random(batch, kv_heads, keys, width)
    used = groups - 1 if empty and groups > 1 else groups
    shape = (batch, heads, keys) if per_head else (batch, keys)
    labels = torch.randint(used, shape, generator=rng)
    seen = {
        "none": None,
        "random": torch.rand(batch, 1, queries, keys, generator=rng) < 0.6,
        "keys": torch.rand(batch, 1, 1, keys, generator=rng) < 0.6,
        "causal": torch.arange(keys) <= torch.arange(keys - queries, keys)[:, None],
        "blind": torch.zeros(batch, heads, queries, keys, dtype=torch.bool),
    }[mask]
    if mask == "causal":
        assert seen is not None
        seen = seen[None, None]
    tables = {
        "none": (),
        "group": (groups,),
        "head": (heads, groups),
        "row": (batch, heads, groups),
    }
    score_map = None
    if maps != "none":
        up, down, bias = (0.5 * random(*tables[maps]).float() for _ in range(3))
        score_map = ScoreMap(up + 1, down + 1, bias)
    return Case(q, k, v, labels, groups, width**-0.5, seen, score_map)


def assert_matches(made: Case, impl: str = "reference", tolerance: float = 2e-5) -> None:
    found, (mass, out, lse) = made.run(impl), made.oracle()
    assert {t.dtype for t in (found.mass, found.out, found.lse)} == {torch.float32}
    assert (found.mass.shape, found.out.shape, found.lse.shape) == (
        mass.shape,
        out.shape,
        lse.shape,
    )
    assert not found.mass.isnan().any()
    assert not found.out.isnan().any()
    assert (found.mass - mass).abs().max() < tolerance
    assert (found.out - out).abs().max() < tolerance
    assert torch.equal(torch.isneginf(found.lse), torch.isneginf(lse))
    kept = lse.isfinite()
    assert torch.allclose(found.lse[kept].double(), lse[kept], atol=tolerance)


@on_all_impls
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    share=st.integers(1, 3),
    queries=st.integers(1, 5),
    keys=st.sampled_from([1, 2, 17, 63, 64, 65]),
    width=st.sampled_from([1, 4, 8]),
    groups=st.integers(1, 5),
    empty=st.booleans(),
    per_head=st.booleans(),
    mask=st.sampled_from(["none", "random", "keys", "blind"]),
    maps=st.sampled_from(["none", "group", "head", "row"]),
    seed=st.integers(0, 10**6),
)
def test_masses_and_outputs_are_those_of_the_slow_loop(
    impl: str, kv_heads: int, share: int, **own: Any
) -> None:
    assert_matches(case(heads=kv_heads * share, kv_heads=kv_heads, **own), impl)


@on_all_impls
@pytest.mark.parametrize(
    "own",
    [
        {"keys": 577, "queries": 2},
        {"keys": 135, "queries": 133, "mask": "causal", "heads": 1, "kv_heads": 1, "maps": "head"},
        {"keys": 1, "queries": 1, "groups": 1},
        {"keys": 577, "queries": 1, "groups": 4, "empty": True, "mask": "keys", "batch": 2},
    ],
)
def test_long_rows_and_many_queries(impl: str, own: dict[str, Any]) -> None:
    assert_matches(case(**own), impl)


@on_all_impls
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_twice_the_eager_error(impl: str, dtype: torch.dtype) -> None:
    made = case(keys=200, queries=4, dtype=dtype, mask="random")
    _, out, _ = made.oracle()
    exact = out.sum(-2)
    groups = made.q.shape[1] // made.k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (made.k, made.v))
    x = (made.q @ k.transpose(-1, -2) * made.scale).masked_fill(~made.mask, float("-inf"))
    eager = torch.softmax(x, -1, dtype=torch.float32).to(dtype) @ v
    budget = 2 * (eager.double() - exact).abs().max()
    assert (merge(made.run(impl)).double() - exact).abs().max() <= budget


@on_all_impls
@given(
    keys=st.sampled_from([1, 63, 577]),
    queries=st.integers(1, 3),
    share=st.integers(1, 4),
    groups=st.integers(1, 4),
    mask=st.sampled_from(["none", "keys", "causal"]),
    seed=st.integers(0, 10**6),
)
def test_merge_is_scaled_dot_product_attention(
    impl: str, keys: int, queries: int, share: int, groups: int, mask: str, seed: int
) -> None:
    made = case(
        keys=keys,
        queries=min(queries, keys),
        heads=2 * share,
        kv_heads=2,
        groups=groups,
        mask=mask,
        seed=seed,
    )
    seen = made.mask
    if seen is not None:
        seen = seen.clone()
        seen[..., 0] = True  # stock attention is undefined where a query sees nothing
    found = Case(made.q, made.k, made.v, made.labels, groups, made.scale, seen).run(impl)
    wanted = scaled_dot_product_attention(
        made.q, made.k, made.v, attn_mask=seen, scale=made.scale, enable_gqa=True
    )
    assert torch.allclose(merge(found), wanted, atol=1e-5)
    assert torch.allclose(found.mass.sum(-1), torch.ones(found.mass.shape[:-1]), atol=1e-5)
    weights = torch.rand(found.mass.shape)
    parts = sum(weights[..., g, None] * found.out[..., g, :] for g in range(groups))
    assert torch.allclose(merge(found, weights), parts, atol=1e-5)


@on_all_impls
def test_a_query_that_sees_nothing_gets_zeros(impl: str) -> None:
    made = case(mask="random", keys=9)
    assert made.mask is not None
    made.mask[:, :, 1] = False
    for own in (made, case(mask="blind"), case(mask="blind", maps="head")):
        found = own.run(impl)
        assert (found.mass[:, :, 1] == 0).all()
        assert (found.out[:, :, 1] == 0).all()
        assert torch.isneginf(found.lse[:, :, 1]).all()


@on_all_impls
def test_hidden_keys_cannot_leak_even_if_they_are_not_numbers(impl: str) -> None:
    """Memory behind a row's last key holds anything; the mask must keep it out."""
    made = case(mask="keys", keys=40)
    assert made.mask is not None
    hidden = ~made.mask[0, 0, 0]
    wanted = made.run(impl)
    made.k[:, :, hidden] = 1e4
    found = made.run(impl)
    assert torch.equal(found.mass, wanted.mass)
    made.v[:, :, hidden] = 1e30
    assert torch.allclose(made.run(impl).out, wanted.out)


@on_all_impls
def test_large_scores_do_not_overflow(impl: str) -> None:
    made = case(keys=30)
    big = Case(100 * made.q, 10 * made.k, made.v, made.labels, 3, 1.0)
    found = big.run(impl)
    assert found.lse.max() > 1000
    assert torch.allclose(found.mass.sum(-1), torch.ones(1, 4, 3))
    assert found.out.isfinite().all()


@on_all_impls
def test_known_score_maps(impl: str) -> None:
    """x + a|x| on one group, and a bias as the closed form of methods-attention 2.1."""
    made, alpha = case(groups=2, keys=20), 0.7
    share = made.q.shape[1] // made.k.shape[1]
    x = made.q @ made.k.repeat_interleave(share, 1).transpose(-1, -2) * made.scale
    pai = ScoreMap(torch.tensor([1, 1 + alpha]), torch.tensor([1, 1 - alpha]), torch.zeros(2))
    first = (made.labels == 1)[:, None, None]
    wanted = torch.softmax(torch.where(first, x + alpha * x.abs(), x), -1)
    run = Case(made.q, made.k, made.v, made.labels, 2, made.scale, None, pai).run(impl)
    assert torch.allclose(run.mass[..., 1], (wanted * first).sum(-1), atol=1e-6)
    bias = torch.tensor([0.0, math.log(4)])
    biased = ScoreMap(torch.ones(2), torch.ones(2), bias)
    with_bias = Case(made.q, made.k, made.v, made.labels, 2, made.scale, None, biased).run(impl)
    plain = made.run(impl)
    weights = bias.exp() / (plain.mass * bias.exp()).sum(-1, keepdim=True)
    assert torch.allclose(merge(with_bias), merge(plain, weights), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"q": torch.zeros(1, 3, 3, 8)},
        {"q": torch.zeros(2, 4, 3, 8)},
        {"q": torch.zeros(1, 4, 3, 7)},
        {"q": torch.zeros(4, 3, 8)},
        {"v": torch.zeros(1, 2, 62, 8)},
        {"labels": torch.zeros(1, 62, dtype=torch.long)},
        {"labels": torch.zeros(2, 63, dtype=torch.long)},
    ],
)
def test_shapes_that_do_not_fit_are_named(change: dict[str, Tensor]) -> None:
    made = case()
    inputs = {"q": made.q, "k": made.k, "v": made.v, "labels": made.labels, **change}
    with pytest.raises(BadInput) as error:
        grouped_attention(**inputs, groups=3, scale=1.0)
    for name, tensor in inputs.items():
        assert f"{name} {tuple(tensor.shape)}" in str(error.value)


def test_an_implementation_that_is_not_there_is_refused() -> None:
    with pytest.raises(Unavailable, match=r"abacus"):
        case().run("abacus")


def test_memory_that_library_code_does_not_fill_is_poisoned() -> None:
    """The guard of tests/conftest.py works: forgotten corners come back as NaN."""
    inside = {"__name__": "halu.somewhere", "torch": torch}
    assert eval("torch.empty_like(torch.ones(3)).isnan().all()", inside)
    assert eval("torch.empty(2, 2).isnan().all()", inside)
    assert eval("torch.empty(2, dtype=torch.long)", inside).dtype == torch.long


# Stacked policies


@dataclass
class Fixed(AttentionPolicy):
    """A policy with given labels and weights as a known function of its own masses."""

    table: Tensor
    groups: int
    slope: float = 1.0
    generated: int = 0
    rows: Any = "all"
    silent: tuple[int, ...] = ()
    factor: Tensor | None = None
    map: ScoreMap | None = None
    masses: list[Tensor] = field(default_factory=list)
    last: list[Tensor | None] = field(default_factory=list)

    def labels(self, layer: int) -> Tensor | None:
        return None if layer in self.silent else self.table

    def score_map(self, layer: int) -> ScoreMap | None:
        return self.map

    def epilogue(self, layer: int) -> Epilogue:
        return partial(self.weights, layer)

    def weights(self, layer: int, mass: Tensor) -> Tensor | None:
        self.masses.append(mass)
        return 1 + self.slope * mass * torch.arange(1, self.groups + 1)

    def head_scale(self, layer: int, last: Tensor | None) -> Tensor | None:
        self.last.append(last)
        return self.factor


def weights_of(policy: Fixed, p: Tensor, table: Tensor) -> Tensor:
    """The factor of each key [H, Q, K], by hand."""
    mass = torch.stack([p[..., table == g].sum(-1) for g in range(policy.groups)], -1)
    own = 1 + policy.slope * mass * torch.arange(1, policy.groups + 1)
    return own[..., table]


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("silent", [(), (0,), (2,)])
def test_stacked_weights_are_the_product_of_what_each_part_says(
    parts: int, silent: tuple[int, ...]
) -> None:
    rng = torch.Generator().manual_seed(parts)
    keys, heads, queries = 30, 2, 4
    sizes = [2, 3, 4][:parts]
    policies = [
        Fixed(
            torch.randint(size, (keys,), generator=rng),
            size,
            slope=0.3 * (index + 1),
            silent=(5,) if index in silent else (),
        )
        for index, size in enumerate(sizes)
    ]
    stacked = Stacked(policies)
    joint = stacked.labels(5)
    p = torch.softmax(torch.randn(heads, queries, keys, generator=rng), -1)
    heard = [policy for index, policy in enumerate(policies) if index not in silent]
    assert (joint is None) == (not heard)
    if joint is None:
        return
    assert int(joint.max()) < stacked.groups
    wanted = torch.ones(heads, queries, keys)
    for policy in heard:
        wanted = wanted * weights_of(policy, p, policy.table)
    mass = torch.stack([p[..., joint == g].sum(-1) for g in range(stacked.groups)], -1)
    weigh = stacked.epilogue(5)
    assert weigh is not None
    found = weigh(mass)
    assert found is not None
    assert torch.allclose(found[..., joint], wanted, atol=1e-5)


def test_stacked_parts_label_generated_tokens_together() -> None:
    parts = [
        Fixed(torch.tensor([0, 1]), 2, generated=1),
        Fixed(torch.tensor([2, 0]), 3, generated=2),
    ]
    stacked = Stacked(parts)
    assert stacked.groups == 6
    labels = stacked.labels(0)
    assert labels is not None
    assert labels.tolist() == [2, 3]
    assert stacked.generated == 5
    assert stacked.rows == "all"


def test_a_stacked_score_map_reaches_its_own_groups() -> None:
    up = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # [H, G]
    mapping = ScoreMap(up, 10 * up, 100 * up)
    first = Fixed(torch.tensor([0, 1, 0]), 3)
    second = Fixed(torch.tensor([0, 1, 1]), 2, map=mapping)
    stacked = Stacked([first, second])
    found, labels = stacked.score_map(0), stacked.labels(0)
    assert found is not None
    assert labels is not None
    for own, given_ in zip(
        (found.up, found.down, found.bias), (up, 10 * up, 100 * up), strict=True
    ):
        assert torch.equal(own[:, labels], given_[:, second.table])


# Steering


LENGTH = 12
LAYOUT = Layout(LENGTH, (ImageSpan(2, 6, (Grid(0, 2, 2, 2),)),))
Attend = Callable[..., Tensor]


def qkv(queries: int, keys: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(batch, 4, queries, 8, generator=rng)
    k, v = (torch.randn(batch, 2, keys, 8, generator=rng) for _ in range(2))
    return q, k, v


def causal(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [B, H, Q, K] and values [B, H, K, D] of ordinary causal attention."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    x = q @ k.transpose(-1, -2) * 8**-0.5
    queries, keys = x.shape[-2:]
    later = torch.arange(keys) > torch.arange(keys - queries, keys)[:, None]
    return torch.softmax(x.masked_fill(later, float("-inf")), -1), v


def steer(
    rows: list[Steered],
    lengths: list[int],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    prefill: bool,
    pads: list[int] | None = None,
    layer: int = 0,
) -> Tensor:
    def plain(pick: slice | Tensor) -> Tensor:
        index = torch.arange(len(q))[pick].tolist()
        out = torch.empty(len(index), *q.shape[1:])
        for n, row in enumerate(index):
            start = pads[row] if pads else 0
            stop = start + lengths[row]
            mine = slice(start, stop) if prefill else slice(None)
            span = slice(start, stop)
            p, value = causal(
                q[row : row + 1, :, mine], k[row : row + 1, :, span], v[row : row + 1, :, span]
            )
            out[n] = 0
            out[n, :, mine] = (p @ value)[0]
        return out

    return Steering(rows, lengths, prefill=prefill, pads=pads).attend(
        layer, q, Keys(k, v), 8**-0.5, plain
    )


def labelled(**own: Any) -> Fixed:
    return Fixed(torch.arange(LENGTH) % 3, 3, **own)


@pytest.mark.parametrize(
    ("rows", "first"), [("all", 0), ("after_image", 6), ("last", LENGTH - 1), ("decode", LENGTH)]
)
def test_prompt_rows_outside_the_selector_stay_and_others_are_weighted(
    rows: str, first: int
) -> None:
    policy = labelled(rows=rows, factor=torch.tensor([1.0, 2.0, 0.5, 0.0]), generated=2)
    q, k, v = qkv(LENGTH, LENGTH)
    found = steer([Steered(LAYOUT, (policy,))], [LENGTH], q, k, v, prefill=True)
    p, value = causal(q, k, v)
    plain = p @ value
    weighted = (p * weights_of(policy, p[0], policy.table)) @ value
    weighted = weighted * policy.factor[:, None, None]
    assert torch.allclose(found[:, :, :first], plain[:, :, :first], atol=1e-6)
    assert torch.allclose(found[:, :, first:], weighted[:, :, first:], atol=1e-5)
    # each generated token's row is steered under every selector, with its own label
    one, keys, values = qkv(1, LENGTH + 3, seed=1)
    step = steer([Steered(LAYOUT, (policy,))], [LENGTH + 3], one, keys, values, prefill=False)
    table = torch.cat([policy.table, torch.tensor([2, 2, 2])])
    p, value = causal(one, keys, values)
    wanted = (p * weights_of(policy, p[0], table)) @ value * policy.factor[:, None, None]
    assert torch.allclose(step, wanted, atol=1e-5)


def test_head_scales_see_the_last_row_weighted_but_not_scaled() -> None:
    first = labelled(factor=torch.tensor([2.0, 1.0, 1.0, 1.0]))
    second = labelled(slope=0.0, factor=torch.tensor([1.0, 3.0, 1.0, 1.0]))
    q, k, v = qkv(LENGTH, LENGTH)
    found = steer([Steered(LAYOUT, (first, second))], [LENGTH], q, k, v, prefill=True)
    p, value = causal(q, k, v)
    weighted = (p * weights_of(first, p[0], first.table)) @ value
    assert first.last[0] is not None
    assert torch.allclose(first.last[0], weighted[0, :, -1], atol=1e-5)
    assert second.last[0] is not None
    assert torch.allclose(second.last[0], first.last[0])  # in whatever order they come
    scaled = weighted[0] * torch.tensor([2.0, 1, 1, 1])[:, None, None]
    both = scaled * torch.tensor([1.0, 3, 1, 1])[:, None, None]
    assert torch.allclose(found[0], both, atol=1e-5)
    steer([Steered(LAYOUT, (first,))], [LENGTH + 1], *qkv(1, LENGTH + 1), prefill=False)
    assert first.last[1:] == [None]


def test_what_layers_share_is_made_once_for_each_number_of_groups() -> None:
    """A row goes with others in one layer that it does not meet in the next."""
    boost = Boost(torch.arange(LENGTH) % 2, [0.5], range(2), rows="all")
    one, none = Steered(LAYOUT, (boost,)).regrouping, Regrouping((), (), LENGTH)
    q, stack = torch.zeros(2, 4, 1, 8), Stack()
    narrow, again = (stack.score_map(layer, [one, none], 2, q) for layer in range(2))
    wide = stack.score_map(1, [one, none], 3, q)
    assert narrow is again is not None
    assert narrow.up[:, 0].tolist() == [[1.0, 1.5], [1.0, 1.0]]
    assert wide is not None
    assert wide.up[:, 0].tolist() == [[1.0, 1.5, 1.0], [1.0, 1.0, 1.0]]


def test_a_silent_layer_is_plain() -> None:
    policy = labelled(silent=(3,))
    q, k, v = qkv(LENGTH, LENGTH)
    p, value = causal(q, k, v)
    for layer, changed in ((3, False), (2, True)):
        found = steer([Steered(LAYOUT, (policy,))], [LENGTH], q, k, v, prefill=True, layer=layer)
        assert torch.allclose(found, p @ value, atol=1e-6) is not changed


@pytest.mark.parametrize("prefill", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_rows_of_a_padded_batch_are_each_steered_as_if_alone(prefill: bool, left: bool) -> None:
    """Left padding is the host's, right padding ours; what lies in the padding is noise."""
    scale = torch.tensor([1.0, 2.0, 1.0, 0.5])
    table = ScoreMap(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 0.5, 1]), torch.zeros(3))
    long = Layout(20, (ImageSpan(5, 9, (Grid(0, 2, 2, 2),)),))
    makers: list[tuple[Layout, Callable[[], tuple[AttentionPolicy, ...]]]] = [
        (LAYOUT, lambda: ()),
        (LAYOUT, lambda: (labelled(rows="after_image"),)),
        (long, lambda: (Fixed(torch.arange(20) % 2, 2, factor=scale),)),
        (LAYOUT, lambda: (labelled(map=table), Fixed(torch.arange(LENGTH) // 6, 2))),
        (long, lambda: (Fixed(torch.arange(20) % 4, 4, silent=(0,)),)),
    ]
    grown = 0 if prefill else 2
    lengths = [layout.length + grown for layout, _ in makers]
    keys = max(lengths) + 3
    pads = [keys - length if left else 0 for length in lengths]
    queries = keys if prefill else 1
    q, k, v = qkv(queries, keys, len(makers))
    together = steer(
        [Steered(layout, make()) for layout, make in makers],
        lengths,
        q,
        k,
        v,
        prefill=prefill,
        pads=pads,
    )
    assert not together.isnan().any()
    for row, (layout, make) in enumerate(makers):
        span = slice(pads[row], pads[row] + lengths[row])
        mine = span if prefill else slice(None)
        one = slice(row, row + 1)
        alone = steer(
            [Steered(layout, make())],
            [lengths[row]],
            q[one, :, mine],
            k[one, :, span],
            v[one, :, span],
            prefill=prefill,
        )
        assert torch.allclose(together[one, :, mine], alone, atol=1e-5)


def test_layer_inputs_are_shown_without_padding_and_only_of_prompts() -> None:
    class Reader(AttentionPolicy):
        reads = "prompt"

        def __init__(self) -> None:
            self.seen: list[tuple[int, Tensor]] = []

        def read(self, layer: int, hidden: Tensor) -> None:
            self.seen.append((layer, hidden))

    readers = [Reader(), Reader()]
    deaf = Fixed(torch.zeros(LENGTH, dtype=torch.long), 2)
    rows = [Steered(LAYOUT, (readers[0], deaf)), Steered(Layout(4), (readers[1],))]
    hidden = torch.arange(2 * LENGTH * 3.0).reshape(2, LENGTH, 3)
    steering = Steering(rows, [LENGTH, 4], prefill=True, pads=[0, LENGTH - 4])
    steering.read(7, hidden)
    assert readers[0].seen[0][0] == 7
    assert torch.equal(readers[0].seen[0][1], hidden[0])
    assert torch.equal(readers[1].seen[0][1], hidden[1, LENGTH - 4 :])
    Steering(rows, [LENGTH, 4], prefill=False).read(7, hidden)
    assert [len(reader.seen) for reader in readers] == [1, 1]


def test_labels_cover_long_answers() -> None:
    policy = labelled(generated=1)
    steered = Steered(LAYOUT, (policy,))
    for keys in (LENGTH, LENGTH + 1, LENGTH + 600, LENGTH + 5):
        table = steered.regrouping.labels(0, keys, torch.device("cpu"))
        assert table is not None
        assert table.tolist() == policy.table.tolist() + [1] * (keys - LENGTH)
    bare = Steered(LAYOUT).regrouping
    assert not bare.changes(0)
    assert bare.labels(0, 5, torch.device("cpu")).tolist() == [0] * 5
    assert not Steered(LAYOUT).active
    assert steered.active
