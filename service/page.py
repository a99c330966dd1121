"""The page at `/`, on which people try the service; its files lie in `static/`."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
ASK_AGAIN = {"cache-control": "no-cache"}
"""Browsers may keep the files, but ask whether they are current: an upgrade is seen whole."""


class CurrentFiles(StaticFiles):
    """Files that are asked for again."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """As the base class, with the header."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(ASK_AGAIN)
        return response


def add_page(app: FastAPI) -> None:
    """Adds the page and its files; neither needs a key."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", headers=ASK_AGAIN)

    app.mount("/static", CurrentFiles(directory=STATIC), name="static")
