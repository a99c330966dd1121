"""What goes wrong inside: one request fails, others go on, and the state says so."""

import errno
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from live import chat, live, until

DESCRIBE = "Please describe this image in detail."
QUESTION = "Is there a dog in the image?"


def spoilt(when: Any) -> Any:
    """Loads a model whose forward fails when it is told to."""

    def load(source: str, device: str | None) -> Any:
        import halu

        model = halu.load(source, device=device)
        step = model.adapter.runner.step

        def failing(*args: Any) -> Any:
            if when():
                raise RuntimeError("CUDA error: an illegal memory access at 0x7f3a2c")
            return step(*args)

        model.adapter.runner.step = failing
        return model

    return load


def test_an_exception_in_one_request_ends_it_alone(
    served: Any, scene: Any, monkeypatch: Any
) -> None:
    from halu.decoders.vcd import VCD
    from halu.strategy import Plan

    plan = VCD.plan

    def broken(self: Any, ctx: Any) -> Any:
        made = plan(self, ctx)

        def rule(step: Any) -> Any:
            if step.index == 3:
                raise RuntimeError("secret words of the prompt")
            return made.rule(step)

        return Plan(made.main, extra=made.extra, rule=rule)

    alone = served.chat(scene, DESCRIBE, max_tokens=20).json()["choices"][0]["message"]
    monkeypatch.setattr(VCD, "plan", broken)
    with ThreadPoolExecutor(5) as pool:
        bad = pool.submit(served.chat, scene, DESCRIBE, halu={"strategy": "vcd"})
        good = [pool.submit(served.chat, scene, DESCRIBE, max_tokens=20) for _ in range(4)]
        assert bad.result().status_code == 500
        error = bad.result().json()["error"]
        assert error["type"] == "server_error"
        assert "secret" not in bad.result().text
        assert [one.result().json()["choices"][0]["message"] for one in good] == [alone] * 4
    assert served.get("/ready").status_code == 200


