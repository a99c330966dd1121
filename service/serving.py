"""Listens: starts the server, says where, and stops it without losing an answer.

The first SIGTERM or SIGINT closes the house: `/ready` fails at once, new work is refused, running
answers finish, and the process exits with 0. A second signal, or `drain_seconds`, ends it anyway.
"""

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any
from wsgiref.simple_server import WSGIServer

import uvicorn
from prometheus_client import start_http_server

from halu.errors import BadInput, Failed
from halu.service import logs
from halu.service.app import make_app
from halu.service.deployment import Deployment, deployment
from halu.service.settings import Settings

SWITCH_SECONDS = 0.0005
"""How long a decoding thread may keep the event loop waiting; Python's own 5 ms, several times for
each request, would show in refusals.
"""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown.

    Args:
        config: uvicorn's.
        site: closed first, waited for next.
    """

    def __init__(self, config: uvicorn.Config, site: Deployment) -> None:
        super().__init__(config)
        self.site = site
        self._until: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hears signals; unlike uvicorn's own it does not raise them again, since a drained server
        has done what it was told.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Closes the house; the second time, ends at once."""
        if self._until is not None:
            self.should_exit = self.force_exit = True
            return
        self.site.house.closing = True
        self._until = time.monotonic() + self.site.settings.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is over."""
        if self._until is not None:
            over = time.monotonic() >= self._until
            if over or not self.site.house.inside:
                self.should_exit = True
                self.force_exit = over and self.site.house.inside > 0
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where, once it listens."""
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            print(_greeting(self.site, port), file=sys.stderr, flush=True)


def serve(settings: Settings) -> None:
    """Runs until a signal comes.

    Raises:
        HaluError: settings that cannot work, or an address that cannot be had.
    """
    logs.set_up(settings.log_level, settings.log_file)
    sys.setswitchinterval(SWITCH_SECONDS)
    site = deployment(settings)
    server = Server(config(site), site)
    side = _metrics_server(site)
    try:
        server.run(sockets=[listening(settings)])
    finally:
        if side is not None:
            side.shutdown()
    if not server.started:
        raise Failed("The server did not start.", hint="The log says why.")


def config(site: Deployment) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        make_app(site),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=None,
        timeout_graceful_shutdown=5,
    )


def listening(settings: Settings) -> socket.socket:
    """A socket at the settings' address.

    Raises:
        BadInput: if it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        raise _no_port(settings.host, settings.port, error, "--port") from None


def _no_port(host: str, port: int, error: OSError, option: str) -> BadInput:
    return BadInput(
        f"Cannot listen on {host} port {port}: {error.strerror}.",
        hint=f"Choose another with {option}.",
        param=option,
    )


def _metrics_server(site: Deployment) -> WSGIServer | None:
    port = site.settings.metrics_port
    if port is None:
        return None
    host = site.settings.metrics_host
    try:
        started: Any = start_http_server(port, host, registry=site.metrics.registry)
    except OSError as error:
        raise _no_port(host, port, error, "--set metrics_port=") from None
    server: WSGIServer = started[0]
    return server


def _greeting(site: Deployment, port: int) -> str:
    """What somebody who has just started it wants to know."""
    host = site.settings.host
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    first = next(iter(site.models))
    lines: Sequence[str] = (
        f"halu serves {', '.join(site.models)}",
        f"  try it in a browser   {url}/",
        f"  for OpenAI clients    base_url={url}/v1  model={first}  or {first}@vcd",
        f"  what there is         {url}/docs",
        "  stop                  Ctrl+C: running answers finish first",
    )
    return "\n".join(lines)
