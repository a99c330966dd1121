"""ACT, EAH, HGAI and SPIN: the released implementations' numbers, and whole models.

The vectors (tests/data/parity/columns) were made by running the authors' code; our policies are
driven through their own plans and the real steering. On random models the same methods are computed
once more, slowly, from the equations.
"""

from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from recorder import full_rows, record
from test_parity import NO, assert_close, plan_of, prompt_of
from test_parity_more import (
    LAYER,
    assert_layer,
    attend,
    policy_of,
    projected,
    request,
    softmax,
    steered_maps,
    stub,
)
from torch import Tensor
from vectors import Vectors

from halu.attention import column_mass
from halu.attention.keys import Keys
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.constants import ACT_HEADS
from halu.engine import Local
from halu.errors import BadInput, HaluError, Unsupported
from halu.prompt import Prompt
from halu.strategy import ModelFacts
from halu.testing.random_models import FAMILIES

VECTORS = Vectors("columns")
cases, stored = VECTORS.of, VECTORS.stored


def test_every_vector_is_used_and_every_file_is_there() -> None:
    VECTORS.assert_complete()
    wanted = {"act.prefill", "act.decode_released", "eah.head_swap"}
    assert VECTORS.tasks == wanted | {"hgai.attention", "spin.attention"}


# ACT


def act_maps(policy: Any, prompt: Prompt, maps: Tensor, *, prefill: bool) -> Tensor:
    """The policy's maps for probabilities [1, H, Q, K]: scores log P, keys unit vectors."""
    _, heads, queries, keys = maps.shape
    mask = torch.ones(1, queries, keys, dtype=torch.bool).tril(keys - queries)
    q, k = maps.log().clamp(min=-1e4), torch.eye(keys).expand(1, heads, keys, keys)
    return steered_maps([(prompt, policy)], q, k, mask, 1.0, prefill=prefill)


@cases("act.prefill")
def test_act_prompt(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    heads, length = data.in_P.shape[1:3]
    prompt = prompt_of(length, [1, 3])
    own = {"beta": p["beta"], "threshold": p["threshold"]}
    pairs = [(LAYER, head) for head in p["heads"]]
    policy = policy_of("act", prompt, (heads, 4), pairs=pairs, **own)
    found = act_maps(policy, prompt, data.in_P, prefill=True)
    assert_close(found, data.out_P, case["tolerance"])
    assert_close(found @ data.in_V, data.out_O, case["tolerance"])
    assert torch.allclose(found.sum(-1), torch.ones(1, heads, length), atol=1e-5)
    assert torch.equal(found[:, :, 0], data.in_P[:, :, 0])
    labels = policy.labels(LAYER)
    sinks = torch.zeros_like(data.out_sinks) if labels is None else labels == 1
    assert torch.equal(sinks, data.out_sinks)


@cases("act.decode_released")
def test_act_released_decode(case: dict[str, Any]) -> None:
    """Only if asked for: mode="official" alone keeps the first key's weight."""
    data, p = stored(case), case["params"]
    heads, keys = data.in_P.shape[1], data.in_P.shape[3]
    prompt = prompt_of(keys - 5, [1, 3])
    own = {"beta": p["beta"], "mode": "official", "pairs": [(LAYER, head) for head in p["heads"]]}
    assert p["threshold"] == 0.1  # the mode's own
    policy = policy_of("act", prompt, (heads, 4), released_decode=True, **own)
    found = act_maps(policy, prompt, data.in_P, prefill=False)
    assert_close(found, data.out_P, case["tolerance"])
    assert_close(found @ data.in_V, data.out_O, case["tolerance"])
    kept = found[0, :, 0] / data.in_P[0, :, 0]
    given = p["beta"] + (1 - p["beta"]) * (data.in_P[0, :, 0] * data.out_sinks).sum(-1)
    lowered = (kept - given[:, None]).abs() < 1e-4
    lowered[2] = False  # not calibrated
    assert torch.equal(lowered, data.out_sinks)
    plain = policy_of("act", prompt, (heads, 4), **own)
    found = act_maps(plain, prompt, data.in_P, prefill=False)
    assert_close(found, data.in_P, 1e-6)


def test_act_generated_rows_keep_the_prompts_sinks() -> None:
    """By hand: sinks 0 and 2 of four, the first stays; a generated key is no sink."""
    maps = torch.tensor([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.3, 0.1, 0.6, 0], [0.2, 0.2, 0.5, 0.1]])
    prompt = prompt_of(4, [1, 2])
    policy = policy_of("act", prompt, (1, 4), threshold=0.5, beta=0.5)
    found = act_maps(policy, prompt, maps[None, None], prefill=True)[0, 0]
    assert torch.equal(policy.labels(LAYER), torch.tensor([[0, 0, 1, 0]]))
    assert_close(found[3], torch.tensor([0.3, 0.3, 0.25, 0.15]), 1e-6)
    row = torch.tensor([[[[0.1, 0.1, 0.1, 0.1, 0.6]]]])
    found = act_maps(policy, prompt, row, prefill=False)[0, 0, 0]
    gain = 1 + 0.05 / 0.9
    assert_close(found, torch.tensor([0.1, 0.1, 0.05 / gain, 0.1, 0.6]) * gain, 1e-6)


