"""A judge for tests: an OpenAI-compatible server in a thread of this process, and no network."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Bench:
    """What the server does and what it saw. `reply` gets the prompt's text; `statuses` are used up
    first, one a request.
    """

    reply: Callable[[str], Any]
    statuses: list[int] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, sent: dict[str, Any], key: str | None) -> tuple[int, bytes]:
        with self.lock:
            self.seen.append(sent)
            self.keys.append(key)
            status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            return status, json.dumps({"error": {"message": "not now"}}).encode()
        content = sent["messages"][0]["content"]
        parts = content if isinstance(content, list) else [{"text": content}]
        said = self.reply(next(part["text"] for part in parts if "text" in part))
        message = {"role": "assistant", "content": said}
        return 200, json.dumps({"choices": [{"index": 0, "message": message}]}).encode()


@contextmanager
def serving(bench: Bench) -> Iterator[Bench]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with bench.lock:
                bench.busy += 1
                bench.busiest = max(bench.busiest, bench.busy)
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = bench.answer(sent, self.headers.get("Authorization"))
            with bench.lock:
                bench.busy -= 1
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    bench.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield bench
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
