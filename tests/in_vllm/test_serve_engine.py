"""`halu serve --backend vllm`: the service's routes over an engine of vLLM's."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import signature
from typing import Any

import httpx2
import openai
import pytest
from conftest import ENGINE
from fastapi import FastAPI
from live import Live, chat, live, until
from vllm_requests import picture

from halu.errors import Unavailable
from halu.service.deployment import _load
from halu.service.settings import read_settings
from halu.vlm import asking

MIXED = ("greedy", "vcd", "vhr", "ritual", "var", "vhr+ritual", "m3id", "dola", "pai", "code")
QUESTION = "What is this? Tell me everything."


@pytest.fixture(scope="module")
def vlm() -> Iterator[Any]:
    """The model as the server loads it; closed once for all servers."""
    settings = read_settings({"backend": "vllm", "vllm": ENGINE})
    found = _load(settings, "tiny-llava", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, "close", lambda: None)
        yield found
    found.close()


@pytest.fixture(scope="module")
def start(vlm: Any) -> Callable[..., Any]:
    """Starts servers with that model."""
    return partial(live, lambda source, device: vlm, backend="vllm", max_new_tokens=128)


@pytest.fixture(scope="module")
def server(start: Any) -> Iterator[Live]:
    with start() as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def body(strategy: str, number: int, model: str = "tiny-llava", **more: Any) -> dict[str, Any]:
    """A chat request in the client's terms."""
    sent = chat(picture(number), QUESTION, max_tokens=16, **more)
    return {**sent, "model": f"{model}@{strategy}"}


def wanted(stock: Any, strategy: str, number: int, model: str = "tiny-llava") -> str:
    """What transformers says to the same request."""
    hf = stock(model)
    answer = hf.generate([asking(picture(number), QUESTION, strategy=strategy, max_new_tokens=16)])
    text: str = answer[0].text
    return text


