"""Mixed traffic, places, deadlines, clients that leave, several models, and the end."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest

pytest.importorskip("prometheus_client")

from live import chat, live, until

from halu.errors import BadInput
from halu.service import checking, doorway, streaming
from halu.service.giving_up import NoTurn, Threads

DESCRIBE = "Please describe this image in detail."
QUESTION = "Is there a dog in the image?"
MIXED = ["greedy", "vcd", "vhr", "ritual", "var", "vhr+ritual", "beam", "m3id", "dola", "pai"]


def test_mixed_traffic_gives_what_each_request_gives_alone(served: Any, scene: Any) -> None:
    def ask(name: str) -> str:
        body = chat(scene, DESCRIBE, max_tokens=16, seed=3, halu={"strategy": name})
        reply = served.post("/v1/chat/completions", **body).json()
        assert reply["halu"]["strategy"]["name"] == name
        text: str = reply["choices"][0]["message"]["content"]
        return text

    alone = [ask(name) for name in MIXED]
    assert len(set(alone)) > 2  # strategies do differ, so that a mix-up would show
    with ThreadPoolExecutor(len(MIXED)) as together:
        assert list(together.map(ask, MIXED)) == alone


def test_compare_is_the_same_requests_side_by_side(served: Any, scene: Any) -> None:
    body = {**chat(scene, DESCRIBE, max_tokens=12)}
    arms = ["greedy", {"strategy": "vcd", "params": {"alpha": 2.0}}, "vhr"]
    reply = served.post("/v1/compare", **body, strategies=arms).json()
    assert [one["halu"]["strategy"]["name"] for one in reply["choices"]] == ["greedy", "vcd", "vhr"]
    assert reply["choices"][1]["halu"]["strategy"]["params"]["alpha"] == 2.0
    for arm, choice in zip(arms, reply["choices"], strict=True):
        halu = arm if isinstance(arm, dict) else {"strategy": arm}
        alone = served.post("/v1/chat/completions", **body, halu=halu).json()
        assert choice["message"] == alone["choices"][0]["message"]
    said = {0: "", 1: "", 2: ""}
    with httpx2.stream(
        "POST",
        f"{served.url}/v1/compare",
        json={**body, "strategies": arms, "stream": True},
        trust_env=False,
    ) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    said[choice["index"]] += choice["delta"].get("content") or ""
    assert list(said.values()) == [one["message"]["content"] for one in reply["choices"]]


class Slow:
    """A model whose steps take a while, so that a test can watch them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steps = 0

    def __call__(self, source: str, device: str | None) -> Any:
        import halu

        vlm = halu.load(source, device=device)
        runner, step = vlm.adapter.runner, vlm.adapter.runner.step

        def slow(*args: Any) -> Any:
            self.steps += 1
            time.sleep(self.seconds)
            return step(*args)

        runner.step = slow
        vlm.adapter.ends  # noqa: B018  # read once, kept since
        return vlm


@pytest.fixture
def slow() -> Iterator[tuple[Any, Slow]]:
    model = Slow(0.05)
    with live(model, max_requests=3, max_rows=8) as server:
        yield server, model


def endless(*parts: Any, **more: Any) -> dict[str, Any]:
    """A request that runs for hundreds of tokens: beam search says nothing before its end."""
    beams = {"strategy": "beam", "params": {"beams": 3, "length_penalty": 5.0}}
    return chat(*parts, max_tokens=400, **{"halu": beams, **more})


def rows(server: Any) -> int:
    return sum(lane.batch.cache.rows for lane in running(server))


def running(server: Any) -> list[Any]:
    return [lane for worker in server.site.workers.values() for lane in worker.lanes.values()]


