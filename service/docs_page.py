"""The page at `/docs`: the OpenAPI document as plain HTML, so that it needs no network."""

from functools import cache
from typing import Any

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, Template
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(http: Request) -> HTMLResponse:
    """Every route with what it takes and gives."""
    return HTMLResponse(_template().render(document=http.app.openapi(), routes=_routes(http)))


def _routes(http: Request) -> list[dict[str, Any]]:
    document = http.app.openapi()
    return [
        {"path": path, "method": method.upper(), **route}
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]


@cache
def _template() -> Template:
    loader = PackageLoader("halu.service", "templates")
    return Environment(loader=loader, autoescape=True).get_template("docs.html")
