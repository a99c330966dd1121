"""Strategies in a stock vLLM server: `VLLM_PLUGINS=halu,halu_endpoint vllm serve ...`.

An endpoint plugin of vLLM's: it may take the place of a route. A chat that names a strategy is
answered as `halu serve` answers it, with the server's engine behind; any other goes to vLLM's own
route as it came.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from halu.errors import BadInput, Failed, HaluError
from halu.service import asking, chat, listing, refusals, reporting
from halu.service.deployment import Deployment, deployment
from halu.service.doorway import LOCAL
from halu.service.logs import log
from halu.service.schema import ChatRequest
from halu.service.settings import Settings, read_settings
from halu.service.shelf import Served
from halu.vllm.asked import Asked
from halu.vllm.settings import settings_of

CHAT = "/v1/chat/completions"
JSON = "application/json"
METRICS = "/halu/metrics"
OWN = {"/v1/strategies": listing.strategies, "/v1/detectors": listing.detectors}
USED = (
    "deadline_seconds",
    "default_tokens",
    "detector_params",
    "fetch_seconds",
    "image_seconds",
    "max_choices",
    "max_detectors",
    "max_fetches",
    "max_image_mib",
    "max_images",
    "max_messages",
    "max_new_tokens",
    "max_pixels",
    "max_rows",
    "max_rows_per_request",
    "max_text",
    "remote_hosts",
    "remote_http",
    "remote_images",
    "remote_networks",
    "strategy",
    "strategy_params",
)
"""Settings that hold here. The others are vLLM's affair, keys and the limits of the doorway too."""
SHARED = {"strategy", "params"}
"""What a request and one branch of it both have."""


class Endpoint:
    """The plugin: what vLLM calls, once each, when it builds its application."""

    name = "halu_endpoint"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.site: Deployment | None = None
        self.stock: APIRoute | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes; vLLM puts them in the place of its own."""
        stock = [one for one in app.routes if isinstance(one, APIRoute) and one.path == CHAT]
        (self.stock,) = stock
        app.add_api_route(CHAT, self.chat, methods=["POST"], tags=["answers"])
        app.add_api_route(METRICS, self.metrics, methods=["GET"], tags=["state"])
        for path, route in OWN.items():
            app.add_api_route(path, route, methods=["GET"], tags=["lists"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Joins the server's engine.

        Raises:
            HaluError: settings under `halu` in `--additional-config` that cannot be, or a model
                that halu does not know.
        """
        from halu.vllm.joined import Joined

        config = engine_client.vllm_config
        names = args.served_model_name or [args.model]
        own = settings_of(config.additional_config).service
        settings = settings_here(own, config.scheduler_config.max_num_seqs)
        offered: dict[str | None, list[Served]] = {
            None: [Served(name, args.model, None) for name in names]
        }
        vlm = Joined(args.model, engine_client, asyncio.get_running_loop())
        self.site = deployment(settings, lambda source, device: vlm, offered)
        self.site.start()

    async def metrics(self) -> Response:
        """halu's counters for Prometheus, beside vLLM's own."""
        assert self.site is not None
        page, kind = self.site.metrics.page()
        return Response(page, headers={"content-type": kind})

    async def chat(self, http: Request) -> Response:
        """Answers a conversation under the strategy that it names, or as vLLM does."""
        sent = await http.body()
        site = self.site
        if site is None:
            raise Failed("The engine is not there yet.")
        try:
            header = http.headers.get(asking.STRATEGY_HEADER)
            wanted = translated(sent, header, site) if _is_json(http) else None
            if wanted is None:
                assert self.stock is not None
                return Handed(self.stock, sent)
            return await _answer(site, wanted, header, http)
        except HaluError as error:
            return JSONResponse(refusals.body(error), error.status, dict(refusals.headers(error)))
        except Exception as error:
            log.error("failed", exc_info=error)
            return JSONResponse(refusals.body(Failed("")), Failed.status)