def asked_at_once(url: str, model: str) -> list[Any]:
    """What a server replies to concurrent clients, each with a strategy of its own."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def ask(number: int) -> Any:
        return client.chat.completions.create(**body(MIXED[number], number, model))

    with ThreadPoolExecutor(len(MIXED)) as together:
        return list(together.map(ask, range(len(MIXED))))


def test_concurrent_strategies_answer_as_under_transformers(server: Live, stock: Any) -> None:
    replies = asked_at_once(server.url, "tiny-llava")
    for number, (strategy, reply) in enumerate(zip(MIXED, replies, strict=True)):
        assert reply.choices[0].message.content == wanted(stock, strategy, number), strategy
        assert reply.halu["strategy"]["name"] == strategy
        assert reply.usage.completion_tokens > 0


def test_so_do_they_with_the_other_model(
    serve: Any, stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = serve("tiny-qwen")
    monkeypatch.setattr(vlm, "close", lambda: None)
    offered: Any = {"backend": "vllm", "models": ["tiny-qwen"], "max_new_tokens": 128}
    with live(lambda source, device: vlm, **offered) as own:
        replies = asked_at_once(own.url, "tiny-qwen")
    for number, (strategy, reply) in enumerate(zip(MIXED, replies, strict=True)):
        told = reply.choices[0].message.content
        assert told == wanted(stock, strategy, number, "tiny-qwen"), strategy


def test_a_stream_says_the_same_piece_by_piece(client: Any, stock: Any) -> None:
    pieces, usage = [], None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in client.chat.completions.create(**body("vcd", 1, **options)):
        pieces += [one.delta.content for one in chunk.choices if one.delta.content]
        usage = chunk.usage or usage
    assert len(pieces) > 2
    assert "".join(pieces) == wanted(stock, "vcd", 1)
    assert usage.completion_tokens > 2


def test_logprobs_are_those_of_the_rule(client: Any, stock: Any) -> None:
    reply = client.chat.completions.create(**body("vcd", 1, logprobs=True, top_logprobs=2))
    options = {"strategy": "vcd", "max_new_tokens": 16, "logprobs": 2}
    (known,) = stock("tiny-llava").generate([asking(picture(1), QUESTION, **options)])
    told = reply.choices[0].logprobs.content
    assert [one.token for one in told] == [token.spelling for token in known.tokens]
    wanted = [token.logprob for token in known.tokens]
    assert [one.logprob for one in told] == pytest.approx(wanted, abs=1e-3)
    tops = [[other.text for other in token.top or ()] for token in known.tokens]
    assert [[other.token for other in one.top_logprobs] for one in told] == tops


def test_one_token_can_be_streamed(client: Any) -> None:
    sent = {**body("vcd", 1), "max_tokens": 1, "stream": True}
    *_, last = client.chat.completions.create(**sent)
    assert last.choices[0].finish_reason == "length"


def unfinished(server: Live) -> bool:
    (worker,) = server.site.workers.values()
    vlm: Any = worker.shelf.loaded["tiny-llava"]
    return bool(vlm.engine.has_unfinished_requests())


def test_a_client_that_leaves_frees_the_engine(server: Live) -> None:
    sent = {**body("vcd", 0), "max_tokens": 100, "stream": True, "stop": ["never said"]}
    with httpx2.stream(
        "POST", f"{server.url}/v1/chat/completions", json=sent, trust_env=False
    ) as stream:
        next(stream.iter_lines())
    until(lambda: not unfinished(server))


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"halu": {"strategy": "vcdd"}, "model": "tiny-llava"}, 400, "vcdd"),
        ({"halu": {"params": {"alpha": "x"}}}, 400, "alpha"),
        ({"halu": {"strategy": "beam"}, "model": "tiny-llava"}, 400, "several hypotheses"),
        ({"halu": {"evidence": True}}, 400, "evidence"),
        ({"halu": {"detectors": ["uncertainty"]}}, 400, "how each token was chosen"),
        ({"max_tokens": 128, "messages": [{"role": "user", "content": "a " * 450}]}, 400, "512"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    server: Live, change: dict[str, Any], status: int, word: str
) -> None:
    reply = server.post("/v1/chat/completions", **{**body("vcd", 0), **change})
    assert reply.status_code == status, reply.text
    assert word in reply.json()["error"]["message"]


def test_a_long_prompt_is_refused_as_elsewhere(server: Live) -> None:
    sent = {**body("vcd", 0), "max_tokens": 128}
    sent["messages"][0]["content"][1]["text"] = "a dog " * 230
    error = server.post("/v1/chat/completions", **sent).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "512" in error["message"]


def test_a_detector_may_ask_the_engine_again(server: Live) -> None:
    reply = server.post(
        "/v1/chat/completions", **body("greedy", 0, halu={"detectors": ["consistency"]})
    )
    assert reply.status_code == 200, reply.text
    assert isinstance(reply.json()["halu"]["findings"], list)


def test_metrics_name_the_backend(server: Live) -> None:
    server.post("/v1/chat/completions", **body("vcd", 0))
    page = server.get("/metrics").text
    labels = '{backend="vllm",finished_reason="length",model="tiny-llava",strategy="vcd"}'
    assert f"halu_request_success_total{labels}" in page
    extra = [line for line in page.splitlines() if line.startswith("halu_extra_forward_passes")]
    assert any('strategy="vcd"' in line and not line.endswith(" 0.0") for line in extra)


def test_a_running_answer_ends_before_the_server_does(start: Any) -> None:
    with start() as own:
        sent = {**body("vcd", 0), "max_tokens": 60}
        replies: list[Any] = []
        asking = threading.Thread(
            target=lambda: replies.append(own.post("/v1/chat/completions", **sent))
        )
        asking.start()
        until(
            lambda: any(lane.tasks for w in own.site.workers.values() for lane in w.lanes.values())
        )
        own.server.handle_exit(signal.SIGTERM, None)
        assert own.get("/ready").status_code == 503
        asking.join()
        assert replies[0].status_code == 200
        assert json.loads(replies[0].text)["usage"]["completion_tokens"] > 0


def test_too_many_branches_are_refused(start: Any) -> None:
    with start(max_rows_per_request=2) as own:
        sent = body("vcd+ritual", 0)
        for stream in (False, True):
            reply = own.post("/v1/chat/completions", **sent, stream=stream)
            assert reply.status_code == 400
            assert "3 rows" in reply.json()["error"]["message"]
        assert own.post("/v1/chat/completions", **body("vcd", 0)).status_code == 200


@pytest.mark.skipif("telemetry" in signature(FastAPI).parameters, reason="FastAPI has telemetry")
def test_telemetry_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="telemetry"), live(telemetry=True):
        pass


def test_without_vllm_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="not installed"), live(backend="vllm"):
        pass
