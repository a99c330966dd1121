"""What every registered strategy owes its users: ten checks, over the registry and the families.

A new strategy is picked up by itself; `recorder.PARAMS` says what it needs on a random model.
"""

import importlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import oracles
import pytest
import torch
from recorder import ONLY_ON, PARAMS, Run, full_rows, record, said_alone, same_rows

from halu.adapters import Adapter
from halu.attention import ScoreMap
from halu.attention.policy import AttentionPolicy
from halu.engine import Local
from halu.errors import BadInput, HaluError, Unknown, Unsupported
from halu.planning import steered
from halu.rules import Additive
from halu.strategy import Branch, Plan, Strategy, keep_main, strategies
from halu.testing.random_models import FAMILIES
from halu.types import Answer, Request
from halu.vlm import VLM, asking

NAMES = strategies.names()
CHECKED = ("llava", "qwen2_5_vl")
STEPS = 6
BESIDE = dict.fromkeys(("beam", "greedy", "sample", "var", "adhh", "pai", "vaf"), 0) | {
    "vhr": 1,
    "ara": 4,
    "carve": 2,
    "vdgd": 1,
    "code": 1,
    "glc": 2,
    "caac": 2,
    "fia": 0,
    "sparc": 0,
}
"""Prompts that a strategy's plan may run on top of its branches."""
SAID = {"ara": 4, "carve": 4, "vdgd": 3, "code": 3}
"""Tokens that it feeds to a branch of its own before decoding."""

AFTERWARDS = ("woodpecker",)
"""Methods that act on a whole answer."""
UNTOLD = ("beam", "halc", "opera", "sentinel", "woodpecker")
"""Methods whose tokens are not final when they are chosen."""

on_each = pytest.mark.parametrize("name", NAMES)
on_two_families = pytest.mark.parametrize("family", CHECKED)
on_all_families = pytest.mark.parametrize("family", FAMILIES)


def cls_of(name: str) -> type[Strategy]:
    return strategies.get(name)


def request(
    picture: Any, strategy: str | None = None, params: dict[str, Any] | None = None, **own: Any
) -> Request:
    """The question that all checks ask; Request needs no model."""
    size, seed = own.pop("size", (90, 60)), own.pop("picture_seed", 3)
    text = own.pop("text", "Is there a dog in the image?")
    own = {"max_new_tokens": STEPS, **own}
    image = None if size is None else picture(*size, seed=seed)
    return asking(image, text, strategy=strategy, params=params, **own)


@pytest.fixture(scope="module")
def run(adapter: Callable[[str], Adapter], picture: Any) -> Callable[..., Run]:
    """A recorded run of a strategy: "on" with its parameters, "off" with those that switch it off,
    "plain" without it. Recorded once, read by many checks.
    """

    @cache
    def recorded(family: str, name: str, variant: str = "on") -> Run:
        params = dict(PARAMS.get(name, {}))
        if variant == "off":
            params |= cls_of(name).off or {}
        own: dict[str, Any] = {"evidence": "map"}
        if name in UNTOLD and variant == "on":  # tokens not final have no evidence
            own = {}
        if variant == "plain":
            return record(adapter(family), request(picture, evidence="map"))
        return record(adapter(family), request(picture, name, params, **own))

    return recorded


@pytest.fixture(autouse=True)
def where_it_runs(request: pytest.FixtureRequest, adapter: Any, picture: Any) -> None:
    """A family that lacks what a strategy needs refuses it, and the check ends there."""
    own = getattr(getattr(request.node, "callspec", None), "params", {})
    family, name = own.get("family"), own.get("name")
    if family is None or family in ONLY_ON.get(name, FAMILIES):
        return
    asked = globals()["request"](picture, name, PARAMS.get(name, {}))
    with pytest.raises(Unsupported, match="no class token"):
        Local(adapter(family)).generate([asked])
    pytest.skip(f"{name} is refused on {family}")


# 1. Parameters


def _bounded(schema: dict[str, Any]) -> bool:
    """Whether a JSON schema leaves no value without a limit."""
    if "anyOf" in schema:
        return all(_bounded(option) for option in schema["anyOf"])
    kind = schema.get("type")
    if "enum" in schema or "const" in schema or kind in ("boolean", "null"):
        return True
    if kind in ("number", "integer"):
        low = {"minimum", "exclusiveMinimum"} & schema.keys()
        high = {"maximum", "exclusiveMaximum"} & schema.keys()
        return bool(low and high)
    if kind == "array":
        return "maxItems" in schema and _bounded(schema.get("items", {}))
    return kind == "string" and "maxLength" in schema


