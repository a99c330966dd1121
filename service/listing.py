"""What there is and how it does: models, strategies, detectors, health, metrics, version."""

import platform
from functools import cache
from importlib.metadata import version as installed
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from halu.catalogue import available
from halu.errors import Unknown
from halu.service.asking import named
from halu.service.deployment import Deployment
from halu.service.documented import ALWAYS, refusals
from halu.service.refusals import NotFound
from halu.service.replies import Catalogue, Health, ModelCard, ModelList, Version
from halu.strategy import strategies as known

router = APIRouter()


def _site(http: Request) -> Deployment:
    site: Deployment = http.app.state.deployment
    return site


@router.get("/v1/models", tags=["lists"], responses=refusals(*ALWAYS))
async def models(http: Request) -> ModelList:
    """The models that are served, and their names with the strategies that the operator lists. Any
    name may be followed by `@STRATEGY`.
    """
    listed = ("", *(f"@{name}" for name in _site(http).settings.listed_strategies))
    return ModelList(
        data=[
            ModelCard(id=model.name + suffix, created=model.created)
            for model in _site(http).models.values()
            for suffix in listed
        ]
    )


@router.get("/v1/models/{model:path}", tags=["lists"], responses=refusals(404, *ALWAYS))
async def model(model: str, http: Request) -> ModelCard:
    """One model, by its name or as `MODEL@STRATEGY`."""
    found, strategy = named(model, _site(http).models)
    try:
        for part in (strategy or "greedy").split("+"):
            known.get(part)
    except Unknown as error:
        raise NotFound(
            error.message, hint=error.hint, param="model", code="model_not_found"
        ) from None
    return ModelCard(id=model, created=found.created)


@router.get("/v1/strategies", tags=["lists"], responses=refusals(*ALWAYS))
async def strategies() -> Catalogue:
    """Strategies, their papers, and their parameters as JSON Schema; those marked `operator` are
    set by the operator only.
    """
    return Catalogue(data=_listed("strategies"))


@router.get("/v1/detectors", tags=["lists"], responses=refusals(*ALWAYS))
async def detectors() -> Catalogue:
    """Detectors and their parameters as JSON Schema."""
    return Catalogue(data=_listed("detectors"))


@router.get("/health", tags=["state"], responses={503: {"model": Health, "description": "Dead."}})
async def health(http: Request) -> Any:
    """Whether the process lives; if not, it should be started again."""
    alive = _site(http).alive
    return _state("ok" if alive else "engine down", alive)


@router.get(
    "/ready", tags=["state"], responses={503: {"model": Health, "description": "Not ready."}}
)
async def ready(http: Request) -> Any:
    """Whether requests should come here."""
    status = _site(http).ready
    return _state(status, status == "ok")


@router.get("/version", tags=["state"])
async def version() -> Version:
    """What runs."""
    return Version(
        version=installed("halu"),
        torch=installed("torch"),
        transformers=installed("transformers"),
        python=platform.python_version(),
    )


@router.get("/metrics", tags=["state"], responses=refusals(404, *ALWAYS), response_class=Response)
async def metrics(http: Request) -> Response:
    """Counters for Prometheus."""
    if _site(http).settings.metrics_port is not None:
        raise NotFound("Metrics have a port of their own here.")
    page, kind = _site(http).metrics.page()
    return Response(page, headers={"content-type": kind})


def _state(status: str, good: bool) -> JSONResponse:
    return JSONResponse({"status": status}, 200 if good else 503)


@cache
def _listed(kind: str) -> list[dict[str, Any]]:
    return available(kind)