def test_act_leaves_a_row_whose_mass_all_lies_on_sinks() -> None:
    policy = policy_of("act", prompt_of(4, [1, 2]), (1, 4))
    weights = policy.epilogue(LAYER)(torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]))
    assert_close(weights[0], torch.tensor([[1, 1], [1.6, 0.4]]), 1e-6)


def test_act_thresholds_and_heads() -> None:
    row = torch.full((1, 1, 20, 20), 1 / 20).tril()
    for mode, threshold in (("paper", 5 / 20), ("official", 0.1)):
        policy = policy_of("act", prompt_of(20, [1, 3]), (1, 4), mode=mode)
        for mean, over in ((threshold * 1.001, True), (threshold * 0.999, False)):
            columns = torch.zeros(1, 20)
            columns[0, [0, 7]] = mean
            policy._labels.clear()
            policy.watched(LAYER, columns * torch.arange(20, 0, -1), row[0, :, 0])
            assert (policy.labels(LAYER) is not None) is over
    every = policy_of("act", prompt_of(20, [1, 3]), (4, 32)).heads
    assert sorted(every) == list(range(2, 31))
    assert all(bool(heads.all()) for heads in every.values())


def test_act_published_heads() -> None:
    sizes = {kind: len(found.pairs) for kind, found in ACT_HEADS.items()}
    assert sizes == {"classification": 184, "multiple_choice": 74}
    assert {layer for layer, _ in ACT_HEADS["classification"].pairs} == set(range(2, 31)) - {28}
    ctx = stub(prompt_of(20, [1, 3]), 32, 32)
    ctx.model = ModelFacts("seven", "llava", 32, 32, 32, 4096)
    policy: Any = plan_of("act", ctx, published="multiple_choice").policies[0](ctx.main.prompt)
    assert sorted(policy.heads)[-1] == 31
    assert policy.heads[31].nonzero().flatten().tolist() == [4, 31]


# EAH


