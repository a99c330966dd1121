"""A real server on loopback, in a thread of the test process."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from PIL import Image

from halu.service.deployment import Deployment, deployment
from halu.service.serving import Server, config, listening
from halu.service.settings import read_settings
from halu.service.shelf import Load

PATIENCE = 60.0


@dataclass
class Live:
    """Where a server listens, and what it is made of."""

    url: str
    site: Deployment
    server: Server

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", json=body, timeout=PATIENCE, trust_env=False)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return httpx2.get(f"{self.url}{path}", headers=headers, timeout=PATIENCE, trust_env=False)

    def chat(self, *parts: Any, **more: Any) -> httpx2.Response:
        return self.post("/v1/chat/completions", **chat(*parts, **more))


@contextmanager
def live(load: Load | None = None, **flags: Any) -> Iterator[Live]:
    """A server with these settings, ready to answer."""
    site = deployment(read_settings({"port": 0, **flags}), load)
    server = Server(config(site), site)
    place = listening(site.settings)
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    until(lambda: server.started)
    port = place.getsockname()[1]
    until(lambda: site.ready != "loading")
    try:
        yield Live(f"http://127.0.0.1:{port}", site, server)
    finally:
        server.should_exit = True
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()


def until(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def chat(*parts: Any, **more: Any) -> dict[str, Any]:
    """The body of a chat request: pictures and words of one user message."""
    content = [
        {"type": "image_url", "image_url": {"url": uri(part)}}
        if isinstance(part, Image.Image)
        else {"type": "text", "text": part}
        for part in parts
    ]
    return {
        "model": "tiny-llava",
        "messages": [{"role": "user", "content": content}],
        **more,
    }


def uri(picture: Image.Image, form: str = "PNG") -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    picture.save(file, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
