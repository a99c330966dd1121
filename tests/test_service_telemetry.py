"""OpenTelemetry as an option, sent for real: by `halu serve` as a process, to a receiver here."""

import base64
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("prometheus_client")
trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from live import chat, until, uri

QUESTION = "Is there a dog in the image?"


@pytest.fixture
def collector() -> Iterator[tuple[str, "queue.Queue[tuple[str, bytes]]"]]:
    """An OTLP receiver's address, and what was sent to it: path and body."""
    sent: queue.Queue[tuple[str, bytes]] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.put((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()
    thread.join()


def spans(sent: "queue.Queue[tuple[str, bytes]]") -> list[tuple[str, dict[str, Any]]]:
    """Name and attributes of every span that came."""
    found = []
    while not sent.empty():
        path, body = sent.get()
        if path == "/v1/traces":
            message = trace_service.ExportTraceServiceRequest.FromString(body)
            found += [s for r in message.resource_spans for p in r.scope_spans for s in p.spans]
    return [(span.name, {a.key: plain(a.value) for a in span.attributes}) for span in found]


def plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(one) for one in value.array_value.values]
    return getattr(value, kind)


@pytest.mark.slow
def test_one_span_for_each_request_says_what_was_done_and_not_what_was_said(
    collector: tuple[str, Any], scene: Any, tmp_path: Path
) -> None:
    address, sent = collector
    command = [sys.executable, "-m", "halu", "serve", "--port", "0", "--set", "telemetry=true"]
    log = tmp_path / "log"
    with log.open("w") as file:
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": address}
        process = subprocess.Popen(command, stderr=file, env=environment)
    until(lambda: "browser" in log.read_text() or process.poll() is not None)
    url = next(x.split()[-1] for x in log.read_text().splitlines() if "browser" in x).rstrip("/")
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    bodies = (
        chat(scene, QUESTION, max_tokens=3, halu={"strategy": "vhr"}),
        chat(scene, QUESTION, max_tokens=3, stream=True, halu={"strategy": "vcd"}),
        chat(scene, QUESTION, temperature=99),
    )
    said = []
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as http:
        for body in bodies:
            headers = {"traceparent": parent, "x-request-id": f"mine-{len(said)}"}
            reply = http.post("/v1/chat/completions", json=body, headers=headers)
            said.append(reply)
    process.terminate()
    assert process.wait(timeout=60) == 0

    raw = b"".join(body for _, body in list(sent.queue))
    found = {attributes["halu.request_id"]: (name, attributes) for name, attributes in spans(sent)}
    assert set(found) == {"mine-0", "mine-1", "mine-2"}
    assert {name for name, _ in found.values()} == {"POST /v1/chat/completions"}
    whole, streamed, refused = (found[f"mine-{i}"][1] for i in range(3))
    used = said[0].json()["usage"]["completion_tokens"]
    for attributes, strategy in ((whole, "vhr"), (streamed, "vcd")):
        assert attributes["gen_ai.request.model"] == "tiny-llava"
        assert attributes["halu.strategies"] == [strategy]
        assert attributes["http.response.status_code"] == 200
    assert whole["gen_ai.usage.output_tokens"] == used
    assert streamed["gen_ai.usage.output_tokens"] > 0
    assert refused["http.response.status_code"] == 400
    assert bytes.fromhex("a" * 32) in raw, "the client's trace goes on"

    picture = base64.b64decode(uri(scene).partition(",")[2])
    answer = said[0].json()["choices"][0]["message"]["content"]
    for secret in (QUESTION.encode(), picture[:40], picture[-40:], json.dumps(answer).encode()):
        assert secret not in raw


def test_telemetry_that_cannot_send_is_refused(halu: Any, monkeypatch: Any) -> None:
    code, _, err = halu("serve", "--set", "telemetry=true")
    assert code == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in err
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    code, _, err = halu("serve", "--set", "telemetry=true")
    assert code == 2
    assert ".[telemetry]" in err