@on_each
def test_parameters_are_bounded_described_and_round_trip(name: str) -> None:
    cls = cls_of(name)
    default = cls.configured({}).params
    for key, schema in cls.Params.model_json_schema().get("properties", {}).items():
        assert schema.get("description"), key
        assert _bounded(schema), key
        with pytest.raises(Unknown) as error:
            cls.configured({f"{key}x": 1})
        assert key in error.value.hint
        assert error.value.param == f"params.{key}x"
    chosen = cls.configured(PARAMS.get(name, {})).params
    for params in (default, chosen):
        assert cls.Params.model_validate_json(params.model_dump_json()) == params
        assert cls.Params.model_validate(json.loads(json.dumps(params.model_dump()))) == params
    with pytest.raises(Unknown):
        cls.configured({"no_such_parameter": 1})


@on_each
def test_values_out_of_range_are_refused_by_name(name: str) -> None:
    for key, schema in cls_of(name).Params.model_json_schema().get("properties", {}).items():
        for limit, step in (("minimum", -1), ("maximum", 1)):
            if limit in schema:
                with pytest.raises(BadInput) as error:
                    cls_of(name).configured({key: schema[limit] + step})
                assert error.value.param == f"params.{key}"
                assert key in error.value.message
        wrong: Any = {"nested": "mapping"}
        with pytest.raises(BadInput, match=key):
            cls_of(name).configured({key: wrong})


# 2. Citation


@on_each
def test_its_source_is_cited(name: str) -> None:
    cls = cls_of(name)
    assert cls.name == name
    assert cls.paper.short
    if cls.kind == "decoding":
        return
    text = importlib.import_module(cls.__module__).__doc__ or ""
    if cls.paper.arxiv:
        assert re.fullmatch(r"\d{4}\.\d{4,5}", cls.paper.arxiv)
        assert f"arXiv:{cls.paper.arxiv}" in text
    else:
        assert re.search(r"doi\.org/10\.\S+|openreview\.net/forum\?id=\w+", text)
    assert cls.paper.venue


# 3. Off is plain, on is not


@on_two_families
@on_each
def test_switched_off_it_is_plain_decoding(family: str, name: str, run: Any) -> None:
    plain = run(family, "greedy", "plain")
    if cls_of(name).off is None:
        mine = run(family, name)
        assert cls_of(name).kind == "decoding", "a method without a neutral setting needs an oracle"
        assert (mine.plan.rule, mine.plan.extra, mine.plan.policies) == (keep_main, (), ())
        return
    off = run(family, name, "off")
    assert off.tokens == plain.tokens
    for mine, theirs in zip(off.ruled, plain.ruled, strict=True):
        assert same_rows(mine, theirs)


@on_two_families
@on_each
def test_switched_on_it_changes_something(family: str, name: str, run: Any) -> None:
    if cls_of(name).kind == "decoding":
        assert len(run(family, name).answer.tokens) == STEPS
        return
    if name in AFTERWARDS:
        pytest.skip(f"{name} changes finished answers, not rows: tests/test_correction.py")
    plain, mine = run(family, "greedy", "plain"), run(family, name)
    both = zip(mine.ruled, plain.ruled, strict=False)
    assert not all(same_rows(a, b, tolerance=1e-3) for a, b in both)


# 4. Each branch is honest


@on_all_families
@on_each
def test_branches_decoded_from_the_cache_equal_a_full_forward(
    family: str, name: str, run: Any, stock: Any
) -> None:
    mine = run(family, name)
    compared = 0
    for branch in (mine.plan.main, *mine.plan.extra):
        if branch.policies or (branch.steered and mine.plan.policies):
            continue  # compared with an oracle
        known: dict[tuple[int, ...], torch.Tensor] = {}
        for step in reversed(mine.steps):  # the longest first: it covers what it begins with
            said = tuple(step.tokens)
            if said not in known:
                rows = full_rows(stock(family), branch.prompt, said)
                known |= {said[:n]: row for n, row in enumerate(rows)}
            assert (step.rows[branch.name] - known[said]).abs().max() < 1e-4
            compared += 1
    branches = (mine.plan.main, *mine.plan.extra)
    if not mine.plan.policies and not any(branch.policies for branch in branches):
        assert compared == len(mine.steps) * (1 + len(mine.plan.extra))
        assert len(mine.steps) >= STEPS


