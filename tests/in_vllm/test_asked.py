"""What a request carries into vLLM, and who waits for whom: needs no vLLM."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from asked_texts import TEXTS
from hypothesis import given, settings

import halu
from halu.adapters import bare_adapter
from halu.errors import BadInput, HaluError, Unavailable, Unsupported
from halu.models import builtin
from halu.search import Pick
from halu.strategy import Branch, Plan
from halu.types import Sampling
from halu.vllm import load_served
from halu.vllm.asked import KEY, Asked, read
from halu.vllm.checking import check
from halu.vllm.choosing import Newest, choose
from halu.vllm.part import Part


def test_what_is_written_is_read() -> None:
    asked = Asked(
        strategy="vcd",
        params={"alpha": 0.5},
        sampling=Sampling(seed=3, stop=("a",)),
        branch="ruined",
        branches=("main", "ruined"),
        group="g",
        steers=True,
        sizes=((3, 4),),
    )
    assert read({KEY: asked.text()}) == asked
    assert read({KEY: Asked(sizes=((4000, 4000), (4000, 1000))).text()}) is not None
    assert read({}) is None
    assert read(None) is None


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"strategy": "vcd"}, "JSON string"),
        ("{", "JSON"),
        ("[]", "object"),
        ('{"strateg": "vcd"}', "strateg"),
        ('{"sampling": {"temperature": -1}}', "temperature"),
        ('{"branch": "ruined"}', "do not fit"),
        ('{"branches": ["main", "ruined"]}', "do not fit"),
        ('{"group": "g"}', "do not fit"),
        ('{"branches": []}', "branches"),
        ('{"sizes": [[0, 5]]}', "sizes"),
        (json.dumps({"sizes": [[10**9, 5]]}), "sizes"),
        (json.dumps({"sizes": [[16384, 16384]]}), "20,000,000 pixels together"),
        (json.dumps({"sizes": [[4000, 4000], [4000, 1001]]}), "20,000,000 pixels together"),
    ],
)
def test_what_cannot_be_read_is_refused(value: Any, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        read({KEY: value})


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_taken_or_refused(text: Any) -> None:
    with suppress(HaluError):
        assert read({KEY: text}) is None or json.loads(text) is not None
        check(Sent({KEY: text}))


class Sent:
    """An engine request's parameters, as far as they are looked at."""

    def __init__(self, extra_args: Any, n: int = 1, grammar: Any = None) -> None:
        self.extra_args = extra_args
        self.n = n
        self.structured_outputs = grammar


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        (Sent({KEY: Asked(strategy="nobody").text()}), "nobody"),
        (Sent({KEY: Asked(strategy="vcd", params={"alpha": "x"}).text()}), "alpha"),
        (Sent({KEY: Asked(strategy="beam").text()}), "takes tokens back"),
        (Sent({KEY: Asked(strategy="vcd").text()}, n=2), "one answer"),
        (Sent({KEY: Asked(strategy="vcd").text()}, grammar=object()), "grammars"),
    ],
)
def test_what_no_prompt_could_make_right_is_refused(sent: Sent, word: str) -> None:
    with pytest.raises(HaluError, match=word):
        check(sent)
    check(Sent({KEY: Asked(strategy="vcd").text()}))
    check(Sent({}, n=2))


@pytest.mark.parametrize(("count", "ids"), [(-1, [3, 1, 0]), (9, [3, 1, 0]), (2, [3, 1]), (0, [])])
def test_log_probabilities_of_as_many_tokens_as_were_asked_for(count: int, ids: list[int]) -> None:
    """In vLLM -1 means all; a token that the rule has ruled out is in no list."""
    one = Part(Asked(sampling=Sampling()), 1, logprobs=count)
    one.plan = Plan(Branch("main", cast(Any, None)))
    one.steering = cast(Any, SimpleNamespace(policies=(), tapped={}, heard=len, failure=None))
    one.search = Pick().start(Sampling(), frozenset(), [1])
    row = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    outcome = choose(row, [Newest("one", 0, one)], lambda streams, taps: {})
    assert not outcome.failed
    likely, values, rank = outcome.likely["one"]
    assert likely == [3, *ids]
    assert len(values) == len(likely)
    assert rank == 1


def test_an_adapter_without_weights_makes_the_same_prompts(picture: Any) -> None:
    from halu.vlm import asking

    for name in ("tiny-llava", "tiny-qwen"):
        whole, bare = halu.load(name).adapter, bare_adapter(name)
        messages = asking(picture(), "What is this?").messages
        one, other = whole.encode(messages), bare.encode(messages)
        assert one.ids == other.ids
        assert one.layout == other.layout
        assert one.positions.equal(other.positions)
        assert whole.facts == bare.facts
        assert whole.ends == bare.ends


def test_a_folder_may_say_nothing_of_how_to_generate(tmp_path: Path) -> None:
    folder = shutil.copytree(builtin()["tiny-llava"], tmp_path / "model")
    (folder / "generation_config.json").unlink()
    assert bare_adapter(str(folder)).ends


def test_mistakes_at_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="not installed"):
        load_served("tiny-llava")
    with pytest.raises(Unsupported, match="vllm"):
        halu.load("tiny-llava", backend="onnx")
    assert issubclass(Unavailable, HaluError)