async def leave(server: Any, body: dict[str, Any], least: int = 4) -> None:
    """A client that leaves as soon as its request has so many rows."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        work = asyncio.ensure_future(client.post(f"{server.url}/v1/chat/completions", json=body))
        while rows(server) < least:
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@pytest.mark.parametrize("stream", [True, False])
def test_when_the_client_leaves_its_branches_end_within_a_step(
    slow: tuple[Any, Slow], scene: Any, stream: bool
) -> None:
    server, model = slow
    body = chat(scene, DESCRIBE, max_tokens=400, stream=stream, n=2, halu={"strategy": "vcd"})
    asyncio.run(leave(server, {**body, "temperature": 2.0, "repetition_penalty": 0.1}))
    before = model.steps
    until(lambda: rows(server) == 0, seconds=2)
    assert model.steps - before <= 2
    until(lambda: server.site.house.inside == 0, seconds=2)
    until(lambda: not any(lane.tasks for lane in running(server)), seconds=2)
    told = r'request_failure_total{reason="cancelled"} [1-9]'
    until(lambda: re.search(told, server.get("/metrics").text) is not None, seconds=2)


@pytest.mark.parametrize("stream", [True, False])
def test_when_the_client_leaves_what_detectors_ask_ends_too(
    slow: tuple[Any, Slow], scene: Any, stream: bool
) -> None:
    server, model = slow
    halu = {"detectors": ["consistency:samples=4"]}
    asyncio.run(leave(server, chat(scene, DESCRIBE, max_tokens=30, stream=stream, halu=halu)))
    before = model.steps
    until(lambda: rows(server) == 0, seconds=2)
    assert model.steps - before <= 2
    until(lambda: server.site.checks.threads.working == 0, seconds=2)


def test_at_the_deadline_what_detectors_ask_ends_too(scene: Any) -> None:
    model = Slow(0.05)
    with live(model, deadline_seconds=2.5) as server:
        halu = {"detectors": ["consistency:samples=4"]}
        reply = server.chat(scene, DESCRIBE, max_tokens=30, halu=halu)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
        until(lambda: rows(server) == 0, seconds=2)
        until(lambda: server.site.checks.threads.working == 0, seconds=2)


def test_beyond_its_places_the_server_refuses_at_once(slow: tuple[Any, Slow], scene: Any) -> None:
    server, _ = slow
    with ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(server.chat, scene, DESCRIBE, max_tokens=12) for _ in range(3)]
        until(lambda: server.site.house.inside == 3)
        for _ in range(5):
            start = time.monotonic()
            refused = server.chat(scene, DESCRIBE)
            assert time.monotonic() - start < 0.5
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "overloaded"
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert 0 < int(refused.headers["retry-after-ms"]) <= 120_000
        assert server.get("/ready").status_code == 200
        assert {one.result().status_code for one in inside} == {200}
    assert server.chat(scene, DESCRIBE, max_tokens=2).status_code == 200


def test_rows_are_limited(scene: Any) -> None:
    with live(max_rows=2, max_rows_per_request=4) as server:
        wide = server.chat(scene, QUESTION, halu={"strategy": "beam", "params": {"beams": 5}})
        assert wide.status_code == 400
        assert "5 rows" in wide.json()["error"]["message"]
        most = []

        def watch(stop: threading.Event) -> None:
            while not stop.is_set():
                most.append(rows(server))
                time.sleep(0.001)

        stop = threading.Event()
        watching = threading.Thread(target=watch, args=(stop,))
        watching.start()
        with ThreadPoolExecutor(8) as pool:
            each = [pool.submit(server.chat, scene, DESCRIBE, max_tokens=8) for _ in range(8)]
            assert {one.result().status_code for one in each} == {200}
        stop.set()
        watching.join()
        assert max(most) == 2


def test_the_deadline(scene: Any) -> None:
    with live(Slow(0.1), deadline_seconds=0.5) as server:
        late = server.chat(scene, DESCRIBE, max_tokens=400)
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        streamed = server.chat(scene, DESCRIBE, max_tokens=400, stream=True)
        assert streamed.status_code == 200
        last = streamed.text.strip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        until(lambda: rows(server) == 0, seconds=2)


def test_models_are_loaded_when_asked_for_and_put_away(scene: Any) -> None:
    loads: list[str] = []

    def load(source: str, device: str | None) -> Any:
        import halu

        loads.append(source)
        return halu.load(source)

    with live(load, models=("tiny-llava", "tiny-qwen"), memory_gib=0.025) as server:
        assert loads == ["tiny-llava"]
        (worker,) = server.site.workers.values()
        for name in ("tiny-qwen", "tiny-qwen", "tiny-llava"):
            reply = server.post("/v1/chat/completions", **{**chat(scene, QUESTION), "model": name})
            assert reply.status_code == 200, reply.text
            assert reply.json()["model"] == name
            assert list(worker.shelf.loaded) == [name]
        assert loads == ["tiny-llava", "tiny-qwen", "tiny-llava"]


def test_a_model_that_cannot_be_loaded_is_refused_by_name(scene: Any) -> None:
    def load(source: str, device: str | None) -> Any:
        import halu

        if source == "tiny-qwen":
            raise OSError("/secret/path: no space left")
        return halu.load(source)

    with live(load, models=("tiny-llava", "tiny-qwen")) as server:
        broken = server.post(
            "/v1/chat/completions", **{**chat(scene, QUESTION), "model": "tiny-qwen"}
        )
        assert broken.status_code == 501
        assert "secret" not in broken.text
        assert server.chat(scene, QUESTION).status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_signal_lets_answers_finish(scene: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        side = free.getsockname()[1]
    command = [sys.executable, "-m", "halu", "serve", "--port", "0"]
    command += ["--set", f"metrics_port={side}"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)
    until(lambda: "browser" in log.read_text())
    lines = log.read_text().splitlines()
    url = next(line.split()[-1] for line in lines if "browser" in line).rstrip("/")

    def get(path: str) -> int:
        return httpx2.get(url + path, trust_env=False, timeout=5).status_code

    until(lambda: get("/ready") == 200)
    assert get("/metrics") == 404
    metrics = httpx2.get(f"http://127.0.0.1:{side}/metrics", trust_env=False).text
    assert "halu_num_requests_running" in metrics
    body = chat(scene, DESCRIBE, stream=True, n=4, temperature=1.5, max_tokens=120)
    with httpx2.stream(
        "POST", f"{url}/v1/chat/completions", json=body, trust_env=False, timeout=60
    ) as reply:
        words = reply.iter_lines()
        next(words)
        process.send_signal(signal.SIGTERM)
        until(lambda: get("/ready") == 503, seconds=5)
        assert get("/health") == 200
        refused = httpx2.post(f"{url}/v1/chat/completions", json=body, trust_env=False)
        assert refused.status_code == 503
        assert list(words)[-2:] == ["data: [DONE]", ""]
    assert process.wait(timeout=30) == 0


def test_a_second_signal_ends_it_at_once(slow: tuple[Any, Slow], scene: Any) -> None:
    server, _ = slow
    with ThreadPoolExecutor(1) as pool:
        inside = pool.submit(server.post, "/v1/chat/completions", **endless(scene, DESCRIBE))
        until(lambda: rows(server) > 0)
        server.server.handle_exit(signal.SIGTERM, None)
        until(lambda: server.get("/ready").status_code == 503)
        assert server.chat("Hello?").json()["error"]["code"] == "overloaded"
        assert not server.server.should_exit
        server.server.handle_exit(signal.SIGTERM, None)
        assert server.server.force_exit
        with suppress(httpx2.HTTPError):  # the connection may break off, too
            assert inside.result(timeout=30).status_code == 500


def test_each_device_has_a_worker_of_its_own(scene: Any) -> None:
    with live(models=("tiny-llava", "tiny-qwen"), device=("cpu", "cpu:0")) as server:
        assert len(server.site.workers) == 2
        for name in ("tiny-llava", "tiny-qwen"):
            body = {**chat(scene, QUESTION, max_tokens=2), "model": name}
            assert server.post("/v1/chat/completions", **body).json()["model"] == name
        assert [list(w.shelf.loaded) for w in server.site.workers.values()] == [
            ["tiny-llava"],
            ["tiny-qwen"],
        ]


@pytest.mark.parametrize("text", ["dog word " * 1000, "Hello? " * 690])
def test_a_prompt_that_does_not_fit_is_refused(served: Any, scene: Any, text: str) -> None:
    before = served.site.metrics.registry.get_sample_value("halu_num_requests_running")
    reply = served.chat(scene, text, max_tokens=600)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert "2048" in reply.json()["error"]["message"]
    assert before == 0
    assert served.chat(scene, QUESTION, max_tokens=2).status_code == 200


def test_work_that_is_given_up_keeps_its_place_and_does_not_begin_late() -> None:
    async def main() -> None:
        threads, hold, begun = Threads(1), threading.Event(), []

        def slow(gone: threading.Event) -> bool:
            begun.append("slow")
            return hold.wait(20)

        async with anyio.create_task_group() as group:
            group.start_soon(threads.run, slow, 20)
            while not begun:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        with pytest.raises(NoTurn):
            await threads.run(lambda gone: begun.append("late"), 0.1)
        assert threads.working == 1
        hold.set()
        assert await threads.run(lambda gone: 7, 20) == 7
        assert (begun, threads.working) == (["slow"], 0)

    anyio.run(main)


def test_a_client_that_does_not_read_gives_its_place_back(monkeypatch: Any) -> None:
    monkeypatch.setattr(streaming, "READING_SECONDS", 0.2)
    ended = []

    async def events() -> AsyncIterator[bytes]:
        yield b"data: a\n\n"

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        await anyio.sleep_forever()

    async def main() -> None:
        answering: Any = SimpleNamespace(cancel=lambda: ended.append(True))
        with anyio.fail_after(10):
            stream = streaming.EventStream(answering, events(), time.monotonic())
            await stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)

    anyio.run(main)
    assert ended


def test_a_refused_client_that_sends_nothing_is_not_waited_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(doorway, "LINGER_SECONDS", 0.2)
    sent: list[Any] = []

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        with anyio.fail_after(10):
            await doorway.refuse(BadInput("No."), {"method": "POST"}, receive, send)

    anyio.run(main)
    assert [message.get("more_body") for message in sent] == [None, True, None]


def test_a_detector_that_breaks_is_an_event_of_the_stream(scene: Any, monkeypatch: Any) -> None:
    async def broken(*args: Any, **own: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(checking.Checks, "answer", broken)
    with live() as server:
        reply = server.chat(scene, QUESTION, stream=True)
        last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["message"] == "The server failed while it answered."
