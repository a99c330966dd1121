"""A model on a server: what is sent, what is read, and mistakes in one line."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from judging import Bench, serving

import halu
from halu.errors import BadInput, Failed, Unsupported
from halu.remote import KEY
from halu.vlm import VLM, asking

ALL = {"alpha": 0.5, "beta": 0.1}


class Server(Bench):
    """Answers with usage and, if it is a halu server, with the strategy that ran."""

    knows_halu = True
    runs: str | None = None
    findings: tuple[dict[str, Any], ...] = ()

    def answer(self, sent: dict[str, Any], key: str | None) -> tuple[int, bytes]:
        status, body = super().answer(sent, key)
        if status != 200:
            return status, body
        found = json.loads(body)
        found["usage"] = {"prompt_tokens": 70, "completion_tokens": 2, "total_tokens": 72}
        found["choices"][0]["finish_reason"] = "length"
        if self.knows_halu and "halu" in sent:
            found["halu"] = {
                "strategy": {
                    "name": self.runs or sent["halu"]["strategy"],
                    "params": {"alpha": 0.5, "beta": 0.1},
                },
                "forwards": 4,
                **({"findings": self.findings} if self.findings else {}),
                "image_tokens": 64,
            }
        return 200, streamed(found) if sent.get("stream") else json.dumps(found).encode()


def streamed(found: dict[str, Any]) -> bytes:
    """A whole completion as a stream: what was said and ran, then findings in an event of their
    own, as a halu server sends them.
    """
    (choice,) = found["choices"]
    told = dict(found.get("halu", {}))
    findings = told.pop("findings", None)
    chunks = [{**found, "choices": [{**choice, "delta": choice["message"]}]}]
    if told:
        chunks[0]["halu"] = {"index": 0, **told}
    if findings is not None:
        chunks.append({**found, "choices": [], "halu": {"index": 0, "findings": findings}})
    return b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in (*chunks, "[DONE]")).replace(
        b'"[DONE]"', b"[DONE]"
    )


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server(lambda prompt: f"I heard: {prompt}")) as running:
        assert isinstance(running, Server)
        yield running


@pytest.fixture
def vlm(server: Server) -> VLM:
    return halu.load("some-model", backend=server.url)


def test_a_plain_question_says_nothing_of_halu(vlm: VLM, server: Server, picture: Any) -> None:
    (answer,) = vlm.generate([asking(picture(), "Is there a dog?", max_new_tokens=5, seed=7)])
    assert answer.text == "I heard: Is there a dog?"
    (sent,) = server.seen
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["seed"]) == (
        "some-model",
        5,
        0.0,
        7,
    )
    assert "halu" not in sent
    image, text = sent["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "Is there a dog?"}
    assert (answer.strategy.name, answer.finish_reason) == ("greedy", "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (70, 2)
    assert answer.usage.forwards == 0  # a server that does not tell


def test_a_strategy_is_asked_for_and_read_back(vlm: VLM, server: Server) -> None:
    asked = asking(None, "hello", strategy="vcd", params={"alpha": 0.5})
    (answer,) = vlm.generate([asked])
    assert server.seen[0]["halu"] == {"strategy": "vcd", "params": {"alpha": 0.5}}
    assert answer.strategy.name == "vcd"
    assert answer.strategy.params == {"alpha": 0.5, "beta": 0.1}
    assert (answer.usage.forwards, answer.usage.image_tokens) == (4, 64)


def test_a_server_that_ignores_strategies_is_found_out(vlm: VLM, server: Server) -> None:
    server.knows_halu = False
    with pytest.raises(Unsupported, match="ignored the strategy 'vcd'"):
        vlm.generate([asking(None, "hello", strategy="vcd")])


def test_a_server_that_runs_another_strategy_is_found_out(vlm: VLM, server: Server) -> None:
    server.runs = "greedy"
    with pytest.raises(Unsupported, match="ignored the strategy 'vcd' and ran 'greedy'"):
        vlm.generate([asking(None, "hello", strategy="vcd")])
    server.runs = "ritual+vcd"
    (answer,) = vlm.generate([asking(None, "hello", strategy="vcd+ritual")])
    assert answer.strategy.name == "ritual+vcd"


def test_plain_sampling_needs_no_halu_server(vlm: VLM, server: Server) -> None:
    (answer,) = vlm.generate([asking(None, "hello", strategy="sample")])
    assert answer.strategy.name == "sample"
    assert server.seen[0]["temperature"] == 1.0
    assert "halu" not in server.seen[0]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"evidence": "mass"}, "evidence"),
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
)
def test_what_an_answer_from_afar_cannot_carry_is_refused(
    vlm: VLM, server: Server, options: dict[str, Any], param: str
) -> None:
    asked = asking(None, "hello", **options)
    for ask in (lambda: vlm.generate([asked]), lambda: list(vlm.run(asked))):
        with pytest.raises(Unsupported, match=param) as raised:
            ask()
        assert raised.value.param == param
    assert not server.seen


@pytest.mark.parametrize("strategy", [None, "vcd"])
def test_consistency_asks_the_server_again(
    strategy: str | None, vlm: VLM, server: Server, picture: Any
) -> None:
    said = iter(["A dog and two cups.", "A dog.", "Two cups.", "A cup."])
    server.reply = lambda prompt: next(said)
    own = {"consistency": {"samples": 3, "threshold": 0.0, "temperature": 0.7}}
    options = {"strategy": strategy, "seed": 7, "max_new_tokens": 9}
    answer = vlm.ask(picture(), "What is there?", detectors=own, **options)
    first, *again = server.seen
    assert (first["seed"], "halu" in first, len(again)) == (7, strategy is not None, 3)
    assert [one["seed"] for one in again] == [8, 9, 10]
    for one in again:
        assert (one["temperature"], one["max_tokens"]) == (0.7, 9)
        assert one["messages"] == first["messages"]
        assert "halu" not in one
        assert not one.get("stream")
    text = "A dog and two cups."
    assert answer.text == text
    found = {text[one.start : one.stop]: one.score for one in answer.findings}
    assert found == {
        "dog": pytest.approx(2 / 3),
        "two": pytest.approx(2 / 3),
        "cups": pytest.approx(1 / 3),
    }
    assert answer.findings[0].reason.startswith("2 of 3 other answers")


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret")
    halu.load("m", backend=server.url).generate([asking(None, "hello")])
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (400, BadInput, r"refused \(status 400\)"),
        (404, BadInput, r"refused \(status 404\)"),
        (401, Failed, "read from HALU_API_KEY"),
    ],
)
def test_refusals(vlm: VLM, server: Server, status: int, kind: type[Exception], said: str) -> None:
    server.statuses = [status]
    with pytest.raises(kind, match=said):
        vlm.generate([asking(None, "hello")])


def test_a_busy_server_is_asked_again(vlm: VLM, server: Server) -> None:
    server.statuses = [503, 429]
    assert vlm.generate([asking(None, "hello")])[0].text == "I heard: hello"
    assert len(server.seen) == 3


def test_nobody_there() -> None:
    vlm = halu.load("m", backend="http://127.0.0.1:9/v1")
    vlm.endpoint._client = vlm.endpoint._client.with_options(max_retries=0)
    with pytest.raises(Failed, match="does not answer"):
        vlm.generate([asking(None, "hello")])


@pytest.mark.parametrize("strategy", ["greedy", "vcd"])
def test_through_our_own_server_as_in_this_process(served: Any, scene: Any, strategy: str) -> None:
    question = asking(scene, "Is there a dog in the image?", strategy=strategy, max_new_tokens=8)
    far, near = (halu.load("tiny-llava", backend=where) for where in (served.url, "hf"))
    (there,), (here,) = far.generate([question]), near.generate([question])
    assert there.text == here.text
    assert there.strategy == here.strategy
    assert there.usage == here.usage
    *parts, last = far.run(question)
    assert "".join(event.text for event in parts) == here.text
    assert last.answer is not None
    assert last.answer.strategy == here.strategy
    assert last.answer.usage == here.usage


def test_what_a_strategy_noted_comes_along(vlm: VLM, server: Server, picture: Any) -> None:
    noted = {"start": 0, "stop": 1, "score": 0.9, "reason": "not there", "detector": "woodpecker"}
    server.findings = (noted,)
    request = asking(picture(), "Describe it.", strategy="vcd")
    streamed = list(vlm.run(request))[-1].answer
    for answer in (streamed, vlm.generate([request])[0]):
        assert answer is not None
        assert answer.strategy.params == ALL
        (found,) = answer.findings
        assert (found.start, found.stop, found.reason) == (0, 1, "not there")


@pytest.mark.parametrize("odd", [{"start": 1}, 7])
def test_findings_that_are_none_are_one_clear_error(
    odd: Any, vlm: VLM, server: Server, picture: Any
) -> None:
    server.findings = (odd,)
    with pytest.raises(Failed, match="something else than a chat completion"):
        vlm.generate([asking(picture(), "Describe it.", strategy="vcd")])
