"""The released implementations' numbers (tests/data/parity), golden vectors, analytic cases.

The vectors were made by running the authors' code; `manifest.json` names source and tolerance.
Our strategies are driven through their own plans.
"""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf
from recorder import record
from torch import Tensor
from vectors import Vectors

from halu.adapters.adapter import Features
from halu.adapters.llava import Llava
from halu.attention.keys import Keys
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.decoders.var import sink_tokens
from halu.decoders.vhr import VHR, reinforced_layers, vision_aware
from halu.layout import Grid, ImageSpan, Layout
from halu.prompt import Prompt
from halu.strategy import Branch, ModelFacts, Plan, Step, strategies
from halu.types import Request, Sampling, question
from halu.views import diffused, signal_and_noise

VECTORS = Vectors()
cases, stored = VECTORS.of, VECTORS.stored


def prompt_of(length: int, image: list[int]) -> Prompt:
    start, stop = image
    span = ImageSpan(start, stop, (Grid(0, 1, stop - start, stop - start),))
    return Prompt((0,) * length, Layout(length, (span,)), {}, torch.arange(length), length, ())


class Stub:
    """A context that makes branches by name and remembers how they were asked for."""

    def __init__(self, prompt: Prompt | None = None, layers: int = 4) -> None:
        self.main = Branch("main", prompt or prompt_of(4, [1, 2]))
        self.model = ModelFacts("stub", "llava", layers, 4, 4, 512)
        self.rng = torch.Generator().manual_seed(0)
        self.asked: dict[str, dict[str, Any]] = {}

    def branch(self, name: str, *, steered: bool = True, **view: Any) -> Branch:
        self.asked[name] = view | {"steered": steered}
        return Branch(name, self.main.prompt, steered)


def plan_of(name: str, ctx: Stub | None = None, **params: Any) -> Plan:
    return strategies.get(name).configured(params).plan(ctx or Stub())


def combined(plan: Plan, z: Tensor, z_alt: Tensor, index: int = 0) -> Tensor:
    """The plan's rule on one row, or on each row of a batch."""
    if z.dim() > 1:
        return torch.stack([combined(plan, a, b, index) for a, b in zip(z, z_alt, strict=True)])
    (extra,) = plan.extra
    return plan.rule(Step(index, {"main": z, extra.name: z_alt}, [0] * index))


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert torch.equal(torch.isneginf(found), torch.isneginf(wanted))
    kept = ~torch.isneginf(wanted)
    assert (found[kept] - wanted[kept]).abs().max() <= tolerance


def test_every_vector_is_used_and_every_file_is_there() -> None:
    VECTORS.assert_complete()
    assert VECTORS.tasks == {
        *("var.labels", "var.redistribute", "var.sequence"),
        *("vcd.combine", "vcd.noise", "vcd.generate", "ritual.combine", "ritual.generate"),
        *("m3id.ritual", "m3id.avisc", "m3id.paper"),
    }


# VAR