@cases("eah.head_swap")
def test_eah(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    q, k, v = data.in_q, data.in_k, data.in_v
    heads, length, width = q.shape[1:]
    (first, stop), scale = p["image_columns"], width**-0.5
    prompt = prompt_of(length, [first - 1, stop])  # the code leaves the picture's first key out
    own = {"mode": "official", "threshold": p["threshold"], "layer": LAYER}
    policy = policy_of("eah", prompt, (heads, 4), **own)
    columns = column_mass(q, k, torch.arange(length), scale)
    counts = policy.counts(*(table[0] for table in columns))
    assert (counts - data.out_counts).abs().max() <= 2
    later = torch.ones(length, length, dtype=torch.bool).triu(1)

    def plain(rows: slice | Tensor) -> Tensor:
        x = (q @ k.transpose(-1, -2) * scale).masked_fill(later, NO)
        return torch.softmax(x, -1) @ v

    steering = Steering([Steered(prompt.layout, (policy,))], [length], prefill=True)
    found = steering.attend(LAYER, q, Keys(k, v), scale, plain)
    lender = policy.borrowed_heads(LAYER)
    assert (-1 if lender is None else int(lender[0])) == int(data.out_head)
    assert_close(found[:, :, data.out_rows.long()], data.out_O_rows, case["tolerance"])
    assert policy.borrowed_heads(LAYER - 1) is None
    default = policy_of("eah", prompt, (heads, 32), mode="official")
    assert (default.layer, default.threshold) == (15, p["threshold"])


def test_eah_means_ties_and_the_first_head() -> None:
    """Three heads, six tokens, picture keys 1 to 3, own attention not counted."""
    own = torch.full((3, 6), 0.5)
    mass = own.clone()
    mass[0, 1:4] += torch.tensor(
        [0.41, 0.29, 0.21]
    )  # means over 4, 3, 2 rows: 0.1025, 0.097, 0.105
    mass[1, 1:4] += torch.tensor([0.39, 0.31, 0.21])
    mass[2, [0, 4, 5]] += 1.0  # not the picture
    policy = policy_of("eah", prompt_of(6, [1, 4]), (3, 4), threshold=0.1)
    assert policy.counts(mass, own).tolist() == [2, 2, 0]
    assert policy.layer == 1
    policy.watched(1, mass, own)
    assert policy.borrowed_heads(1).tolist() == [0, 0, 0]
    official = policy_of("eah", prompt_of(6, [1, 4]), (3, 4), threshold=0.1, mode="official")
    official.watched(official.layer, mass, own)
    assert official.borrowed_heads(official.layer) is None
    assert official.seen_by[2:4].tolist() == [4, 3]
    none = policy_of("eah", prompt_of(6, [1, 4]), (3, 4), threshold=0.2)
    none.watched(1, mass, own)
    assert none.borrowed_heads(1) is None
    ending = policy_of("eah", prompt_of(4, [1, 4]), (3, 4), threshold=0.1)
    assert ending.counts(mass[:, :4], own[:, :4]).max() <= 2  # the last key has no row after it


# HGAI


@cases("hgai.attention")
def test_hgai(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    batch, heads, queries, width = data.in_q.shape
    keys = data.in_k.shape[2]
    prompt = prompt_of(keys if queries > 1 else keys - 1, p["image"])
    own = {"alpha": p["alpha"], "layers": [LAYER]}
    branches = [(prompt, policy_of("hgai", prompt, (heads, 4), **own)) for _ in range(batch)]
    found = steered_maps(
        branches, data.in_q, data.in_k, data.in_mask, width**-0.5, prefill=queries > 1
    )
    assert_layer(case, data, found, data.in_mask)
    assert branches[0][1].key_map(LAYER - 1) is None


def test_hgai_layers_are_five_to_eighteen_of_thirtytwo() -> None:
    assert policy_of("hgai", prompt_of(9, [1, 3]), (4, 32)).layers == tuple(range(5, 19))


# SPIN


@cases("spin.attention")
def test_spin(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    batch, heads, queries, width = data.in_q.shape
    keys, epsilon = data.in_k.shape[2], p["epsilon"] or 0.0
    prompt = prompt_of(keys if queries > 1 else keys - 1, p["image"])
    own = {"rho": p["rho"], "epsilon": epsilon}
    branches = [(prompt, policy_of("spin", prompt, (heads, 4), **own)) for _ in range(batch)]
    found = steered_maps(
        branches, data.in_q, data.in_k, data.in_mask, width**-0.5, prefill=queries > 1
    )
    factor = found[:, :, -1].sum(-1)
    assert torch.equal(factor > 0.5, data.out_kept)
    assert_close(factor, torch.where(data.out_kept, 1.0, epsilon), case["tolerance"])
    wanted = data.out_P.clone()
    wanted[:, :, -1] *= torch.where(data.out_kept, 1.0, epsilon)[..., None]
    assert_close(found, wanted, case["tolerance"])
    out = projected(found, data.in_v, data.in_w_o)
    assert_close(out, data.out_attn_output, case["tolerance"])


# Whole models, slow and obvious


def edited(name: str, p: dict[str, Any], prompt: Prompt, layers: int) -> Callable[..., Tensor]:
    """Maps [H, Q, K] of a layer from raw scores, by the equations, one row after another."""
    image = [j for j, inside in enumerate(prompt.layout.is_image()) if inside]
    length = prompt.layout.length
    calibrated = range(2, layers - 1) if p.get("layers") is None else p["layers"]

    def act(layer: int, x: Tensor) -> Tensor:
        maps = softmax(x)
        for head in range(len(maps)):
            listed = layer in calibrated if p["pairs"] is None else [layer, head] in p["pairs"]
            if not listed:
                continue
            own = p["threshold"]
            limit = 5 / length if own is None else own
            means = [float(maps[head, j:length, j].sum()) / (length - j) for j in range(length)]
            sinks = [j for j, mean in enumerate(means) if mean > limit][1:]
            for query in range(1, maps.shape[1]):
                row = maps[head, query]
                if query >= length and p["released_decode"]:
                    over = [j for j in range(query + 1) if row[j] > limit]
                    freed = (1 - p["beta"]) * float(sum(row[j] for j in over[1:]))
                    new = [row[j] * (p["beta"] if j in over[1:] else 1) for j in range(query + 1)]
                    new = [new[j] + freed * row[j] for j in range(query + 1)]
                    maps[head, query, : query + 1] = torch.stack(new)
                    maps[head, query, 0] = 1
                    continue
                total = float(sum(row[j] for j in sinks))
                others = [j for j in range(query + 1) if j not in sinks]
                share = float(row[others].sum())
                for j in sinks:
                    row[j] *= p["beta"]
                for j in others:
                    row[j] += (1 - p["beta"]) * total * row[j] / share
        return maps

    def eah(layer: int, x: Tensor) -> Tensor:
        maps = softmax(x)
        official = p["mode"] == "official"
        if layer != (p["layer"] if p["layer"] is not None else (2 if official else 1)):
            return maps
        hits = [0] * len(maps)
        first, stop = image[0] + 1, image[-1] + 1
        for head in range(len(maps)):
            for j in image[1:] if official else image:
                rows = stop - (j - first) if official else length - 1 - j
                mean = float(maps[head, j + 1 : length, j].sum()) / rows
                hits[head] += mean > p["threshold"]
        best = hits.index(max(hits))
        if max(hits) and not (official and best == 0):
            maps[:, :length] = maps[best, :length].clone()
        return maps

    def hgai(layer: int, x: Tensor) -> Tensor:
        if layer in (p["layers"] or (1, 2)):
            for query in range(length - 1, x.shape[1]):
                for j in image:
                    x[:, query, j] += p["alpha"] * x[:, query, j].abs().sum() / len(x)
        return softmax(x)

    def spin(layer: int, x: Tensor) -> Tensor:
        maps = softmax(x)
        if layer in (p["layers"] or range(layers)):
            for query in range(length - 1, x.shape[1]):
                looks = [float(x[head, query, image].sum()) for head in range(len(x))]
                order = sorted(range(len(x)), key=lambda head: -looks[head])
                for head in order[int(p["rho"] * len(x)) :]:
                    maps[head, query] *= p["epsilon"]
        return maps

    return {"act": act, "eah": eah, "hgai": hgai, "spin": spin}[name]


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("act", {"threshold": 2.0}),
    ("act", {"threshold": 2.5, "beta": 0.0, "layers": (0, 1, 3)}),
    ("act", {"threshold": 1.5, "beta": 0.1, "pairs": ((0, 1), (1, 0), (1, 3), (2, 2))}),
    ("act", {"threshold": 2.0, "layers": (0, 2), "released_decode": True}),
    ("eah", {"threshold": 1.25}),
    ("eah", {"threshold": 2.0, "mode": "official"}),
    ("eah", {"threshold": 0.8, "layer": 3, "mode": "official"}),
    ("eah", {"threshold": 1.2, "layer": 0}),
    ("hgai", {"alpha": 1.5}),
    ("hgai", {"alpha": 2.0, "layers": (0, 3)}),
    ("spin", {}),
    ("spin", {"rho": 0.5, "epsilon": 0.0, "layers": (0, 2, 3)}),
]
"""Parameters; thresholds in units of 1 / tokens of the prompt."""
UNCHANGED = {2.0: ("qwen2_vl", "qwen2_5_vl"), 0.8: ("llava", "llava_next", "qwen2_vl")}
"""By threshold: families in which EAH's head 0 wins, so that its official mode does nothing."""


def scaled(params: dict[str, Any], length: int) -> dict[str, Any]:
    own = params.get("threshold")
    return params if own is None else params | {"threshold": own / length}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "params"), RUNS)
