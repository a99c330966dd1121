"""A stock vLLM server with halu's plugins: what a user starts, and what its clients may ask."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from live import chat
from vllm_requests import picture

from halu.adapters import folder_of
from halu.vllm import DEFAULTS
from halu.vllm.engine import OPTIONS
from halu.vlm import asking

pytestmark = pytest.mark.timeout(900)

MIXED = ("greedy", "vcd", "vhr", "ritual", "var", "vhr+ritual", "m3id", "dola", "pai", "code")
QUESTION = "What is this? Tell me everything."
PATIENCE = 600.0
SETTINGS = {"patience_seconds": 2, "service": {"max_new_tokens": 128}}
ARGUMENTS = {
    "worker-cls": OPTIONS["worker_cls"],
    "scheduler-cls": OPTIONS["scheduler_cls"],
    "logits-processors": "halu.vllm.admission:Admission",
    "additional-config": json.dumps({"halu": SETTINGS}),
    "dtype": "float32",
    "generation-config": "vllm",
    "max-model-len": "512",
    "max-num-seqs": "16",
    "block-size": "32",
}
FLAGS = ("--enforce-eager", "--no-async-scheduling", "--no-mm-device-do-normalize")


@contextmanager
def started(model: str, log: Path) -> Iterator[str]:
    """The address of a server in a process of its own, as a user starts it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", folder_of(model), "--served-model-name", model]
    command += [word for name, value in ARGUMENTS.items() for word in (f"--{name}", value)]
    own = {"VLLM_PLUGINS": "halu,halu_endpoint", "VLLM_CPU_KVCACHE_SPACE": "1"}
    usual = {key: value for key, value in DEFAULTS.items() if "MULTIPROCESSING" not in key}
    environment = {**usual, **os.environ, **own}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    with log.open("wb") as file:
        server = subprocess.Popen([*command, *FLAGS], env=environment, stdout=file, stderr=file)
    try:
        until_it_answers(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def url(tmp_path_factory: Any) -> Iterator[str]:
    with started("tiny-llava", tmp_path_factory.mktemp("server") / "log") as found:
        yield found


def until_it_answers(url: str, server: Any, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-4000:])


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return client_of(url)


def body(number: int, **more: Any) -> dict[str, Any]:
    return chat(picture(number), QUESTION, max_tokens=16, temperature=0, **more)


def post(url: str, **sent: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json=sent, timeout=PATIENCE, trust_env=False)


def wanted(stock: Any, strategy: str, number: int, model: str = "tiny-llava") -> str:
    """What transformers says to the same request."""
    one = asking(picture(number), QUESTION, strategy=strategy, max_new_tokens=16)
    text: str = stock(model).generate([one])[0].text
    return text


def xargs(**fields: Any) -> dict[str, Any]:
    return {"vllm_xargs": {"halu": json.dumps(fields)}}


def test_every_way_to_name_a_strategy(client: Any, stock: Any) -> None:
    ways = [
        {"model": "tiny-llava@vcd"},
        {"extra_body": xargs(strategy="vcd")},
        {"extra_body": {"halu": {"strategy": "vcd"}}},
        {"extra_headers": {"x-halu-strategy": "vcd"}},
    ]
    for way in ways:
        reply = client.chat.completions.create(**{**body(0), **way})
        assert reply.choices[0].message.content == wanted(stock, "vcd", 0), way
        assert reply.halu["strategy"]["name"] == "vcd"


