"""The application: routes, one error handler, the doorway in front."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from inspect import signature
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from halu.errors import BadInput, HaluError, Unavailable
from halu.service import chat, detect, docs_page, listing, refusals
from halu.service.deployment import Deployment
from halu.service.doorway import Doorway, too_large
from halu.service.keys import read_keys
from halu.service.limits import Rates
from halu.service.page import add_page
from halu.service.settings import LOOPBACK, Settings


def make_app(site: Deployment) -> FastAPI:
    """The application on these parts; starting it starts them."""
    settings = site.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        site.start()
        try:
            yield
        finally:
            site.stop()

    app = FastAPI(
        title="halu",
        version=version("halu"),
        summary="Vision-language models with hallucination mitigation as an option of a request.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry=_telemetry(settings),
    )
    app.state.deployment = site
    for part in (chat, detect, listing, docs_page):
        app.include_router(part.router)
    add_page(app)
    _add_handlers(app, settings.max_body)
    app.add_middleware(
        Doorway,
        house=site.house,
        rates=Rates(settings.rate_per_minute if settings.api_key_file else None),
        metrics=site.metrics,
        keys=read_keys(settings.api_key_file) if settings.api_key_file else None,
        hosts=_hosts(settings),
        max_body=settings.max_body,
        body_seconds=settings.body_seconds,
    )
    return app


def _telemetry(settings: Settings) -> Any:
    """FastAPI's own OpenTelemetry: set up from OTEL_* variables, or off altogether. Its logs stay
    off, since they carry what exceptions say.
    """
    on = settings.telemetry
    if on and "telemetry" not in signature(FastAPI).parameters:
        raise Unavailable(
            f"FastAPI {version('fastapi')} has no telemetry.",
            hint="It came with 0.162.",
            param="telemetry",
        )
    return {
        "auto_configure": on,
        "tracing": on,
        "metrics": on,
        "logs": False,
        "operation_spans": False,
    }


def _hosts(settings: Settings) -> tuple[str, ...]:
    """On loopback without keys the name is what keeps a browser's other pages out."""
    if settings.allowed_hosts:
        return tuple(name.lower() for name in settings.allowed_hosts)
    return LOOPBACK if settings.api_key_file is None else ()


def _add_handlers(app: FastAPI, max_body: int) -> None:
    @app.exception_handler(HaluError)
    async def ours(http: Request, error: Exception) -> Response:
        assert isinstance(error, HaluError)
        return _answer(error, http)

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _answer(_invalid(error, http.headers.get("content-type", "")), http)

    @app.exception_handler(HTTPException)
    async def routing(http: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _answer(_routing(error, max_body), http, error.headers)


def _answer(error: HaluError, http: Request, more: Any = None) -> JSONResponse:
    http.app.state.deployment.metrics.refused(error.status)
    headers = {**refusals.headers(error), **(more or {})}
    return JSONResponse(refusals.body(error), error.status, headers)


def _invalid(error: RequestValidationError, media_type: str) -> HaluError:
    """The first thing wrong, by its path; what was sent is not repeated."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return BadInput("The body is not JSON.", code="invalid_json")
    if first["loc"] == ("body",) and "json" not in media_type:
        hint = "Send it with the header 'content-type: application/json'."
        return BadInput("The body is not said to be JSON.", hint=hint, code="invalid_json")
    return refusals.misfit(first, error.body, first["loc"][1:])


def _routing(error: HTTPException, max_body: int) -> HaluError:
    if error.status_code == 413:
        return too_large(max_body)
    if error.status_code == 408:
        return refusals.TooSlow("The body did not come in time.")
    if error.status_code == 404:
        return refusals.NotFound("There is no such route.", hint="See /docs.")
    if error.status_code == 405:
        return refusals.WrongMethod("This route takes another method.", hint="See /docs.")
    found = BadInput("The body cannot be read.")
    found.status = error.status_code
    return found