def test_whole_models(
    family: str,
    name: str,
    params: dict[str, Any],
    adapter: Any,
    stock: Any,
    picture: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt = adapter(family).encode(request(picture, name).messages)
    own = scaled(params, len(prompt.ids))
    mine = record(adapter(family), request(picture, name, own))
    model, main = stock(family), mine.plan.main.prompt
    maps = edited(name, mine.answer.strategy.params, main, 4)
    fed = mine.steps[-1].tokens
    monkeypatch.setattr(oracles, "_attend", attend)
    rows = oracles.oracle_rows(model, main, fed, maps)
    for step, row in zip(mine.steps, rows, strict=True):
        assert (step.main - row).abs().max() < 2e-4
    gap = (full_rows(model, main, fed) - rows).abs().max()
    still = params.get("mode") == "official" and family in UNCHANGED[params["threshold"]]
    assert gap < 1e-5 if still else gap > 1e-2


@pytest.mark.parametrize("name", ["hgai", "spin", "act"])
def test_hypotheses_do_not_look_for_each_other(
    name: str, adapter: Any, stock: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, Any] = {"act": {"released_decode": True, "threshold": 0.1}}.get(name, {})
    params = {f"{name}.{key}": value for key, value in own.items()}
    mine = record(adapter("llava"), request(picture, f"{name}+beam", params))
    main = mine.plan.main.prompt
    parts = {
        key.split(".")[1]: value
        for key, value in mine.answer.strategy.params.items()
        if key.startswith(name)
    }
    maps = edited(name, parts, main, 4)
    monkeypatch.setattr(oracles, "_attend", attend)
    assert len({tuple(step.tokens) for step in mine.steps}) > 5
    for step in mine.steps:
        row = oracles.oracle_rows(stock("llava"), main, step.tokens, maps)[-1]
        assert (step.main - row).abs().max() < 2e-4


# Refusals


@pytest.mark.parametrize(
    ("name", "params", "error", "says"),
    [
        ("act", {"pairs": [(4, 0)]}, BadInput, r"pairs names \(4, 0\).*4 layers of 4 heads"),
        ("act", {"pairs": [(0, 4)]}, BadInput, r"\(0, 4\)"),
        ("act", {"layers": [4]}, BadInput, r"layers names \(4, 0\)"),
        ("act", {"layers": [0], "pairs": [(0, 0)]}, BadInput, "layers and pairs"),
        ("act", {"published": "classification"}, Unsupported, "another size"),
        ("act", {"published": "best"}, BadInput, "published='best'"),
        ("act", {"beta": 1.1}, BadInput, r"beta=1\.1"),
        ("act", {"threshold": 0}, BadInput, "threshold=0"),
        ("eah", {"layer": 4}, BadInput, "layer=4.*there are 4"),
        ("hgai", {"layers": [1, 4]}, BadInput, r"layers=\(1, 4\).*there are 4"),
        ("spin", {"layers": [4]}, BadInput, r"layers=\(4,\).*there are 4"),
        ("spin", {"rho": 1.5}, BadInput, r"rho=1\.5"),
    ],
)
def test_refusals(
    name: str, params: dict[str, Any], error: type[HaluError], says: str, adapter: Any, picture: Any
) -> None:
    with pytest.raises(error, match=says) as caught:
        Local(adapter("llava")).generate([request(picture, name, params)])
    assert "\n" not in str(caught.value)


def test_act_needs_a_layer_between_the_first_two_and_the_last() -> None:
    with pytest.raises(BadInput, match="Of 3 layers none"):
        policy_of("act", prompt_of(9, [1, 3]), (4, 3))
    assert policy_of("act", prompt_of(9, [1, 3]), (4, 3), layers=[1]).heads.keys() == {1}
