"""FIA (PAINT), SPARC, CAAC and SID: the released implementations' numbers, and whole models.

The vectors (tests/data/parity/keys) were made by running the authors' code; our policies are driven
through the real steering. On random models the same methods are computed once more, slowly, from
the equations, without a cache.
"""

from dataclasses import replace
from typing import Any

import oracles
import pytest
import torch
from PIL import Image
from recorder import full_rows, record
from test_parity import NO, Z1, Stub, Z, assert_close, combined, plan_of, prompt_of
from test_parity_more import LAYER, assert_layer, attend, request, softmax, steered_maps
from torch import Tensor
from vectors import Vectors

from halu.attention import KeyMap
from halu.attention.boost import Boost
from halu.attention.keys import Keys
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.attention.trace import Trace
from halu.context import RequestContext
from halu.decoders.caac import CAAC, NONSENSE, Calibrated, evened, factors
from halu.decoders.fia import on_first_grids, token_sets
from halu.decoders.sparc import Progress
from halu.engine import Local, load
from halu.errors import BadInput, HaluError, Unsupported
from halu.host import disable, enable
from halu.layout import Grid, ImageSpan, Layout
from halu.planning import steered
from halu.prompt import Prompt
from halu.strategy import Branch
from halu.testing.random_models import FAMILIES
from halu.types import Request, Sampling, question

VECTORS = Vectors("keys")
cases, stored = VECTORS.of, VECTORS.stored
TOWERS = ("llava", "llava_next")


class Seeing(Stub):
    """A context with a request, branches with policies, and a vision tower's class token."""

    def __init__(self, prompt: Prompt | None = None, layers: int = 4, heads: int = 4) -> None:
        super().__init__(prompt)
        self.model = replace(self.model, heads=heads, layers=layers)
        self.request = Request(messages=question("What is it?"))
        self.tower = torch.zeros(1, 2, 1)  # [pictures, layers, patches]

    def branch(self, name: str, *, steered: bool = True, policies: Any = (), **view: Any) -> Branch:
        return replace(super().branch(name, steered=steered, **view), policies=policies)

    def class_attention(self, prompt: Prompt, layers: Any) -> Tensor:
        assert tuple(layers) == (0, -2)
        return self.tower


def test_every_vector_is_used_and_every_file_is_there() -> None:
    VECTORS.assert_complete()
    wanted = {"paint.attention", "paint.token_sets", "sparc.run", "sid.combine", "sid.select"}
    caac = {"caac.attention", "caac.factor", "caac.maps", "caac.vector"}
    assert VECTORS.tasks == wanted | caac


# FIA


def fia_policy(prompt: Prompt, tower: Tensor, heads: int, **params: Any) -> Any:
    ctx = Seeing(prompt, heads=heads)
    ctx.tower = tower
    (make,) = plan_of("fia", ctx, **params).policies
    return make(prompt)