def _is_json(http: Request) -> bool:
    """Whether the body is said to be JSON. A page of another site cannot say so without asking a
    browser's leave first; vLLM's own route refuses what is said to be anything else.
    """
    kind = http.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == JSON


def settings_here(own: Mapping[str, Any], slots: int) -> Settings:
    """The settings of this route.

    Args:
        own: what the operator says under `service`.
        slots: how many requests vLLM runs at once.

    Raises:
        BadInput: a setting that would be without effect here, from there or from the environment.
        Unknown: a name that is not a setting.
    """
    there = {name.upper() for name in os.environ}
    given = [
        name for name in Settings.model_fields if name in own or f"HALU_{name.upper()}" in there
    ]
    if idle := sorted(set(given) - set(USED)):
        raise BadInput(
            f"The setting {idle[0]} has no effect in a vLLM server.",
            hint="Use vLLM's own option, or a proxy in front.",
            param=idle[0],
        )
    return read_settings({"max_rows": slots, **own, "backend": "vllm"})


class Handed(Response):
    """A request that another route answers, its body read already."""

    def __init__(self, route: APIRoute, body: bytes) -> None:
        super().__init__()
        self.route = route
        self.sent = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Has the other route answer."""
        first: list[Message] = [{"type": "http.request", "body": self.sent, "more_body": False}]

        async def again() -> Message:
            return first.pop() if first else await receive()

        await self.route.handle(scope, again, send)


def translated(sent: bytes, header: str | None, site: Deployment) -> dict[str, Any] | None:
    """The chat in halu's terms, if it is to be answered under a strategy: one that it names in
    `halu`, after an `@` in the model's name, in a header or in `vllm_xargs`, or the operator's if
    it shows a picture. None if it is vLLM's affair.

    Raises:
        BadInput: if it names one in a way that cannot be read.
    """
    try:
        body = json.loads(sent)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    own, model = body.get("halu"), body.get("model")
    extra = body.get("vllm_xargs")
    if isinstance(extra, dict) and "halu" in extra:
        if own is not None:
            raise BadInput("`halu` and `vllm_xargs.halu` are both there; give one.", param="halu")
        own = _options(extra["halu"])
        if own is None:
            return None
    named = isinstance(model, str) and model not in site.models and "@" in model
    usual = site.settings.strategy and _shows(body)
    if own is None and not (named or header or usual):
        return None
    model = model or next(iter(site.models))  # vLLM lets a client leave it out
    return {**body, "model": model, "halu": own}


def _shows(body: dict[str, Any]) -> bool:
    """Whether a message has a picture; what the rest of the body is like is not known yet."""
    messages = body.get("messages")
    found = [one.get("content") for one in _listed(messages) if isinstance(one, dict)]
    parts = [part for content in found for part in _listed(content)]
    return any(isinstance(part, dict) and "image_url" in part for part in parts)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _options(text: Any) -> Any:
    """What `vllm_xargs` says; none if it is one branch, planned by whoever sent it."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise BadInput("`vllm_xargs.halu` is no JSON string.", param="vllm_xargs") from None
    planned = isinstance(found, dict) and set(found) & (set(Asked.model_fields) - SHARED)
    return None if planned else found


async def _answer(
    site: Deployment, body: dict[str, Any], header: str | None, http: Request
) -> Response:
    try:
        asked = ChatRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise refusals.misfit(first, body, first["loc"]) from None
    salt = body.get("cache_salt")
    http.scope["state"] = {
        **http.scope.get("state", {}),
        "tenant": salt if isinstance(salt, str) and salt else LOCAL,
        "arrived": time.monotonic(),
        "told": {},
    }
    wanted = await asking.chat(asked, header, site.models, site.settings, site.intake)
    reply = await chat.answer(site, asked, wanted, http, reporting.completion)
    if isinstance(reply, Response):
        return reply
    return JSONResponse(reply.model_dump(mode="json"))