@on_two_families
@pytest.mark.parametrize("mode", ["paper", "official"])
def test_var_equals_whole_maps(
    family: str, mode: str, adapter: Any, stock: Any, picture: Any
) -> None:
    params = {**PARAMS["var"], "mode": mode, "rho": 0.4, "move_fraction": 0.7}
    mine = record(adapter(family), request(picture, "var", params))
    main = mine.plan.main.prompt
    oracle = oracles.VarOracle(stock(family), main, mine.answer.strategy.params)
    try:
        rows = oracles.oracle_rows(stock(family), main, mine.steps[-1].tokens, oracle)
    finally:
        oracle.remove()
    assert oracle.changed > 20
    for step, row in zip(mine.steps, rows, strict=True):
        assert (step.main - row).abs().max() < 1e-4
    plain = full_rows(stock(family), main, mine.steps[-1].tokens)
    assert (plain - rows).abs().max() > 1e-2


@on_two_families
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"rows": "last", "alpha": 3.0, "outliers": False},
        {"squared_distance": True, "squared_activation": False, "ddof": 0, "last_layers": 1.0},
        {"second_layer": False, "alpha": 0.25},
    ],
)
def test_vhr_equals_whole_maps(
    family: str, own: dict[str, Any], adapter: Any, stock: Any, picture: Any
) -> None:
    mine = record(adapter(family), request(picture, "vhr", own))
    main, model = mine.plan.main.prompt, stock(family)
    blind = adapter(family).without_images(main)
    oracle = oracles.VhrOracle(model, main, blind, mine.answer.strategy.params)
    rows = oracles.oracle_rows(model, main, mine.steps[-1].tokens, oracle)
    for step, row in zip(mine.steps, rows, strict=True):
        assert (step.main - row).abs().max() < 2e-4
    assert all(sum(heads) == len(heads) // 2 for heads in oracle.chosen.values())
    plain = full_rows(model, main, mine.steps[-1].tokens)
    assert (plain - rows).abs().max() > 1e-2


def test_vhr_judges_a_layer_when_those_below_are_reinforced(
    adapter: Any, stock: Any, picture: Any
) -> None:
    model, differing = stock("llava"), 0
    for seed in range(6):
        asked = request(picture, "vhr", {"alpha": 4.0, "last_layers": 1.0}, picture_seed=seed)
        mine = record(adapter("llava"), asked)
        main = mine.plan.main.prompt
        blind = adapter("llava").without_images(main)
        oracle = oracles.VhrOracle(model, main, blind, mine.answer.strategy.params)
        rows = oracles.oracle_rows(model, main, mine.steps[-1].tokens, oracle)
        assert (mine.steps[0].main - rows[0]).abs().max() < 2e-4
        differing += oracle.chosen != oracle.two_pass
    assert differing, "no picture tells the layer-by-layer choice from the two-pass one"


# 5. Isolation


def _state(model: torch.nn.Module) -> dict[str, Any]:
    """Weights, and every other attribute of every module: plain values as text, things by id."""
    hidden = {"_parameters", "_buffers", "_modules"}
    plain = (bool, int, float, str, tuple, list, dict, torch.Tensor, type(None))
    attributes = {
        f"{path}.{key}": repr(value) if isinstance(value, plain) else id(value)
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in hidden
    }
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    return {"attributes": attributes, "weights": weights}


@on_two_families
@on_each
def test_two_requests_token_by_token_do_not_meet(
    family: str, name: str, adapter: Any, picture: Any
) -> None:
    vlm = Local(adapter(family))
    params = PARAMS.get(name, {})
    asked = [
        request(picture, name, params, seed=1),
        request(picture, name, params, size=(60, 140), picture_seed=9, text="Describe it.", seed=2),
    ]
    before = _state(vlm.adapter.model)
    alone = [_last(vlm, one) for one in asked]
    streams = [vlm.run(one) for one in asked]
    together: list[Answer | None] = [None, None]
    for events in itertools.zip_longest(*streams):
        for index, event in enumerate(events):
            if event is not None and event.answer is not None:
                together[index] = event.answer
    assert together == alone
    after = _state(vlm.adapter.model)
    assert after["attributes"] == before["attributes"]
    assert all(
        torch.equal(after["weights"][key], before["weights"][key]) for key in before["weights"]
    )


def _last(vlm: VLM, asked: Request) -> Answer:
    answers = [event.answer for event in vlm.run(asked)]
    assert answers[-1] is not None
    assert answers[:-1] == [None] * (len(answers) - 1)
    return answers[-1]


# 6. Determinism, streaming


@on_two_families
@on_each
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_the_same_request_gives_the_same_answer_streamed_or_not(
    family: str, name: str, temperature: float | None, adapter: Any, picture: Any
) -> None:
    vlm = Local(adapter(family))
    own = {"temperature": temperature, "seed": 5, "max_new_tokens": 5}
    asked = request(picture, name, PARAMS.get(name, {}), **own)
    if temperature and name in ("greedy", "beam", "opera"):
        with pytest.raises(BadInput, match=r"temperature|sample") as error:
            list(vlm.run(asked))
        assert error.value.param == "temperature"
        return
    events = list(vlm.run(asked))
    first = events[-1].answer
    assert first is not None
    (second,) = vlm.generate([asked])
    assert second == first
    assert "".join(event.text for event in events) == first.text
    streamed = [token.id for event in events for token in event.tokens]
    assert streamed == [token.id for token in first.tokens]
    if temperature or name == "sample":
        drawn = [request(picture, name, PARAMS.get(name), **own | {"seed": s}) for s in range(4)]
        others = {tuple(t.id for t in answer.tokens) for answer in vlm.generate(drawn)}
        assert len(others) > 1, "the seed plays no role"


@on_two_families
@pytest.mark.parametrize(("name", "branch"), [("vcd", "ruined"), ("ritual", "transformed")])
def test_random_views_follow_the_seed_and_nothing_else(
    family: str, name: str, branch: str, adapter: Any, picture: Any
) -> None:
    def first(strategy: str, seed: int) -> torch.Tensor:
        own = {f"{name}.{key}": value for key, value in PARAMS[name].items()}
        asked = request(picture, strategy, own, seed=seed, max_new_tokens=1)
        return record(adapter(family), asked).steps[0].rows[branch]

    rows = [first(name, seed) for seed in range(6)]
    assert torch.equal(rows[1], first(name, 1))
    gaps = [float((row - rows[0]).abs().max()) for row in rows[1:]]
    assert max(gaps) > 1e-2, "the seed plays no role"
    for joined in ("vcd+ritual", "ritual+vcd"):
        assert (first(joined, 1) - rows[1]).abs().max() < 1e-4


# 7. Rows


@on_two_families
@on_each
def test_rows_are_usable_and_nothing_impossible_is_chosen(family: str, name: str, run: Any) -> None:
    mine = run(family, name)
    for row in mine.ruled:
        assert not row.isnan().any()
        assert not torch.isposinf(row).any()
        assert row.isfinite().any()
    if mine.plan.search.streams:
        for row, token in zip(mine.ruled, mine.tokens, strict=True):
            assert row[token].isfinite()
    for step in mine.steps:
        assert all(row.isfinite().all() for row in step.rows.values())
        assert all(row.dtype == torch.float32 for row in step.rows.values())


# 8. Without a picture


@on_two_families
@on_each
def test_without_a_picture_it_refuses_or_is_plain(
    family: str, name: str, adapter: Any, picture: Any
) -> None:
    params = PARAMS.get(name, {}) | ({"beams": 1} if name == "beam" else {})
    asked = request(picture, name, params, size=None)
    if cls_of(name).needs_image:
        with pytest.raises(Unsupported, match=f"{name}.*needs a picture"):
            Local(adapter(family)).generate([asked])
        return
    plain = record(adapter(family), request(picture, size=None))
    mine = record(adapter(family), asked)
    assert same_rows(mine.ruled[0], plain.ruled[0])
    if name != "sample":
        assert mine.tokens == plain.tokens


# 9. Cost


@on_two_families
@on_each
def test_it_costs_what_its_plan_says(family: str, name: str, run: Any) -> None:
    mine = run(family, name)
    branches = 1 + len(mine.plan.extra)
    beside = mine.count.prompt_rows - branches  # prompts that ran on top
    said = mine.count.tokens - (mine.rounds - 1)
    assert said == SAID.get(name, 0)
    assert mine.count.rows == len(mine.steps) * branches + beside + said
    assert mine.answer.usage.forwards == mine.count.rows
    if name in BESIDE or len(mine.plan.extra):
        assert beside == BESIDE.get(name, 0)


# 10. Evidence


@on_two_families
@on_each
@pytest.mark.parametrize("variant", ["on", "off"])
def test_evidence_is_complete_finite_and_serialisable(
    family: str, name: str, variant: str, run: Any
) -> None:
    mine = run(family, name, variant)
    if not mine.plan.search.streams:  # asked for without, since several hypotheses have none
        assert [token.evidence for token in mine.answer.tokens] == [None] * STEPS
        return
    layout = mine.plan.main.prompt.layout
    assert Answer.model_validate_json(mine.answer.model_dump_json()) == mine.answer
    assert "inf" not in mine.answer.model_dump_json().lower()
    for token, step, row in zip(mine.answer.tokens, mine.steps, mine.ruled, strict=True):
        evidence = token.evidence
        assert evidence is not None
        assert evidence.mass is not None
        assert evidence.look is not None
        assert set(evidence.mass) == {"system", "image", "question", "answer"}
        total = sum(evidence.mass.values())
        if variant == "off" or cls_of(name).kind != "attention":
            assert total == pytest.approx(1, abs=1e-4)
        assert 0 < total <= 1.0001  # a method may take attention away (AD-HH)
        assert min(evidence.mass.values()) >= 0
        assert len(evidence.look) == len(layout.images)
        looked = sum(sum(heat.values) for heat in evidence.look)
        assert looked == pytest.approx(evidence.mass["image"], abs=1e-3)
        for heat, span in zip(evidence.look, layout.images, strict=True):
            assert heat.rows * heat.columns == len(heat.values)
            assert len(heat.values) == span.stop - span.start
        logp = torch.log_softmax(row, -1)
        kept = logp[logp.isfinite()].double()
        assert evidence.entropy == pytest.approx(float(-(kept.exp() * kept).sum()), abs=1e-3)
        p, q = (torch.softmax(r.double(), -1) for r in (step.main, row))
        middle = ((p + q) / 2).log()
        moved = (torch.xlogy(p, p) - p * middle + torch.xlogy(q, q) - q * middle).sum() / 2
        assert evidence.shift == pytest.approx(float(moved), abs=1e-5)
        assert evidence.shift >= 0
        assert evidence.rank == int((step.main > step.main[token.id]).sum())
        if variant == "off" or name == "greedy":
            if name != "sample":
                assert evidence.rank == 0
            assert evidence.shift == pytest.approx(0, abs=1e-4)
    assert mine.answer.tokens[0].evidence.mass["answer"] == 0
    assert mine.answer.tokens[1].evidence.mass["answer"] > 0


# Composition


@pytest.mark.parametrize("pair", [*itertools.combinations(NAMES, 2)], ids="+".join)
def test_a_pair_works_or_is_refused_with_a_reason(
    pair: tuple[str, str], adapter: Any, picture: Any
) -> None:
    params = {
        f"{name}.{key}": value for name in pair for key, value in PARAMS.get(name, {}).items()
    }
    vlm, answers = Local(adapter("llava")), []
    for order in (pair, pair[::-1]):
        asked = request(picture, "+".join(order), params, max_new_tokens=3)
        try:
            (answer,) = vlm.generate([asked])
        except HaluError as error:
            assert error.message  # noqa: PT017  # an answer is as good
            answers.append(type(error))
        else:
            assert answer.strategy.name == "+".join(order)
            answers.append([token.id for token in answer.tokens])
    assert answers[0] == answers[1], "the order of the parts changes the answer"


@on_two_families
def test_branch_rules_add_up(family: str, adapter: Any, picture: Any) -> None:
    both = record(adapter(family), request(picture, "vcd+ritual", {"vcd.beta": 0.9}))
    assert [branch.name for branch in both.plan.extra] == ["ruined", "transformed"]
    assert isinstance(both.plan.rule, Additive)
    for step, row in zip(both.steps, both.ruled, strict=True):
        z, ruined, turned = (step.rows[key] for key in ("main", "ruined", "transformed"))
        wanted = z + 1.0 * (z - ruined) + 3.0 * turned
        kept = z >= z.max() + torch.log(torch.tensor(0.9))
        assert torch.allclose(row, wanted.masked_fill(~kept, float("-inf")), atol=1e-4)
        assert 0 < kept.sum() < len(z)


@on_two_families
def test_attention_strategies_steer_the_main_branch_of_a_branch_strategy(
    family: str, adapter: Any, stock: Any, picture: Any, run: Any
) -> None:
    both = record(adapter(family), request(picture, "vhr+vcd"))
    alone, fed = run(family, "vhr"), both.steps[-1].tokens
    assert (both.steps[0].main - alone.steps[0].main).abs().max() < 1e-4
    (ruined,) = both.plan.extra
    for step, row in zip(both.steps, full_rows(stock(family), ruined.prompt, fed), strict=True):
        assert (step.rows["ruined"] - row).abs().max() < 1e-4
    assert both.answer.usage.forwards == 2 * STEPS + 1


@on_two_families
def test_a_supporting_branch_is_steered_too(family: str, adapter: Any, picture: Any) -> None:
    """VAR+RITUAL: both pictures' attention is redistributed, then the rows add up."""
    own = {f"var.{key}": value for key, value in PARAMS["var"].items()}
    both = record(adapter(family), request(picture, "var+ritual", own | {"ritual.beta": 0.8}))
    var = record(adapter(family), request(picture, "var", PARAMS["var"]))
    ritual = record(adapter(family), request(picture, "ritual", {"beta": 0.8}))
    first, alone = both.steps[0], ritual.steps[0]
    assert (first.main - var.steps[0].main).abs().max() < 1e-4
    assert (first.rows["transformed"] - alone.rows["transformed"]).abs().max() > 1e-3
    (turned,) = both.plan.extra
    _, again = said_alone(adapter(family), turned.prompt, 1, steered(both.plan, turned)())
    assert (first.rows["transformed"] - again[0]).abs().max() < 1e-4
    for step, row in zip(both.steps, both.ruled, strict=True):
        kept = ~torch.isneginf(row)
        wanted = step.main + 3.0 * step.rows["transformed"]
        assert torch.allclose(row[kept], wanted[kept], atol=1e-4)


@on_two_families
def test_attention_strategies_stack(family: str, adapter: Any, picture: Any, run: Any) -> None:
    own = {**PARAMS["var"], "tau": 1.0}  # reinforced heads move the sinks
    var = record(adapter(family), request(picture, "var", own))
    params = {f"var.{key}": value for key, value in own.items()}
    both = record(adapter(family), request(picture, "vhr+var", params))
    for other in (run(family, "vhr"), var):
        assert not same_rows(both.ruled[0], other.ruled[0], tolerance=1e-3)
    off = record(adapter(family), request(picture, "vhr+var", params | {"vhr.alpha": 1.0}))
    for mine, theirs in zip(off.ruled, var.ruled, strict=True):
        assert same_rows(mine, theirs)


@pytest.mark.parametrize("joined", ["vcd+sample", "sample+vcd"])
def test_a_part_that_draws_is_heard_in_either_place(
    joined: str, adapter: Any, picture: Any
) -> None:
    off = {"alpha": 0.0, "beta": 0.0}  # so that only the draws depend on the seed
    asked = [request(picture, joined, off, seed=seed) for seed in range(5)]
    assert len({tuple(record(adapter("llava"), one).tokens) for one in asked}) > 1


@pytest.mark.parametrize(
    ("name", "params", "error", "says"),
    [
        ("vdc", {}, Unknown, "Did you mean vcd"),
        ("nonsense-name", {}, Unknown, "Known: .*greedy.*vcd"),
        ("vcd+", {}, Unknown, "''"),
        ("vcd", {"alhpa": 1}, Unknown, "Did you mean alpha"),
        ("vcd", {"vcd.alhpa": 1}, Unknown, "Did you mean alpha"),
        ("vcd+vhr", {"alhpa": 1}, Unknown, "alpha"),
        ("vcd", {"alpha": 9}, BadInput, r"alpha=9.*less than or equal to 5"),
        ("vcd", {"alpha": "much"}, BadInput, "alpha='much'"),
        ("vcd", {"alpha": float("nan")}, BadInput, "alpha=nan"),
        ("vcd", {"noise": 1000}, BadInput, "noise=1000"),
        ("ritual", {"transform": "swirl"}, BadInput, "transform='swirl'"),
        ("vcd+vcd", {}, BadInput, "twice"),
        ("vcd+ritual", {"alpha": 1}, BadInput, r"vcd and ritual.*vcd\.alpha"),
        ("vcd", {"ritual.alpha": 1}, Unknown, "ritual"),
        ("vcd", {"noise": 300, "vcd.noise": 400}, BadInput, "noise.* twice"),
        ("sample+beam", {}, Unsupported, "search"),
        ("var", {}, Unsupported, "not known.*dimensions"),
        ("var", {"tau": 2.0, "dimensions": (1, 99999)}, BadInput, "dimensions"),
        ("var", {"tau": 2.0, "dimensions": (-1,)}, BadInput, "dimensions"),
        ("var", {"tau": 2.0, "dimensions": ()}, BadInput, "dimensions"),
        ("var", {"tau": float("inf"), "dimensions": (1,)}, BadInput, "tau"),
    ],
)
def test_bad_strategies_and_parameters(
    name: str, params: dict[str, Any], error: type[HaluError], says: str, adapter: Any, picture: Any
) -> None:
    with pytest.raises(error) as caught:
        Local(adapter("llava")).generate([request(picture, name, params)])
    assert re.search(says, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 400


def test_parameters_of_several_parts_are_dotted_in_the_answer(adapter: Any, picture: Any) -> None:
    params = {"vcd.alpha": 0.5, "ritual.alpha": 2, "noise": 300}
    (answer,) = Local(adapter("llava")).generate([request(picture, "ritual+vcd", params)])
    found = answer.strategy.params
    assert answer.strategy.name == "ritual+vcd"
    assert (found["vcd.alpha"], found["ritual.alpha"], found["vcd.noise"]) == (0.5, 2, 300)
    again = request(picture, answer.strategy.name, found)
    assert Local(adapter("llava")).generate([again]) == [answer]


@contextmanager
def registered(**plans: Callable[[Any], Plan]) -> Iterator[None]:
    """Strategies with these plans, by name, for a while."""
    for key, make in plans.items():
        own = {"name": key, "kind": "logits", "plan": lambda _, ctx, make=make: make(ctx)}
        strategies.register(key)(type(key, (cls_of("greedy"),), own))
    try:
        yield
    finally:
        for key in plans:
            del strategies._things[key]


def test_two_changes_of_the_scores_follow_one_another(adapter: Any, picture: Any) -> None:
    """None of them is dropped in silence: 3 and 3 are 9."""

    class Louder(AttentionPolicy):
        groups = 2

        def __init__(self, prompt: Any, factor: float) -> None:
            self.image = torch.from_numpy(prompt.layout.is_image()).long()
            self.factor = factor

        def labels(self, layer: int) -> torch.Tensor:
            return self.image

        def score_map(self, layer: int) -> ScoreMap:
            up = torch.tensor([1.0, self.factor])
            return ScoreMap(up, up, torch.zeros(2))

    def plan(factor: float) -> Any:
        return lambda ctx: Plan(ctx.main, policies=(lambda prompt: Louder(prompt, factor),))

    with registered(louder=plan(3.0), loudest=plan(3.0), nine=plan(9.0)):
        both, once, nine = (
            record(adapter("llava"), request(picture, name)).ruled[0]
            for name in ("louder+loudest", "louder", "nine")
        )
    assert same_rows(both, nine, tolerance=1e-3)
    assert not same_rows(both, once, tolerance=1e-3)


def test_a_rule_that_replaces_the_scores_cannot_be_added(adapter: Any, picture: Any) -> None:
    def plan(ctx: Any) -> Plan:
        return Plan(ctx.main, (Branch("blank", ctx.main.prompt),), lambda step: -step.main)

    with registered(replacing=plan):
        assert Local(adapter("llava")).generate([request(picture, "replacing")])
        with pytest.raises(Unsupported, match="replaces the scores"):
            Local(adapter("llava")).generate([request(picture, "vcd+replacing")])