@cases("paint.token_sets")
def test_fia_token_sets(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    count = p["num_patches"]
    tower = torch.stack([data.in_cls_first, data.in_cls_penultimate]).sum(1)[None, :, 1:]
    prompt = prompt_of(count + 9, [5, 5 + count])
    policy = fia_policy(prompt, tower, 4, ratio=p["local_ratio"])
    labels = policy.labels(LAYER)
    for group, wanted in ((1, data.out_local), (2, data.out_summary)):
        assert (labels == group).nonzero().flatten().tolist() == (wanted + 5).tolist()
    assert len(data.out_summary) / count == pytest.approx(float(data.out_outlier_ratio))


@cases("paint.attention")
def test_fia_boost(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    (start, stop), heads, queries = p["image"], *data.in_q.shape[1:3]
    count, local, summary = stop - start, data.in_local.long(), data.in_summary.long()
    tower = torch.zeros(1, 2, count)  # a class token that looks just so
    tower[0, 0, local] = 1
    tower[0, 1, summary] = 1
    prompt = prompt_of(data.in_k.shape[2] - (queries == 1), p["image"])
    ratio = (len(local) + 0.5) / count
    own = {"local": p["alpha"], "summary": p["beta"], "ratio": ratio, "gamma": 1.0}
    policy = fia_policy(prompt, tower, heads, **own)
    assert (policy.labels(LAYER) == 1).nonzero().flatten().tolist() == (local + start).tolist()
    found = steered_maps(
        [(prompt, policy)],
        data.in_q,
        data.in_k,
        data.in_mask,
        data.in_q.shape[3] ** -0.5,
        prefill=queries > 1,
    )
    assert_layer(case, data, found, data.in_mask)


def test_fia_takes_each_pictures_own_tokens() -> None:
    """The first grid of each picture, whatever comes after it; int(ratio N) without rounding up."""
    spans = (
        ImageSpan(2, 13, (Grid(0, 2, 3, 4), Grid(8, 1, 3, 3))),
        ImageSpan(14, 20, (Grid(0, 2, 3, 3),)),
    )
    sets = torch.tensor([[1, 0, 2, 0, 1, 0], [0, 0, 0, 2, 2, 1]])
    labels = on_first_grids(Layout(22, spans), sets)
    assert labels.tolist() == [0, 0, 1, 0, 2, 0, 0, 1, 0, *[0] * 5, 0, 0, 0, 2, 2, 1, 0, 0]
    rising = torch.arange(10.0)
    assert token_sets(rising, torch.zeros(10), 0.29).tolist() == [0] * 8 + [1, 1]
    assert token_sets(rising, rising.exp(), 0.0).tolist() == [0] * 8 + [2, 2]


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_fia_is_guided_as_pai(mode: str) -> None:
    """Same second branch, same row, same first-token quirk."""
    asked = []
    for name in ("fia", "pai"):
        ctx = Seeing(prompt_of(8, [2, 3]))
        plan = plan_of(name, ctx, mode=mode, gamma=1.7, beta=0.3)
        policy: Any = plan.policies[0](ctx.main.prompt)
        asked.append((ctx.asked, combined(plan, Z, Z1).tolist(), policy.rows))
        assert plan_of(name, ctx, mode=mode, gamma=1.0).extra == ()
    assert asked[0] == asked[1]
    assert asked[0][2] == ("decode" if mode == "official" else "last")


def eager_class_attention(model: Any, pixels: Tensor, layers: Any) -> Tensor:
    """The same from whole maps of the stock tower."""
    tower = model.model.vision_tower
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            maps = tower(pixels, output_attentions=True).attentions
    finally:
        tower.set_attn_implementation(before)
    return torch.stack([maps[layer][:, :, 0, 1:].sum(1) for layer in layers], 1)


@pytest.mark.parametrize("family", TOWERS)
def test_class_attention_is_the_towers_own(
    family: str, adapter: Any, stock: Any, picture: Any
) -> None:
    mine = adapter(family)
    prompt = mine.encode(question("a", picture(90, 60), picture(40, 80, seed=1)))
    found = mine.class_attention(prompt.pixels, (0, -2, 1, -1))
    pixels = prompt.pixels["pixel_values"]
    pixels = pixels[:, 0] if family == "llava_next" else pixels
    wanted = eager_class_attention(stock(family), pixels, (0, -2, 1, -1))
    assert found.shape == (2, 4, prompt.layout.images[0].grids[0].rows ** 2)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (found[:, 0] - found[:, 2]).abs().max() > 1e-3
    for layers in ((2,), (0, -3)):
        with pytest.raises(Unsupported, match="has 2 layers"):
            mine.class_attention(prompt.pixels, layers)


def test_the_built_in_models_tower_has_a_class_token(picture: Any) -> None:
    mine = load("tiny-llava", device="cpu").adapter
    prompt = mine.encode(question("a", picture(112, 112)))
    found = mine.class_attention(prompt.pixels, (0, -2))
    wanted = eager_class_attention(mine.model, prompt.pixels["pixel_values"], (0, -2))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-2


# SPARC


def rotated(x: Tensor, first: int) -> Tensor:
    """Rotary embedding of [1, H, T, d], base 10000, positions from `first`."""
    half = x.shape[-1] // 2
    angle = torch.arange(first, first + x.shape[2])[:, None] * 10000.0 ** -(
        torch.arange(half) / half
    )
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


@cases("sparc.run")
def test_sparc_run(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    length, width = data.in_hidden_s0_l0.shape[1], 8
    heads, prompt = data.in_w0_q.shape[0] // width, prompt_of(length, p["image"])
    start, stop = p["se_layers"]
    own = {"layer": p["selected_layer"], "start_layer": start, "end_layer": stop + 1}
    own |= {key: p[key] for key in ("alpha", "beta", "tau")}
    (make,) = plan_of("sparc", Seeing(prompt, p["layers"], heads), **own).policies
    policy: Any = make(prompt)
    steered_by = Steered(prompt.layout, (policy,))
    keys, values = {}, {}
    for step in range(p["steps"] + 1):
        done = length + step - 1
        lengths = [done + 1 if step else length]
        steering = Steering([steered_by], lengths, prefill=not step)
        gain = policy.gain
        for layer in range(p["layers"]):
            hidden = getattr(data, f"in_hidden_s{step}_l{layer}")
            q, k, v = (
                (hidden @ getattr(data, f"in_w{layer}_{key}").T)
                .unflatten(-1, (-1, width))
                .transpose(1, 2)
                for key in "qkv"
            )
            q, k = (rotated(x, done if step else 0) for x in (q, k))
            keys[layer] = torch.cat([keys[layer], k], 2) if step else k
            values[layer] = torch.cat([values[layer], v], 2) if step else v
            share = heads // p["n_kv_heads"]

            def plain(
                rows: slice | Tensor, q: Tensor = q, layer: int = layer, share: int = share
            ) -> Tensor:
                wide_k, wide_v = (t[layer].repeat_interleave(share, 1) for t in (keys, values))
                x = q @ wide_k.transpose(-1, -2) * width**-0.5
                late = torch.ones(x.shape[-2:]).triu(1 + x.shape[-1] - x.shape[-2]).bool()
                return torch.softmax(x.masked_fill(late, NO), -1) @ wide_v

            own = Keys(keys[layer], values[layer])
            out = steering.attend(layer, q, own, width**-0.5, plain)
            found = out[:, :, -1:].transpose(1, 2).flatten(2) @ getattr(data, f"in_w{layer}_o").T
            wanted = getattr(data, f"out_attn_output_s{step}_l{layer}")
            assert_close(found, wanted, case["tolerance"])
        assert_close(policy.mean, getattr(data, f"out_reference_s{step}")[0], case["tolerance"])
        selected = getattr(data, f"out_selected_s{step}")
        mine = torch.zeros(length) if policy.selected is None else policy.selected
        assert torch.equal(mine.bool(), selected[:length])
        assert not selected[length:].any()
        steered_by.heard(torch.zeros(3))
    for layer in range(start, stop + 1):
        scaled = values[layer].clone()
        scaled[:, :, :length] *= 1 if gain is None else gain[:, None]
        assert_close(scaled, getattr(data, f"out_value_cache_l{layer}"), case["tolerance"])


def test_sparc_hypotheses_learn_apart() -> None:
    prompt = prompt_of(6, [1, 4])
    (make,) = plan_of("sparc", Seeing(prompt), layer=0, alpha=2.0, tau=0.5).policies
    policy: Any = make(prompt)
    policy.look(0, torch.zeros(4, 6))
    policy.heard(Z)
    twin = policy.fork()
    for each, peak in ((policy, 1), (twin, 3)):
        x = torch.zeros(4, 7)
        x[:, peak] = 3
        each.look(0, x)
        assert each.key_map(2) is None, "not before the next token"
        each.heard(Z)
    assert policy.key_map(2).gain.tolist() == [1, 2, 1, 1, 1, 1]
    assert twin.key_map(2).gain.tolist() == [1, 1, 1, 2, 1, 1]


# CAAC


@cases("caac.vector")
def test_caac_vector(case: dict[str, Any]) -> None:
    data = stored(case)
    assert_close(factors(data.in_A, case["params"]["beta"]), data.out_kappa, case["tolerance"])


@cases("caac.maps")
def test_caac_maps(case: dict[str, Any]) -> None:
    """Read off the real steering, as it runs beside a request."""
    data, p = stored(case), case["params"]
    assert p["query_rows"] == [-3, -2, -1]
    layers, heads, keys, _ = data.in_P.shape
    ctx: Any = Seeing(prompt_of(keys, p["image"]))
    eye = torch.eye(keys).expand(1, heads, keys, keys)

    def prefill(branch: Branch, policies: Any) -> None:
        steering = Steering([Steered(branch.prompt.layout, policies)], [keys], prefill=True)
        for layer, maps in enumerate(data.in_P):
            q = maps[None].log().clamp(min=-1e4)
            found = steering.attend(
                layer, q, Keys(eye, eye), 1.0, lambda _, maps=maps: maps[None].clone()
            )
            assert torch.equal(found, maps[None])

    ctx.prefill = prefill
    found = evened(ctx, ctx.main.prompt, range(layers), p["beta"])
    assert_close(torch.stack([*found.values()]), data.out_kappa, case["tolerance"])
    (message,) = ctx.asked["white"]["messages"]
    assert message.content[-1].text == NONSENSE == "nana pina sequ zuta rupi"


@cases("caac.factor")
def test_caac_factor(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    own = {"lambda_min": p["lambda_min"], "lambda_max": p["lambda_max"], "beta": 0.0}
    params = CAAC.Params(**own, confident=p["confidence_threshold"])
    policy = Calibrated(Layout(4), params, {})
    for logits, wanted in zip(data.in_logits, data.out_factor, strict=True):
        policy.heard(logits)
        assert float(policy.factor) == pytest.approx(float(wanted), abs=case["tolerance"])


@cases("caac.attention")
def test_caac_attention(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    queries, keys = data.in_q.shape[2], data.in_k.shape[2]
    prompt = prompt_of(keys - (queries == 1), p["image"])
    kappa = {LAYER: data.in_kappa.float()} if p["vtc"] else {}
    policy = Calibrated(prompt.layout, CAAC.Params(), kappa)
    policy.factor = torch.tensor(p["factor"])
    found = steered_maps(
        [(prompt, policy)],
        data.in_q,
        data.in_k,
        data.in_mask,
        data.in_q.shape[3] ** -0.5,
        prefill=queries > 1,
    )
    assert_layer(case, data, found, data.in_mask)


def test_caac_factors_stay_finite() -> None:
    """A key that nothing looks at; the released code's half precision has no room for it either."""
    found = factors(torch.tensor([[0.0, 0.5, 1e-30]]), 0.7)
    assert found[0] == found[2] == 65504
    assert float(found[1]) == pytest.approx(0.3 + 0.7 / 3)


# SID


@cases("sid.combine")
def test_sid_rule(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    own = {"alpha": p["alpha"], "beta": p["beta"]}
    paper = combined(plan_of("sid", Seeing(), **own), data.in_z, data.in_z_alt)
    assert_close(paper, data.out_scores, case["tolerance"])
    assert torch.equal(paper.argmax(-1), data.out_greedy_masked.long())
    official = combined(plan_of("sid", Seeing(), mode="official", **own), data.in_z, data.in_z_alt)
    assert torch.equal(official.argmax(-1), data.out_greedy_as_released.long())
    drawing: Any = Seeing()
    drawing.request = drawing.request.model_copy(update={"sampling": Sampling(temperature=1.0)})
    plan = plan_of("sid", drawing, mode="official", **own)
    assert torch.equal(combined(plan, data.in_z, data.in_z_alt), paper)


@pytest.mark.parametrize(("alpha", "wanted"), [(1.0, [3, 0.5, 0, NO]), (0.5, [2.5, 0.75, 0, NO])])
def test_sid_golden_rows(alpha: float, wanted: list[float]) -> None:
    """methods-logits 11, VCD's; with the second branch equal to the first z is left, masked."""
    plan = plan_of("sid", Seeing(), alpha=alpha)
    assert_close(combined(plan, Z, Z1), torch.tensor(wanted), 2e-6)
    assert_close(combined(plan, Z, Z), torch.tensor([2.0, 1, 0, NO]), 2e-6)
    assert_close(combined(plan, Z, Z1 + 7).softmax(-1), combined(plan, Z, Z1).softmax(-1), 2e-6)


@cases("sid.select")
def test_sid_selection(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    heads, queries, keys = data.in_P.shape[1:]
    prompt = prompt_of(keys - 2 * (queries == 1), p["image"])
    ctx = Seeing(prompt, heads=heads)
    plan = plan_of("sid", ctx, agg=LAYER, keep=p["keep"])
    (branch,) = plan.extra
    assert not branch.steered
    policies = steered(plan, branch)()
    row = Steered(prompt.layout, policies)
    eye = torch.eye(keys).expand(1, heads, keys, keys)
    q = data.in_P.log().clamp(min=-1e4)
    steering = Steering([row], [keys], prefill=queries > 1)
    plain = steering.attend(LAYER - 1, q, Keys(eye, eye), 1.0, lambda rows: data.in_P)
    assert torch.allclose(plain, data.in_P, atol=1e-6), "its own layer is not touched"
    assert [layer for layer in range(4) if policies[0].key_map(layer) is not None] == [2, 3]
    seen = row.regrouping.key_map(LAYER, keys, torch.device("cpu"))
    assert seen is not None
    assert seen.bias is not None
    assert torch.equal(~torch.isneginf(seen.bias), data.out_visible)
    rest = data.in_P * data.out_visible
    wanted = rest / rest.sum(-1, keepdim=True)
    found = steering.attend(LAYER, q, Keys(eye, eye), 1.0, lambda rows: data.in_P)
    assert torch.allclose(found, wanted, atol=1e-5)


# Whole models, slow and obvious: whole maps, no cache


@pytest.fixture
def rows_under(stock: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows of a stock model whose maps [H, Q, K] of a layer are made from raw scores."""
    monkeypatch.setattr(oracles, "_attend", attend)

    def run(family: str, prompt: Prompt, tokens: Any, maps: Any) -> Tensor:
        return oracles.oracle_rows(stock(family), prompt, tokens, maps)

    return run


def asked(adapter: Any, picture: Any, family: str, name: str, params: dict[str, Any]) -> Any:
    return record(adapter(family), request(picture, name, params))


def assert_rows(mine: Any, wanted: Any, plain: Tensor, branch: str = "main") -> None:
    for step, row in zip(mine.steps, wanted, strict=True):
        assert (step.rows[branch] - row).abs().max() < 2e-4
    gap = max(float((a - b).abs().max()) for a, b in zip(wanted, plain, strict=True))
    assert gap > 1e-2


@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_fia_whole_models(
    family: str, mode: str, adapter: Any, stock: Any, picture: Any, rows_under: Any
) -> None:
    own = {"local": 1.9, "summary": 0.7, "ratio": 0.4, "mode": mode, "start_layer": 1}
    mine = asked(adapter, picture, family, "fia", own)
    prompt, model = mine.plan.main.prompt, stock(family)
    pixels = prompt.pixels["pixel_values"]
    (seen,) = eager_class_attention(
        model, pixels[:, 0] if family == "llava_next" else pixels, (0, -2)
    ).double()
    u, w = seen.tolist()
    ordered = sorted(w)
    low, high = (
        ordered[int(at)] + (at % 1) * (ordered[int(at) + 1] - ordered[int(at)])
        for at in ((len(w) - 1) * 0.25, (len(w) - 1) * 0.75)
    )
    summary = {j for j, value in enumerate(w) if value > high + 1.5 * (high - low)}
    local = set(sorted(range(len(u)), key=lambda j: -u[j])[: int(0.4 * len(u))]) - summary
    start, last = prompt.layout.images[0].start, len(prompt.ids) - 1

    def maps(layer: int, x: Tensor) -> Tensor:
        if layer >= 1:
            first = last + (mode == "official")
            for group, amount in ((local, 1.9), (summary, 0.7)):
                for j in group:
                    x[:, first:, start + j] += amount * x[:, first:, start + j].abs()
        return softmax(x)

    fed = mine.steps[-1].tokens
    assert_rows(mine, rows_under(family, prompt, fed, maps), full_rows(model, prompt, fed))
    blind = full_rows(model, adapter(family).without_images(prompt), fed)
    for step, alone, ruled in zip(mine.steps, blind, mine.ruled, strict=True):
        guided = 1.1 * step.main.log_softmax(-1) - 0.1 * alone.log_softmax(-1)
        kept = ruled.isfinite()
        assert torch.equal(kept, step.main >= step.main.max() + torch.log(torch.tensor(0.1)))
        gap = guided[kept].log_softmax(-1) - ruled[kept].log_softmax(-1)
        assert gap.abs().max() < 2e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_sparc_whole_models(
    family: str, adapter: Any, stock: Any, picture: Any, rows_under: Any
) -> None:
    own = {"alpha": 1.7, "tau": 0.05, "beta": 0.3, "layer": 1, "start_layer": 1, "end_layer": 3}
    mine = asked(adapter, picture, family, "sparc", own)
    prompt, fed = mine.plan.main.prompt, mine.steps[-1].tokens
    image = [j for j, inside in enumerate(prompt.layout.is_image()) if inside]
    last, counts, wanted = len(prompt.ids) - 1, [dict.fromkeys(image, 0)], []
    mean: list[float] = []
    for said in range(len(fed) + 1):  # the selections of a row are known only after it
        seen: list[float] = []

        def maps(layer: int, x: Tensor, seen: list[float] = seen) -> Tensor:
            p = softmax(x)
            if layer == 1:
                seen += p.mean(0)[-1, image].tolist()
            for row in range(last + 1, x.shape[1]) if layer in (1, 2) else ():
                for j, count in counts[row - last - 1].items():
                    p[:, row, j] *= 1.7**count
            return p

        wanted.append(rows_under(family, prompt, fed[:said], maps)[-1])
        if said == 0:
            mean = seen
            continue
        risen = dict(counts[-1])
        for j, now, before in zip(image, seen, mean, strict=True):
            risen[j] += (now - before) / before >= 0.05
        counts.append(risen)
        mean = [0.7 * now + 0.3 * before for now, before in zip(seen, mean, strict=True)]
    assert max(counts[-2].values()) > 1, "some key is selected more than once"
    assert_rows(mine, wanted, full_rows(stock(family), prompt, fed))


@pytest.mark.parametrize("family", FAMILIES)
def test_caac_whole_models(
    family: str, adapter: Any, stock: Any, picture: Any, rows_under: Any
) -> None:
    own = {"layers": 2, "beta": 0.5, "lambda_min": 1.1, "lambda_max": 2.0, "confident": 0.03}
    mine = asked(adapter, picture, family, "caac", own)
    prompt, fed = mine.plan.main.prompt, mine.steps[-1].tokens
    image = [j for j, inside in enumerate(prompt.layout.is_image()) if inside]
    white = adapter(family).encode(question(NONSENSE, Image.new("RGB", (90, 60), "white")))
    places = [j for j, inside in enumerate(white.layout.is_image()) if inside]
    kappa = {}

    def keep(layer: int, x: Tensor) -> Tensor:
        p = softmax(x)
        if layer < 2:
            rows = []
            for row in (-3, -2, -1):
                a = p[:, row, places]
                rows.append((0.5 * a + 0.5 * a.mean(-1, keepdim=True)) / a)
            kappa[layer] = sum(rows) / 3
        return p

    rows_under(family, white, [], keep)
    last, after = len(prompt.ids) - 1, image[-1] + 1

    def run(lambdas: list[float]) -> Tensor:
        """The prompt's lambda, then each generated token's."""

        def maps(layer: int, x: Tensor) -> Tensor:
            for row in range(x.shape[1]):
                x[:, row, image] *= lambdas[max(0, row - last)]
                if layer < 2 and row >= after:
                    x[:, row, image] *= kappa[layer]
            return softmax(x)

        row: Tensor = rows_under(family, prompt, fed[: len(lambdas) - 1], maps)[-1]
        return row

    def unsure(row: Tensor) -> float:
        c = float(row.softmax(-1).max())
        c = 1.0 if c > 0.03 else c
        return max(1.0, 1.1 * c + 2.0 * (1 - c))

    lambdas, wanted = [unsure(run([1.0]))], []
    for _ in range(len(fed) + 1):
        wanted.append(run(lambdas))
        lambdas.append(unsure(wanted[-1]))
    assert_rows(mine, wanted, full_rows(stock(family), prompt, fed))
    assert mine.answer.usage.forwards == len(fed) + 1 + 2


def reduced(prompt: Prompt, keep: int) -> Any:
    """Maps of the second branch: from layer 1 on, each row sees what layer 0 chose for it."""
    image = [j for j, inside in enumerate(prompt.layout.is_image()) if inside]
    last, hidden = len(prompt.ids) - 1, []

    def maps(layer: int, x: Tensor) -> Tensor:
        p = softmax(x)
        if layer == 0:
            for row in range(last, x.shape[1]):
                seen = {j: float(p[:, row, j].mean()) for j in image}
                hidden.append(sorted(image, key=seen.__getitem__)[keep:])
            return p
        for row in range(x.shape[1]):
            p[:, row, hidden[max(0, row - last)]] = 0
        return p / p.sum(-1, keepdim=True).clamp(min=1e-300)

    return maps


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_sid_whole_models(
    family: str, mode: str, adapter: Any, stock: Any, picture: Any, rows_under: Any
) -> None:
    own = {"agg": 1, "keep": 3, "alpha": 0.8, "beta": 0.9, "mode": mode}
    mine = asked(adapter, picture, family, "sid", own)
    (branch,) = mine.plan.extra
    prompt, fed = branch.prompt, mine.steps[-1].tokens
    wanted = rows_under(family, prompt, fed, reduced(prompt, 3))
    plain = full_rows(stock(family), prompt, fed)
    assert_rows(mine, wanted, plain, "least")
    for step, alt, z, ruled in zip(mine.steps, wanted, plain, mine.ruled, strict=True):
        assert (step.main - z).abs().max() < 1e-4
        kept = z >= z.max() + torch.log(torch.tensor(0.9))
        kept = kept if mode == "paper" else torch.ones_like(kept)
        assert_close(ruled, (1.8 * z - 0.8 * alt).masked_fill(~kept, NO), 1e-3)


def test_sid_beams_choose_apart(adapter: Any, stock: Any, picture: Any, rows_under: Any) -> None:
    """Hypotheses share the branch's policy until they part; a row's choice is its own."""
    params = {"agg": 1, "keep": 3, "beams": 3}
    mine = asked(adapter, picture, "llava", "sid+beam", params)
    prompt = mine.plan.main.prompt
    assert len({tuple(step.tokens) for step in mine.steps}) > 6
    for step in mine.steps:
        wanted = rows_under("llava", prompt, step.tokens, reduced(prompt, 3))[-1]
        assert (step.rows["least"] - wanted).abs().max() < 2e-4


# Seams


class Curious(AttentionPolicy):
    """Keeps what it is shown."""

    def __init__(self, back: int) -> None:
        self.looks_back = back
        self.seen: list[Tensor] = []

    def looks(self, layer: int) -> bool:
        return True

    def look(self, layer: int, x: Tensor) -> None:
        self.seen.append(x)


def test_a_policy_may_look_at_the_prompts_last_rows() -> None:
    q, k = torch.randn(2, 1, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    few, many = Curious(1), Curious(3)
    row = Steered(Layout(7), (few, many))
    Steering([row], [7], prefill=True).attend(0, q, Keys(k, k), 0.5, lambda rows: k)
    wanted = [q[0, :, r : r + 1] @ k[0, :, : r + 1].transpose(-1, -2) * 0.5 for r in (4, 5, 6)]
    assert all(
        torch.allclose(x, y[:, 0], atol=1e-5) for x, y in zip(many.seen, wanted, strict=True)
    )
    assert [len(x[0]) for x in few.seen] == [7]
    more = torch.cat([k, k[:, :, :1]], 2)
    Steering([row], [8], prefill=False).attend(
        0, q[:, :, :1], Keys(more, more), 0.5, lambda rows: q[rows][:, :, :1]
    )
    assert [len(x[0]) for x in many.seen] == [5, 6, 7, 8]


class Keyed(AttentionPolicy):
    """Hides the picture's first key from some of its rows."""

    keyed = True

    def __init__(self, rows: Any, key_rows: Any) -> None:
        self.rows = rows
        self.key_rows = key_rows

    def key_map(self, layer: int) -> KeyMap:
        return KeyMap(bias=torch.tensor([0.0, NO, *[0.0] * 7]))


@pytest.mark.parametrize("key_rows", [None, "all", "after_image", "last", "decode"])
def test_a_key_map_may_act_on_fewer_rows(key_rows: Any) -> None:
    prompt = prompt_of(9, [1, 5])
    q, k = torch.randn(2, 1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 9, 9).tril().bool()
    found = steered_maps([(prompt, Keyed("all", key_rows))], q, k, mask, 0.5, prefill=True)
    hidden = (found[0, :, 1:, 1] == 0).all(0).nonzero().flatten() + 1
    first = {None: 1, "all": 1, "after_image": 5, "last": 8, "decode": 9}[key_rows]
    assert hidden.tolist() == list(range(first, 9))
    assert torch.allclose(found.sum(-1), torch.ones(1, 4, 9), atol=1e-5)


def test_other_policies_keep_their_rows_where_heads_are_lent() -> None:
    """All rows read by lent heads; only those of the boost are boosted, too."""

    class Lent(AttentionPolicy):
        def borrowed_heads(self, layer: int) -> Tensor:
            return torch.zeros(4, dtype=torch.long)

    prompt = prompt_of(9, [1, 5])
    q, k = torch.randn(2, 1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(9).expand(1, 4, 9, 9)
    labels = torch.from_numpy(prompt.layout.is_image()).long()
    x = (q[:, :1] @ k[:, :1].transpose(-1, -2) * 0.5).expand(1, 4, 9, 9)
    raised = torch.where(labels == 1, x + 0.5 * x.abs(), x)
    for rows, first in (("last", 8), ("after_image", 5), ("decode", 9)):
        boost = Boost(labels, [0.5], range(1), rows)
        row = Steered(prompt.layout, (Lent(), boost), Trace(prompt.layout))
        steering = Steering([row], [9], prefill=True)
        found = steering.attend(0, q, Keys(k, eye), 0.5, lambda _: eye.clone())
        assert torch.allclose(found[:, :, :first], softmax(x)[:, :, :first], atol=1e-5)
        assert torch.allclose(found[:, :, first:], softmax(raised)[:, :, first:], atol=1e-5)
        assert row.trace
        mass, _ = row.trace.take()
        assert mass["image"] == pytest.approx(float(found[0, 0, -1, 1:5].sum()), abs=1e-5)


def test_key_maps_on_different_rows_each_keep_theirs() -> None:
    prompt = prompt_of(9, [1, 5])

    class Second(Keyed):
        def key_map(self, layer: int) -> KeyMap:
            return KeyMap(bias=torch.tensor([0.0, 0.0, NO, *[0.0] * 6]))

    q, k = torch.randn(2, 1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    eye = torch.eye(9).expand(1, 4, 9, 9)
    row = Steered(prompt.layout, (Keyed("all", "last"), Second("all", "after_image")))
    found = Steering([row], [9], prefill=True).attend(
        0, q, Keys(k, eye), 0.5, lambda _: torch.ones(1, 4, 9, 9)
    )
    for key, first in ((1, 8), (2, 5)):
        hidden = (found[0, :, key:, key] == 0).all(0).nonzero().flatten() + key
        assert hidden.tolist() == list(range(first, 9))


def test_evidence_shows_calibrated_rows(adapter: Any, picture: Any) -> None:
    """A prompt that ends with its picture has no row after it."""
    prompt = prompt_of(5, [1, 5])
    policy = Calibrated(prompt.layout, CAAC.Params(), {0: torch.full((4, 4), 3.0)})
    q, k = torch.randn(2, 1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 5, 5).tril().bool()
    found = steered_maps([(prompt, policy)], q, k, mask, 0.5, prefill=True, layer=0)
    plain = softmax(q[0] @ k[0].transpose(-1, -2) * 0.5)
    assert torch.allclose(found[0], plain, atol=1e-5)
    run = request(picture, "caac").model_copy(update={"evidence": "mass"})
    for token in record(adapter("llava"), run).answer.tokens:
        assert token.evidence
        assert token.evidence.mass
        assert sum(token.evidence.mass.values()) == pytest.approx(1, abs=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("name", "params", "error", "says"),
    [
        ("fia", {"end_layer": 5}, BadInput, "start_layer=2 and end_layer=5.*model of 4"),
        ("fia", {"start_layer": 4}, BadInput, "name no layers"),
        ("sparc", {"layer": 4}, BadInput, "layer=4.*there are 4"),
        ("sparc", {"start_layer": 3, "end_layer": 3}, BadInput, "name no layers"),
        ("caac", {"layers": 5}, BadInput, "layers=5.*there are 4"),
        ("sid", {"agg": 4}, BadInput, "agg=4.*there are 4"),
        ("sid", {"agg": 0}, BadInput, "agg=0"),
        ("fia+pai", {}, Unsupported, "same name"),
    ],
)
def test_refusals(
    name: str, params: dict[str, Any], error: type[HaluError], says: str, adapter: Any, picture: Any
) -> None:
    with pytest.raises(error, match=says) as caught:
        Local(adapter("llava")).generate([request(picture, name, params)])
    assert "\n" not in str(caught.value)


def test_layers_of_small_models() -> None:
    for layers, wanted in ((1, 0), (2, 1), (4, 2), (28, 18), (32, 20), (40, 25)):
        (make,) = plan_of("sparc", Seeing(prompt_of(4, [1, 2]), layers)).policies
        policy: Any = make(prompt_of(4, [1, 2]))
        assert isinstance(policy, Progress)
        assert policy.layer == wanted


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_tower_without_a_class_token_is_refused(family: str, adapter: Any, picture: Any) -> None:
    with pytest.raises(Unsupported, match=r"has no class token\. LLaVA's CLIP"):
        Local(adapter(family)).generate([request(picture, "paint")])


def test_paint_is_fia(adapter: Any, picture: Any) -> None:
    answers = [
        Local(adapter("llava")).generate([request(picture, name)])[0] for name in ("fia", "paint")
    ]
    assert answers[0] == answers[1]
    assert answers[1].strategy.name == "fia"


def test_a_prompt_without_pixels_is_refused(adapter: Any, picture: Any) -> None:
    """LLaVA-NeXT's host does not tell the tiles apart."""
    mine = adapter("llava_next")
    prompt = mine.encode(question("a", picture()))
    told = mine.prompts({"input_ids": torch.tensor([prompt.ids])})[0]
    asked_for = Request(messages=question("a"))
    ctx = RequestContext(mine, asked_for, Branch("main", told), "fia")
    for ask in (lambda: ctx.class_attention(told, (0,)), lambda: ctx.prefill(ctx.main)):
        with pytest.raises(Unsupported, match="hides this model's pictures"):
            ask()


@pytest.mark.parametrize(
    ("family", "name", "says"),
    [
        ("llava_next", "fia", "hides this model's pictures"),
        ("llava_next", "sid", "hides this model's pictures"),
        ("llava_next", "caac", "rewrites the conversation|hides this model's pictures"),
        ("llava", "caac", "rewrites the conversation"),
    ],
)
def test_what_a_host_cannot_give_is_refused(
    family: str, name: str, says: str, adapter: Any, stock: Any, picture: Any
) -> None:
    model, processor = stock(family), adapter(family).processor
    inputs = host_inputs(processor, picture())
    enable(model, processor, name)
    try:
        with pytest.raises(Unsupported, match=says):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
    finally:
        disable(model)


def host_inputs(processor: Any, image: Any) -> Any:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Is there a dog?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )


@pytest.mark.parametrize("name", ["sparc", "caac"])
def test_what_is_learnt_from_tokens_cannot_follow_a_hosts_beams(
    name: str, adapter: Any, stock: Any, picture: Any
) -> None:
    model, processor = stock("llava"), adapter("llava").processor
    inputs = host_inputs(processor, picture())
    params = {"beta": 0.0} if name == "caac" else {"tau": 0.0, "alpha": 2.0}
    enable(model, processor, name, **params)
    try:
        with pytest.raises(Unsupported, match=r"reorders sequences.*learns"):
            model.generate(**inputs, max_new_tokens=12, num_beams=4, do_sample=False)
        assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 1
    finally:
        disable(model)