@cases("var.labels")
def test_var_labels(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    hidden, dims = data.in_hidden[0], tuple(p["dims"])
    assert torch.equal(sink_tokens(hidden, dims, p["tau"]), data.out_sink)
    peak, room = data.out_normed_peak, case["tolerance"]
    for token, row in enumerate(hidden):
        assert bool(sink_tokens(row[None], dims, float(peak[token]) - room))
        assert not bool(sink_tokens(row[None], dims, float(peak[token]) + room))


LAYER = 2


def var_policy(prompt: Prompt, p: dict[str, Any], dims: tuple[int, ...], tau: float) -> Any:
    plan = plan_of(
        "var",
        Stub(prompt),
        mode="official",
        rho=p["rho_code"],
        summ=p["summ"],
        move_fraction=1 - p["p_keep"],
        dimensions=dims,
        tau=tau,
    )
    assert plan.extra == ()
    return plan.policies[0](prompt)


def hidden_with(labels: Tensor) -> Tensor:
    """Layer inputs in which the tokens labelled 2 and 3 are the sinks of dimension 0 at tau 1."""
    hidden = torch.zeros(len(labels), 4)
    hidden[torch.arange(len(labels)), torch.where(labels >= 2, 0, 1).long()] = 1
    return hidden


def redistributed(steered: Steered, p: Tensor, v: Tensor, *, prefill: bool) -> Tensor:
    """The policy's output on maps P [1, H, Q, K] and values V: scores log P, keys unit vectors."""
    heads, keys = p.shape[1], p.shape[3]
    k = torch.eye(keys).expand(1, heads, keys, keys)
    q = p.log().clamp(min=-1e4)
    wide = torch.nn.functional.pad(v, (0, keys - v.shape[3]))
    steering = Steering([steered], [keys], prefill=prefill)
    out = steering.attend(LAYER, q, Keys(k, wide), 1.0, lambda rows: p @ wide)
    return out[..., : v.shape[3]]


@cases("var.redistribute")
def test_var_redistribution(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    prefill = p["rows"] == "after_image"
    keys = data.in_P.shape[3]
    length = keys if prefill else keys - 3  # generated keys are never sinks
    assert prefill or not data.in_labels[length:].any()
    prompt = prompt_of(length, p["image"])
    policy = var_policy(prompt, p, (0,), 1.0)
    steered = Steered(prompt.layout, (policy,))
    read = Steering([steered], [length], prefill=True)
    read.read(LAYER, hidden_with(data.in_labels[:length])[None])

    eye = torch.eye(keys).expand(1, data.in_P.shape[1], keys, keys)
    found = redistributed(steered, data.in_P, eye, prefill=prefill)
    assert_close(found, data.out_P, case["tolerance"])
    assert torch.allclose(found.sum(-1), data.in_P.sum(-1), atol=1e-5)
    out = redistributed(steered, data.in_P, data.in_V, prefill=prefill)
    assert_close(out, data.out_O, case["tolerance"])
    changed = ((found - data.in_P).abs().amax(-1) > 1e-6)[0]
    assert torch.equal(changed, data.out_selected)


@cases("var.sequence")
def test_var_samples_in_a_row(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    for sample, image in enumerate(p["images"]):
        hidden = getattr(data, f"in_hidden_n{sample}")
        prompt = prompt_of(hidden.shape[1], image)
        policy = var_policy(prompt, p, tuple(p["dims"]), p["tau"])
        steered = Steered(prompt.layout, (policy,))
        Steering([steered], [hidden.shape[1]], prefill=True).read(LAYER, hidden)
        sinks = getattr(data, f"out_sink_n{sample}")
        labels = policy.labels(LAYER)
        assert torch.equal(labels >= 2, sinks)
        assert torch.equal(
            (labels == 1) | (labels == 2), torch.from_numpy(prompt.layout.is_image())
        )
        for step in range(p["steps"] + 1):
            maps = getattr(data, f"in_P_n{sample}_s{step}")
            eye = torch.eye(maps.shape[3]).expand(1, maps.shape[1], -1, -1)
            found = redistributed(steered, maps, eye, prefill=step == 0)
            wanted = getattr(data, f"out_P_n{sample}_s{step}")
            assert_close(found, wanted, case["tolerance"])
            assert step or (found - maps).abs().max() > 1e-3


def test_var_modes_differ_as_documented() -> None:
    """rho is complementary; the paper leaves the last layer alone; layers 0 and 1 never change."""
    prompt = prompt_of(8, [2, 6])
    mass = torch.tensor([[[0.3, 0.3, 0.2, 0.2]]])  # rest, picture, its sinks, other sinks
    chosen = {}
    for mode in ("paper", "official"):
        for rho in (0.2, 0.5, 0.7):
            plan = plan_of("var", Stub(prompt), mode=mode, rho=rho, dimensions=(0,), tau=1.0)
            policy: Any = plan.policies[0](prompt)
            weights = policy.epilogue(2)(mass)[0, 0].tolist()
            chosen[mode, rho] = weights != [1, 1, 1, 1]
            if chosen[mode, rho]:
                assert weights == pytest.approx([1, 1 + 0.4 * 0.4 / 0.3, 0.6, 0.6])
            sinks = torch.tensor([3, 0, 1, 2, 2, 1, 0, 0])
            for layer in range(4):
                policy.read(layer, hidden_with(sinks))
            changed = [layer for layer in range(4) if policy.labels(layer) is not None]
            assert changed == ([2] if mode == "paper" else [2, 3])
    # the non-sink share is 0.6: the paper takes rho up to it, the code from its complement 0.4 on
    assert chosen == {
        ("paper", 0.2): True,
        ("paper", 0.5): True,
        ("paper", 0.7): False,
        ("official", 0.2): False,
        ("official", 0.5): True,
        ("official", 0.7): True,
    }


# Rules


@cases("vcd.combine")
def test_vcd_rule(case: dict[str, Any]) -> None:
    data = stored(case)
    plan = plan_of("vcd", **case["params"])
    assert_close(combined(plan, data.in_z, data.in_z_alt), data.out_scores, case["tolerance"])


@cases("ritual.combine")
def test_ritual_rule(case: dict[str, Any]) -> None:
    data = stored(case)
    plan = plan_of("ritual", **case["params"])
    assert_close(combined(plan, data.in_z, data.in_z_alt), data.out_scores, case["tolerance"])


@cases("m3id.ritual", "m3id.avisc")
def test_m3id_official_rule(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    plan = plan_of("m3id", mode="official", lam=p["lam"], beta=p["beta"])
    rows = [data.in_z, data.in_z_alt]
    if p["domain"] == "log-softmax":
        rows = [row.log_softmax(-1) for row in rows]
    for step, z, z_alt, wanted in zip(p["steps"], *rows, data.out_scores, strict=True):
        found = combined(plan, z, z_alt, step + p["first_step"])
        assert_close(found, wanted, case["tolerance"])


@cases("m3id.paper")
def test_m3id_paper_rule(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    plan = plan_of("m3id", lam=p["lam"], t0=p["t0"], confident=p["A"])
    found = combined(plan, data.in_z, data.in_z_alt, p["t"]).log_softmax(-1)
    assert_close(found, data.out_scores.log_softmax(-1), case["tolerance"])
    gated = (found - data.in_z.log_softmax(-1)).abs().amax(-1) > 1e-4
    assert torch.equal(gated, data.out_gate)


Z = torch.tensor([2.0, 1, 0, -1])
Z1 = torch.tensor([1.0, 1.5, 0, -2])
NO = -math.inf


@pytest.mark.parametrize(
    ("name", "params", "index", "wanted"),
    [
        ("vcd", {"alpha": 1, "beta": 0.1}, 0, [3, 0.5, 0, NO]),
        ("vcd", {"alpha": 0.5, "beta": 0.1}, 0, [2.5, 0.75, 0, NO]),
        ("ritual", {"alpha": 3, "beta": 0.1}, 0, [5, 5.5, 0, NO]),
        ("m3id", {"mode": "official"}, 0, [2, 1, 0, NO]),
        ("m3id", {"mode": "official"}, 10, [2.221403, 0.889299, 0, NO]),
        ("m3id", {"mode": "official"}, 50, [3.718282, 0.140859, 0, NO]),
        ("m3id", {"confident": 1.0, "t0": 10}, 0, [-0.289567, -1.621671, -2.510970, -3.289567]),
        ("m3id", {"confident": 1.0, "t0": 4}, 6, [-0.289567, -1.621671, -2.510970, -3.289567]),
        ("m3id", {"confident": 1.0}, 50, [0.728776, -2.848647, -2.989506, -2.271224]),
        ("m3id", {}, 50, [-0.440190, -1.440190, -2.440190, -3.440190]),
    ],
)
def test_golden_vectors(name: str, params: dict[str, Any], index: int, wanted: list[float]) -> None:
    """methods-logits 11, computed there independently in float64."""
    found, row = combined(plan_of(name, **params), Z, Z1, index), torch.tensor(wanted)
    if name == "m3id" and params.get("mode") != "official":  # a score up to a constant
        found, row = found.log_softmax(-1), row.log_softmax(-1)
    assert_close(found, row, 2e-6)


@pytest.mark.parametrize("name", ["vcd", "ritual", "m3id"])
@pytest.mark.parametrize("constant", [-40.0, 7.0])
def test_a_constant_added_to_a_row_changes_nothing(name: str, constant: float) -> None:
    rng = torch.Generator().manual_seed(3)
    z, z_alt = 3 * torch.randn(2, 50, generator=rng)
    plan = plan_of(name)
    wanted = combined(plan, z, z_alt, 20).softmax(-1)
    assert torch.allclose(combined(plan, z + constant, z_alt, 20).softmax(-1), wanted, atol=1e-5)
    assert torch.allclose(combined(plan, z, z_alt + constant, 20).softmax(-1), wanted, atol=1e-5)


def test_the_sum_of_two_rules_is_the_designs() -> None:
    """ICD's golden row: a z' and a z'' contrast added, one cutoff."""
    rule = plan_of("vcd").rule + plan_of("vcd").rule
    assert_close(rule(Step(0, {"main": Z, "ruined": Z1}, [])), torch.tensor([4.0, 0, 0, NO]), 1e-6)
    alone = torch.tensor([0.5, 0.5, 1, 0])
    both = Z + (Z - Z1) + (Z - alone)
    assert both[:3].tolist() == pytest.approx([4.5, 1, -1])


def test_branches_are_asked_for_as_published() -> None:
    """What is subtracted is never steered; what is added is; M3ID's has no picture."""
    for name, wanted in (
        ("vcd", {"ruined": {"pixels", "steered"}}),
        ("m3id", {"blind": {"blind", "steered"}}),
        ("ritual", {"transformed": {"image", "steered"}}),
    ):
        stub = Stub()
        plan = plan_of(name, stub)
        assert {key: set(view) for key, view in stub.asked.items()} == wanted
        assert [branch.steered for branch in plan.extra] == [name == "ritual"]


# Noise


@pytest.mark.parametrize(
    ("step", "signal", "noise"),
    [
        (100, 0.998293, 0.058406),
        (300, 0.980984, 0.194089),
        (500, 0.8630171, 0.5051747),
        (700, 0.592677, 0.805440),
        (900, 0.364888, 0.931051),
        (999, 0.2850424, 0.9585149),
    ],
)
def test_noise_schedule(step: int, signal: float, noise: float) -> None:
    assert signal_and_noise(step) == pytest.approx((signal, noise), abs=6e-7)


@cases("vcd.noise")
def test_vcd_noise(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data, rng = stored(case), torch.Generator()

    def drawn(shape: torch.Size, *, generator: torch.Generator) -> Tensor:
        assert generator is rng
        assert shape == data.in_noise.shape
        return data.in_noise

    view = diffused(case["params"]["t"], rng)
    monkeypatch.setattr(torch, "randn", drawn)
    assert_close(view(data.in_pixels), data.out_pixels, case["tolerance"])


# Whole loops


class Stored(Llava):
    """A stored Llama behind our adapter; its pictures are stored embeddings, main and second."""

    def __init__(self, data: SimpleNamespace, p: dict[str, Any]) -> None:
        text = tf.LlamaConfig(**p["config"], eos_token_id=None, bos_token_id=None)
        vision = tf.CLIPVisionConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=14,
            patch_size=14,
        )
        model = tf.LlavaForConditionalGeneration(
            tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=0)
        ).eval()
        weights = {
            key.removeprefix("in_w_").replace("__", "."): value
            for key, value in vars(data).items()
            if key.startswith("in_w_")
        }
        head = weights.pop("lm_head.weight")
        language = {key.removeprefix("model."): value for key, value in weights.items()}
        model.model.language_model.load_state_dict(language)
        model.lm_head.load_state_dict({"weight": head})
        model.generation_config.eos_token_id = [10**6]
        words = SimpleNamespace(decode=lambda ids, **own: " ".join(map(str, ids)))
        super().__init__("stored", model, SimpleNamespace(tokenizer=words))
        self.data, self.p = data, p

    def encode(self, messages: Any) -> Prompt:
        ids = self.data.in_prompt_ids[0].tolist()
        prompt = prompt_of(len(ids), self.p["image"])
        pixels = {"pixel_values": self.data.in_image_main}
        return Prompt(tuple(ids), prompt.layout, pixels, prompt.positions, len(ids), ())

    def with_pixels(self, prompt: Prompt, view: Any) -> Prompt:
        pixels = {"pixel_values": self.data.in_image_alt}
        return Prompt(prompt.ids, prompt.layout, pixels, prompt.positions, prompt.next_position, ())

    def with_images(self, prompt: Prompt, images: Any) -> Prompt:
        return self.with_pixels(prompt, None)

    def look(self, pixels: Any) -> Features:
        return Features(pixels["pixel_values"].flatten(0, 1))


@cases("vcd.generate", "ritual.generate")
def test_two_branch_loops(case: dict[str, Any]) -> None:
    data, p = stored(case), case["params"]
    adapter = Stored(data, p)
    name = case["method"]

    def asked(strategy: str, **params: Any) -> Request:
        sampling = Sampling(max_new_tokens=p["new_tokens"])
        messages = question("stored")
        return Request(messages=messages, strategy=strategy, params=params, sampling=sampling)

    run = record(adapter, asked(name, alpha=p["alpha"], beta=p["beta"]))
    assert run.tokens == data.out_tokens.tolist()
    assert_close(torch.stack(run.ruled), data.out_scores, case["tolerance"])
    plain = record(adapter, asked("greedy"))
    assert plain.tokens == data.out_plain_greedy.tolist()
    assert plain.tokens != run.tokens


# VHR has no public oracle: analytic cases (methods-attention 11)


def heads(*norms: float) -> Tensor:
    """Head outputs [H, 2] with these norms."""
    return torch.tensor([[0.6 * norm, 0.8 * norm] for norm in norms])


def test_vhr_of_two_heads_takes_the_one_that_moves_more() -> None:
    blind = heads(1.0, 1.0)
    seeing = blind + heads(0.5, 2.0)
    assert vision_aware(seeing, blind, VHR.Params()).tolist() == [False, True]
    assert vision_aware(blind + heads(2.0, 0.5), blind, VHR.Params()).tolist() == [True, False]


@pytest.mark.parametrize(
    ("moves", "text", "outlier"),
    [
        ([1, 2, 3, 20], [1, 1, 1, 9], True),  # moves far, and strong without the picture
        ([1, 2, 3, 20], [1, 1, 1, 1], False),  # moves far only
        ([1, 2, 3, 3.2], [1, 1, 1, 9], False),  # strong without the picture only
    ],
)
def test_a_vhr_outlier_needs_both_conditions(
    moves: list[float], text: list[float], outlier: bool
) -> None:
    blind = heads(*text)
    seeing = blind + heads(*moves)
    chosen = vision_aware(seeing, blind, VHR.Params()).tolist()
    assert chosen == ([False, True, True, False] if outlier else [False, False, True, True])
    kept = vision_aware(seeing, blind, VHR.Params(outliers=False)).tolist()
    assert kept == [False, False, True, True]


def test_vhr_takes_half_of_an_even_number_of_heads() -> None:
    rng = torch.Generator().manual_seed(0)
    for count in (2, 4, 8, 32):
        for _ in range(20):
            seeing, blind = torch.randn(2, count, 8, generator=rng)
            for params in (VHR.Params(), VHR.Params(outliers=False, squared_distance=True)):
                assert int(vision_aware(seeing, blind, params).sum()) == count // 2


def test_vhr_switches_change_who_is_an_outlier() -> None:
    """Divisor n or n - 1, squared or plain norms: only the outlier rule can tell them apart."""
    rng = torch.Generator().manual_seed(1)
    differing = dict.fromkeys(("squared_distance", "squared_activation", "ddof"), 0)
    for _ in range(300):
        blind = torch.randn(4, 3, generator=rng)
        seeing = blind + torch.randn(4, 3, generator=rng)
        default = vision_aware(seeing, blind, VHR.Params())
        for key in differing:
            other: Any = 0 if key == "ddof" else key == "squared_distance"
            changed = vision_aware(seeing, blind, VHR.Params(**{key: other}))
            differing[key] += not torch.equal(changed, default)
            bare = VHR.Params(outliers=False)
            same = vision_aware(seeing, blind, bare.model_copy(update={key: other}))
            assert torch.equal(same, vision_aware(seeing, blind, bare))
    assert all(differing.values()), differing


def test_vhr_layers_are_the_second_and_the_last_fourteen_of_thirtytwo() -> None:
    assert reinforced_layers(VHR.Params(), 32) == {1, *range(18, 32)}
    assert reinforced_layers(VHR.Params(second_layer=False), 32) == {*range(18, 32)}
    assert reinforced_layers(VHR.Params(last_layers=18 / 32, second_layer=False), 32) == {
        *range(14, 32)
    }
    assert reinforced_layers(VHR.Params(last_layers=0.0), 8) == {1}
    assert reinforced_layers(VHR.Params(last_layers=1.0), 3) == {0, 1, 2}
    assert reinforced_layers(VHR.Params(last_layers=0.0), 1) == set()
