"""Nothing that a user sends ends the engine, and who is refused is told why."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from asked_texts import TEXTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from vllm_requests import compared, request

from halu.attention.policy import AttentionPolicy
from halu.errors import BadInput, Failed, HaluError, Unavailable, Unsupported
from halu.search import Choice, Pick
from halu.strategy import Context, Paper, Plan, Step, Strategy, strategies
from halu.types import Sampling
from halu.vllm import load_served
from halu.vllm.asked import KEY, Asked
from halu.vllm.model import params
from halu.vllm.part import FAILED
from halu.vllm.submission import Submission, engine_input

NO_PAPER = Paper("none", "", "")


POLICY = (
    "read",
    "watch",
    "watched",
    "looks",
    "look",
    "heard",
    "borrowed_heads",
    "labels",
    "score_map",
    "key_map",
    "epilogue",
    "weigh",
    "head_scale",
)
"""Where a policy is asked something in a step."""
PLACES = (*POLICY, "making", "rule", "shape", "search", "token")


class Broken(Strategy):
    """Fails where its name says."""

    kind = "logits"
    paper = NO_PAPER
    where = ""

    def plan(self, ctx: Context) -> Plan:
        def rule(step: Step) -> Any:
            if self.where == "rule" and step.index == 2:
                raise ZeroDivisionError("in the rule")
            return step.main[:7] if self.where == "shape" else step.main

        def make(prompt: Any) -> AttentionPolicy:
            if self.where == "making":
                raise ZeroDivisionError("in the making")
            return Failing(self.where, prompt.layout.length)

        return Plan(ctx.main, rule=rule, policies=(make,), search=Astray(where=self.where))


@dataclass(slots=True)
class Astray(Pick):
    """Raises, or chooses a token that there is not."""

    where: str = ""

    def start(self, *args: Any) -> "Astray":
        return self

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Any = ()) -> list[Choice]:
        if self.where == "search":
            raise ZeroDivisionError("in the search")
        return [Choice(0, 10**6 if self.where == "token" else int(rows.argmax()))]


class Failing(AttentionPolicy):
    """Asks for everything, changes nothing, and raises where it is told to."""

    groups = 2
    keyed = True
    reads = "all"

    def __init__(self, where: str, length: int) -> None:
        self.where = where
        self.length = length

    def __getattribute__(self, name: str) -> Any:
        if name in POLICY and object.__getattribute__(self, "where") == name:
            raise ZeroDivisionError(f"in the {name}")
        return super().__getattribute__(name)

    def watch(self, layer: int) -> Tensor:
        return torch.tensor([0])

    def looks(self, layer: int) -> bool:
        return True

    def labels(self, layer: int) -> Tensor:
        return torch.zeros(self.length, dtype=torch.int64)

    def epilogue(self, layer: int) -> Any:
        return self.weigh

    def weigh(self, mass: Tensor) -> None:
        """Leaves the masses alone."""


@pytest.fixture(autouse=True, scope="module")
def broken() -> Iterator[None]:
    """Strategies that raise, for as long as this file's tests run."""
    strategies.names()  # all others are there first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies, "_things", dict(strategies._things))
        for place in PLACES:
            made = type(f"Broken{place}", (Broken,), {"name": f"broken-{place}", "where": place})
            strategies.register(f"broken-{place}")(made)
        yield