def test_a_failing_forward_ends_its_batch_and_the_next_one_runs(scene: Any) -> None:
    broken = [False]
    with live(spoilt(lambda: broken[0])) as server:
        broken[0] = True
        failed = server.chat(scene, DESCRIBE)
        assert failed.status_code == 500
        assert "0x" not in failed.text
        streamed = server.chat(scene, DESCRIBE, stream=True)
        last = json.loads(streamed.text.strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["type"] == "server_error"
        broken[0] = False
        assert server.chat(scene, DESCRIBE, max_tokens=3).status_code == 200
        assert server.get("/ready").status_code == 200


def test_the_openai_client_raises_what_goes_wrong_in_a_stream(scene: Any) -> None:
    openai = pytest.importorskip("openai")
    steps = []

    def late() -> bool:
        steps.append(1)
        return len(steps) > 3

    said: list[str] = []

    def listen(stream: Any) -> None:
        for chunk in stream:
            said.extend(one.delta.content for one in chunk.choices if one.delta.content)

    with (
        live(spoilt(late)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.chat.completions.create(**chat(scene, DESCRIBE), stream=True)
        with pytest.raises(openai.APIError) as raised:
            listen(stream)
    assert said
    assert raised.value.type == "server_error"
    assert "0x" not in str(raised.value)


def test_a_device_that_only_fails_is_given_up(scene: Any) -> None:
    with live(spoilt(lambda: True)) as server:
        assert [server.chat(scene, DESCRIBE).status_code for _ in range(3)] == [500] * 3
        until(lambda: server.get("/ready").status_code == 503)
        assert server.get("/health").status_code == 503
        start = time.monotonic()
        assert server.chat(scene, DESCRIBE).status_code == 500
        assert time.monotonic() - start < 1


def test_a_dead_worker_leaves_nobody_waiting(scene: Any, monkeypatch: Any) -> None:
    from halu.service.worker import Worker

    with live() as server:
        (worker,) = server.site.workers.values()
        monkeypatch.setattr(Worker, "_join", lambda self: (_ for _ in ()).throw(MemoryError()))
        monkeypatch.setattr(threading, "excepthook", lambda args: None)
        assert server.chat(scene, DESCRIBE).status_code == 500
        until(lambda: not worker.is_alive())
        assert server.get("/ready").json() == {"status": "engine down"}


class Drip(BaseHTTPRequestHandler):
    """A host that sends a picture one byte at a time."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def image_host(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port of a web server on loopback."""
    host = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=host.serve_forever, daemon=True)
    thread.start()
    yield host.server_address[1]
    host.shutdown()
    host.server_close()
    thread.join()


def fetching(port: int) -> dict[str, Any]:
    """Settings that let pictures be fetched from there."""
    return {
        "remote_hosts": (f"localhost:{port}",),
        "remote_networks": ("127.0.0.0/8", "::1/128"),
        "remote_http": True,
        "fetch_seconds": 1.5,
    }


def shown(port: int, path: str) -> dict[str, Any]:
    body = chat(QUESTION, max_tokens=8)
    part = {"type": "image_url", "image_url": {"url": f"http://localhost:{port}{path}"}}
    body["messages"][0]["content"].insert(0, part)
    return body


def test_a_remote_picture_is_fetched_where_that_is_allowed(scene: Any) -> None:
    file = io.BytesIO()
    scene.save(file, "PNG")

    class Host(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moved = self.path == "/moved"
            self.send_response(302 if moved else 200)
            self.send_header("location", "/a.png")
            self.end_headers()
            self.wfile.write(b"" if moved else file.getvalue())

        def log_message(self, *args: Any) -> None:
            pass

    with image_host(Host) as port, live(**fetching(port)) as server:
        sent = server.chat(scene, QUESTION, max_tokens=8).json()
        for path in ("/a.png", "/moved"):
            reply = server.post("/v1/chat/completions", **shown(port, path)).json()
            assert reply["choices"] == sent["choices"]
            assert reply["usage"] == sent["usage"]


def test_a_slow_image_host_delays_nobody_else(scene: Any) -> None:
    with (
        image_host(Drip) as port,
        live(**fetching(port)) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        body = shown(port, "/a.png")
        slow = pool.submit(server.post, "/v1/chat/completions", **body)
        until(lambda: server.site.house.inside == 1)
        assert server.chat(scene, QUESTION, max_tokens=3).status_code == 200
        assert not slow.done()
        assert slow.result().status_code == 422
        assert slow.result().json()["error"]["code"] == "failed_to_download_image"


class Full(io.StringIO):
    """A file on a disk without room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_the_log_lines_and_nothing_else(
    served: Any, scene: Any, monkeypatch: Any
) -> None:
    from halu.service.logs import JsonLines, Silent, log

    handler = Silent(Full())
    handler.setFormatter(JsonLines())
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "level", logging.INFO)
    assert served.chat(scene, QUESTION, max_tokens=2).status_code == 200


def test_a_very_nested_body(served: Any) -> None:
    import httpx2

    for content in ("[" * 100_000, '{"a":' * 50_000, '{"model": ' + "9" * 5000 + "}", "\x00", ""):
        reply = httpx2.post(
            f"{served.url}/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json"},
            trust_env=False,
        )
        assert reply.status_code == 400, content[:20]
        assert set(reply.json()) == {"error"}


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\u202e" * 10, "a\u0301" * 100, "\U0010ffff"])
def test_odd_texts(served: Any, text: str) -> None:
    import httpx2

    body = json.dumps(chat(text, max_tokens=2))
    reply = httpx2.post(
        f"{served.url}/v1/chat/completions",
        content=body,
        headers={"content-type": "application/json"},
        trust_env=False,
    )
    assert reply.status_code in (200, 400)


def test_what_nobody_foresaw_is_a_500_in_the_same_form(
    served: Any, monkeypatch: Any, caplog: Any
) -> None:
    from halu.service import listing

    def broken(kind: str) -> None:
        raise RuntimeError("/secret/path at 0x7f3a2c")

    monkeypatch.setattr(listing, "_listed", broken)
    reply = served.get("/v1/strategies")
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert reply.headers["x-request-id"].startswith("req-")
    assert "secret" not in reply.text
    assert any(record.exc_info for record in caplog.records)
