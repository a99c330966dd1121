"""The one way in: every request gets an id, and only those that may come in go on.

Before a byte of a body is read it is clear by which name the server was called, who calls, how
often, and whether there is room. Deny by default: a route is public only if it is listed here.
"""

import re
import time
import uuid
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import anyio
from opentelemetry.trace import get_current_span
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halu.errors import Failed, HaluError
from halu.service import refusals
from halu.service.keys import Keys
from halu.service.limits import House, Rates
from halu.service.logs import log, request_id
from halu.service.metrics import Metrics

PUBLIC = ("/", "/docs", "/openapi.json", "/health", "/ready", "/version", "/favicon.ico")
PUBLIC_FOLDER = "/static/"
WORK = ("/v1/chat/completions", "/v1/compare", "/v1/detect")
GIVEN_ID = re.compile(r"[\w.-]{1,64}")
LOCAL = "local"
"""The tenant where there are no keys."""
LINGER_SECONDS = 2.0
SPAN = {
    "model": "gen_ai.request.model",
    "tokens": "gen_ai.usage.output_tokens",
    "strategies": "halu.strategies",
    "pixels": "halu.pixels",
}
"""What is told of a request, under the names that its OpenTelemetry span has for it."""

GUARDS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:;"
    " style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'",
}


@dataclass(slots=True)
class Doorway:
    """ASGI middleware.

    Args:
        app: what is behind.
        house: places for requests that work.
        rates: token buckets by tenant.
        metrics: refused requests are counted there.
        keys: whose keys are good; none: everybody's, as the one tenant "local".
        hosts: names by which clients may call; empty: any.
        max_body: most bytes of a body.
        body_seconds: for all of a body to come.
    """

    app: ASGIApp
    house: House
    rates: Rates
    metrics: Metrics
    keys: Keys | None
    hosts: tuple[str, ...]
    max_body: int
    body_seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        own = given if GIVEN_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        token = request_id.set(own)
        visit = Visit(scope, own, time.monotonic())
        try:
            await self._admit(headers, visit, receive, visit.noting(send))
        finally:
            visit.close()
            request_id.reset(token)

    async def _admit(self, headers: Headers, visit: "Visit", receive: Receive, send: Send) -> None:
        scope = visit.scope
        try:
            _check_host(headers.get("host", ""), self.hosts)
            scope["state"]["tenant"] = self._tenant(headers, scope["path"])
            size = headers.get("content-length", "")
            if size.isdigit() and int(size) > self.max_body:
                raise too_large(self.max_body)
            works = scope["path"] in WORK and scope["method"] == "POST"
            if works:
                self.rates.take(scope["state"]["tenant"])
            with self.house.place() if works else nullcontext():
                bounded = _bounded(receive, self.max_body, visit.start + self.body_seconds)
                await self.app(scope, bounded, send)
        except HaluError as error:
            self.metrics.refused(error.status)
            await refuse(error, scope, receive, send)
        except Exception as error:
            log.error("failed", exc_info=error)
            self.metrics.refused(Failed.status)
            if not visit.status:  # else the answer has begun, and breaks off
                await refuse(Failed(""), scope, receive, send)

    def _tenant(self, headers: Headers, path: str) -> str:
        """Who calls.

        Raises:
            BadKey: nobody known, on a route that is not public.
        """
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if self.keys is None:
            return LOCAL
        owner = self.keys.owner(key.strip()) if scheme.lower() == "bearer" else None
        if owner is None and not _public(path):
            raise refusals.BadKey(
                "A valid API key is needed.", hint="Send it as 'Authorization: Bearer KEY'."
            )
        return owner or LOCAL


@dataclass(slots=True)
class Visit:
    """One request from the outside, for its log line."""

    scope: Scope
    id: str
    start: float
    status: int = 0

    def __post_init__(self) -> None:
        self.scope["state"] = {**self.scope.get("state", {}), "told": {}, "arrived": self.start}

    def noting(self, send: Send) -> Send:
        """Sends with the headers that every answer has."""

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = self.id
                for name, value in GUARDS.items():
                    headers.setdefault(name, value)
            elif not message.get("more_body"):
                self._trace()
            await send(message)

        return noted

    def close(self) -> None:
        """Writes the line."""
        self._trace()
        told = {
            "method": self.scope["method"],
            "route": getattr(self.scope.get("route"), "path", None),
            "status": self.status or 499,
            "seconds": round(time.monotonic() - self.start, 4),
            "key": self.scope["state"].get("tenant"),
            **self.scope["state"]["told"],
        }
        log.info("request", extra={"told": told})

    def _trace(self) -> None:
        """Tells the request's OpenTelemetry span, if there is one, before it ends."""
        span = get_current_span()
        if span.is_recording():
            told = self.scope["state"]["told"]
            found = {name: told.get(key) for key, name in SPAN.items()}
            span.set_attributes({name: value for name, value in found.items() if value is not None})
            span.set_attribute("halu.request_id", self.id)


def too_large(limit: int) -> refusals.TooLarge:
    """The refusal of a body."""
    return refusals.TooLarge(f"The body has more than {limit:,} bytes.")


async def refuse(error: HaluError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, then takes what the client still sends for a moment, since a connection that
    closes under a sender loses the answer.
    """
    response = JSONResponse(refusals.body(error), error.status, dict(refusals.headers(error)))
    head = {"type": "http.response.start", "status": error.status, "headers": response.raw_headers}
    await send(head)
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    more = scope["method"] in ("POST", "PUT", "PATCH")
    with anyio.move_on_after(LINGER_SECONDS):
        while more:
            message = await receive()
            more = message["type"] == "http.request" and message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})


def _bounded(receive: Receive, most: int, end: float) -> Receive:
    """A body that ends with a refusal once it is too long, whatever its header says, and if it is
    not there by `end` (monotonic).
    """
    size, whole = 0, False

    async def bounded() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()
        try:
            with anyio.fail_after(max(0.0, end - time.monotonic())):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, "body") from None
        whole = not message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > most:
            raise HTTPException(413, "body")
        return message

    return bounded


def _check_host(host: str, allowed: Iterable[str]) -> None:
    """A page that a browser shows must not reach a server on loopback under another name."""
    names = tuple(allowed)
    if names and _name(host) not in names:
        raise refusals.WrongHost(
            "This server is not called by that name.", hint="See the setting allowed_hosts."
        )


def _name(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


def _public(path: str) -> bool:
    return path in PUBLIC or (path.startswith(PUBLIC_FOLDER) and ".." not in path)