def test_what_a_strategy_raises_ends_its_request_alone(
    serve: Any, stock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its words are for the log, not for whoever asked."""
    vlm = serve("tiny-llava")
    good = [request(name, 1, tokens=5) for name in ("vcd", "var", "greedy")]
    expected = [answer.text for answer in stock("tiny-llava").generate(good)]
    batch = vlm.batch()
    runs = batch.add([*good, *(request(f"broken-{place}", tokens=5) for place in PLACES)])
    told: dict[Any, Any] = {}
    until = time.monotonic() + 120
    while len(told) < len(runs):
        assert time.monotonic() < until
        for run, event in batch.step():
            if isinstance(event, Exception):
                told[run] = event
            elif event.answer is not None:
                told[run] = event.answer.text
    assert [told[run] for run in runs[: len(good)]] == expected
    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    for place, run in zip(PLACES, runs[len(good) :], strict=True):
        assert isinstance(told[run], Failed), (place, told[run])
        assert str(told[run]) == FAILED
        word = {"shape": "gave [7] scores of", "token": "chose token 1000000"}.get(
            place, f"in the {place}"
        )
        assert any(word in line for line in logged), place
    assert not vlm.engine.has_unfinished_requests()


@pytest.mark.parametrize(
    ("options", "kind", "word"),
    [
        ({"strategy": "vcdd"}, BadInput, "vcdd"),
        ({"strategy": "vcd", "tokens": 32000}, BadInput, "max_model_len"),
        ({"strategy": "vcd", "evidence": "mass"}, Unsupported, "evidence"),
    ],
)
def test_mistakes_are_told_before_the_engine_hears(
    serve: Any, options: dict[str, Any], kind: type[HaluError], word: str
) -> None:
    vlm = serve("tiny-llava")
    with pytest.raises(HaluError, match=word):
        vlm.generate([request(**options)])
    assert not vlm.engine.has_unfinished_requests()


def no_words(asides: Any) -> None:
    raise AssertionError("nothing is said beside decoding")


def outcome(vlm: Any, asked: list[tuple[Any, str]]) -> list[str]:
    """What raw engine requests come to: the reason that they end by."""
    one = Submission(vlm.adapter, request("vcd"), no_words, vlm.context)
    sent = one.sent()[0]
    for number, (text, salt) in enumerate(asked):
        own = params(Sampling(max_new_tokens=3), vlm.adapter.ends)
        own.extra_args = {KEY: text}
        prompt = {**engine_input(vlm.processor, vlm.adapter, sent), "cache_salt": salt or None}
        vlm.engine.add_request(f"raw-{number}", prompt, own)
    ends: dict[str, str] = {}
    until = time.monotonic() + 60
    while vlm.engine.has_unfinished_requests():
        assert time.monotonic() < until
        for found in vlm.engine.step():
            if found.finished:
                ends[found.request_id] = str(found.outputs[0].stop_reason)
    return [ends[f"raw-{number}"] for number in range(len(asked))]


MANY = ("main", *"abcdefghijklmno")
TWO = {"branches": ("main", "ruined"), "group": "g"}


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ("{", "JSON"),
        (7, "JSON string"),
        (Asked(strategy="nobody").text(), "nobody"),
        (Asked(strategy="vcd", params={"alpha": "x"}).text(), "alpha"),
        (Asked(strategy="vcd").text(), "branches main, ruined"),
        (Asked(strategy="beam", sampling=Sampling()).text(), "several hypotheses"),
        (Asked(strategy="var").text(), "steers"),
        (Asked(strategy="var", steers=True).text(), "cache_salt"),
        (Asked(strategy="vcd", branches=MANY, group="g").text(), "16 branches need as many slots"),
        ('{"strategy": "vcd", "sizes": [[16000, 16000]]}', "pixels together"),
    ],
)
def test_raw_requests_that_cannot_run(serve: Any, stock: Any, asked: Any, word: str) -> None:
    vlm = serve("tiny-llava", num_gpu_blocks_override=14, max_num_seqs=5, max_model_len=256)
    assert word in outcome(vlm, [(asked, "")])[0]
    assert compared(vlm, stock("tiny-llava"), [request("vcd")]) == []


def test_whatever_is_sent_ends_nothing_but_itself(serve: Any, stock: Any) -> None:
    vlm = serve("tiny-llava")
    known = vlm.engine.engine_core.engine_core.scheduler.halu_groups
    patience, known.patience = known.patience, 0.0

    @given(st.lists(TEXTS, min_size=8, max_size=8))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def sent(texts: list[Any]) -> None:
        assert len(outcome(vlm, [(text, "s") for text in texts])) == len(texts)

    try:
        sent()
    finally:
        known.patience = patience
    assert compared(vlm, stock("tiny-llava"), [request("vcd"), request("var")]) == []


def test_a_partner_that_never_comes(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = serve("tiny-llava")
    scheduler = vlm.engine.engine_core.engine_core.scheduler
    monkeypatch.setattr(scheduler.halu_groups, "patience", 0.2)
    (why,) = outcome(vlm, [(Asked(strategy="vcd", sampling=Sampling(), **TWO).text(), "")])
    assert "have not come" in why


def test_a_partner_that_leaves(serve: Any, stock: Any) -> None:
    vlm = serve("tiny-llava")
    one = Submission(vlm.adapter, request("vcd"), no_words, vlm.context)
    main, other = one.sent()
    vlm.submit([main, other], Sampling(max_new_tokens=50))
    for _ in range(3):
        vlm.step()
    vlm.drop([other.name])
    for _ in range(3):
        vlm.step()
    assert "has ended" in str(vlm.take(main.name)[-1].stop_reason)
    vlm.drop([main.name])
    assert compared(vlm, stock("tiny-llava"), [request("vcd")]) == []


def test_closing_a_stream_frees_everything(serve: Any) -> None:
    vlm = serve("tiny-llava")
    stream = vlm.run(request("vcd", tokens=100))
    next(stream)
    stream.close()
    vlm.generate([request("greedy", tokens=1)])
    assert not vlm.engine.has_unfinished_requests()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("enforce_eager", False, "--enforce-eager"),
        ("kv_cache_dtype", "fp8", "--kv-cache-dtype"),
    ],
)
def test_settings_that_are_not_exact(serve: Any, option: str, value: Any, word: str) -> None:
    with pytest.raises(HaluError, match=word):
        serve("tiny-llava", **{option: value})


def test_options_that_vllm_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="runs on cpu, not on cuda:1"):
        load_served("tiny-llava", device="cuda:1")
    monkeypatch.setenv("HALU_VLLM", "[]")
    with pytest.raises(BadInput, match="HALU_VLLM"):
        load_served("tiny-llava")
    monkeypatch.setenv("HALU_VLLM", '{"no_such_option": 1}')
    with pytest.raises(Unavailable, match="no_such_option"):
        load_served("tiny-llava")
