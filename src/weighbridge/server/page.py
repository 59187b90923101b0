"""The built page: static files, and the one HTML file for every address that the page itself routes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from weighbridge.errors import WeighbridgeError

STATIC: Final = Path(__file__).parent / "static"

HOW_TO_BUILD: Final = (
    "The page of this weighbridge was not built (it was installed with WEIGHBRIDGE_SKIP_UI=1 or where npm could not be "
    "reached).\n"
    "Install it again where npm can be reached: pip install --force-reinstall --no-deps weighbridge,\n"
    "or, in a clone: cd frontend && npm ci --ignore-scripts && npm run build.\n"
    "Without the page: weighbridge ls and weighbridge show RUN print the same numbers."
)


class PageNotBuilt(WeighbridgeError):
    """This installation has no page."""


def check_built(static: Path = STATIC) -> None:
    """Raise PageNotBuilt with what to do, where there is no page."""
    if not (static / "index.html").is_file():
        raise PageNotBuilt(HOW_TO_BUILD)


def file_or_page(static: Path, request: Request) -> Response:
    """A static file where there is one of this name; else the page, which reads the address itself."""
    wanted = request.url.path.lstrip("/")
    target = (static / wanted).resolve() if wanted and "\0" not in wanted else static / "index.html"
    if target.is_relative_to(static.resolve()) and target.is_file() and wanted != "":
        return FileResponse(target, headers={"cache-control": _kept_for(wanted)})
    if wanted.startswith("assets/"):
        raise HTTPException(404, f"There is no file {wanted!r}.")
    index = static / "index.html"
    if not index.is_file():
        return PlainTextResponse(HOW_TO_BUILD, status_code=503)
    return FileResponse(index, headers={"cache-control": "no-cache"})


def _kept_for(name: str) -> str:
    if name.startswith("assets/"):  # named by their content
        return "public, max-age=31536000, immutable"
    return "public, max-age=3600" if name == "icon.svg" else "no-cache"  # browsers ask for the icon with every new address