def check_concurrent_clients(client: Any, stock: Any, model: str) -> None:
    """Half of them name a strategy and get what transformers says, half are vLLM's own affair."""

    def ask(number: int) -> Any:
        plain = {**body(number // 2), "model": model}
        sent = {**plain, "model": f"{model}@{MIXED[number // 2]}"}
        return client.chat.completions.create(**(sent if number % 2 else plain))

    with ThreadPoolExecutor(2 * len(MIXED)) as together:
        replies = list(together.map(ask, range(2 * len(MIXED))))
    for number, strategy in enumerate(MIXED):
        steered = replies[2 * number + 1].choices[0].message.content
        assert steered == wanted(stock, strategy, number, model), strategy
        assert not hasattr(replies[2 * number], "halu")  # vLLM's own answer
        assert replies[2 * number].usage.completion_tokens > 0


def test_concurrent_clients_get_what_transformers_says(client: Any, stock: Any) -> None:
    check_concurrent_clients(client, stock, "tiny-llava")


def test_so_do_those_of_the_other_model(stock: Any, tmp_path: Path) -> None:
    with started("tiny-qwen", tmp_path / "log") as other:
        check_concurrent_clients(client_of(other), stock, "tiny-qwen")


def test_a_plain_chat_is_vllms_own(client: Any, url: str) -> None:
    sent = {**body(0), "logprobs": True}
    assert client.chat.completions.create(**sent).choices[0].logprobs is not None
    pieces = list(client.chat.completions.create(**body(0), stream=True))
    assert pieces[-1].choices[0].finish_reason == "length"
    reply = httpx2.post(f"{url}/v1/chat/completions", content=b"{", trust_env=False)
    assert reply.status_code in (400, 415, 422)


def test_what_is_not_said_to_be_json_is_refused(url: str) -> None:
    """A page in a browser sends `text/plain` to any server without asking."""
    sent = json.dumps({**body(0), "model": "tiny-llava@vcd"})
    where, kind = f"{url}/v1/chat/completions", {"content-type": "text/plain"}
    reply = httpx2.post(where, content=sent, headers=kind, trust_env=False)
    assert reply.status_code == 400
    assert "application/json" in reply.json()["error"]["message"]


def test_a_stream_says_the_same_piece_by_piece(client: Any, stock: Any) -> None:
    sent = {**body(1), "model": "tiny-llava@vcd", "stream": True}
    pieces = [
        one.delta.content or ""
        for chunk in client.chat.completions.create(**sent)
        for one in chunk.choices
    ]
    assert len([piece for piece in pieces if piece]) > 2
    assert "".join(pieces) == wanted(stock, "vcd", 1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": "tiny-llava@vcdd"}, "vcdd"),
        (xargs(strategy="vcdd"), "vcdd"),
        (xargs(strategy="vcd", params={"alpha": "x"}), "alpha"),
        (xargs(strategy="vcd", params={"alfa": 1}), "alfa"),
        (xargs(strategi="vcd"), "strategi"),
        ({"vllm_xargs": {"halu": "{"}}, "JSON"),
        ({"vllm_xargs": {"halu": 7}}, "halu"),
        (xargs(strategy="vcd", branch="other"), "do not fit"),
        (xargs(strategy="vcdd", steers=True), "vcdd"),
        ({**xargs(strategy="greedy", steers=False), "n": 2, "temperature": 1}, "one answer"),
        (xargs(strategy="beam"), "several hypotheses"),
        (xargs(strategy="vcd", evidence=True), "evidence"),
        ({"model": "tiny-llava@vcd", "max_tokens": 200}, "128"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    url: str, change: dict[str, Any], word: str
) -> None:
    reply = post(url, **{**body(0), **change})
    assert reply.status_code == 400, reply.text
    assert word in reply.json()["error"]["message"]


def test_another_model_is_not_there(url: str) -> None:
    for name in ("nobody@vcd", "nobody"):
        assert post(url, **{**body(0), "model": name}).status_code == 404


def test_a_client_that_leaves_frees_the_engine(url: str) -> None:
    sent = {**body(0), "model": "tiny-llava@vcd", "max_tokens": 128, "stream": True}
    sent["stop"] = ["never said"]
    with httpx2.stream(
        "POST", f"{url}/v1/chat/completions", json=sent, trust_env=False, timeout=PATIENCE
    ) as stream:
        next(stream.iter_lines())
    end = time.monotonic() + 60
    while running(url):
        assert time.monotonic() < end
        time.sleep(0.05)


def running(url: str) -> float:
    """How many requests vLLM says it runs."""
    page = httpx2.get(f"{url}/metrics", trust_env=False).text
    lines = [line for line in page.splitlines() if line.startswith("vllm:num_requests_running")]
    assert lines
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_a_branch_alone_ends_after_the_patience_of_the_settings(url: str) -> None:
    asked = {"strategy": "vcd", "branches": ["main", "ruined"], "group": "alone"}
    reply = post(url, **{**body(0), **xargs(**asked)})
    assert reply.status_code == 500  # vLLM tells no reason of what ends in its engine
    assert post(url, **body(0)).status_code == 200


def test_what_there_is_can_be_asked(url: str) -> None:
    found = httpx2.get(f"{url}/v1/strategies", trust_env=False).json()["data"]
    assert {"vcd", "var"} <= {one["name"] for one in found}
    post(url, **{**body(0), "model": "tiny-llava@vcd"})
    page = httpx2.get(f"{url}/halu/metrics", trust_env=False).text
    assert 'backend="vllm",finished_reason="length",model="tiny-llava",strategy="vcd"' in page
