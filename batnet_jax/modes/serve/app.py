"""The web application of the mode `serve`: its pages and endpoints.

Uploads are never written to the disk. Requests ask for gallery images by number, so no request can
name a file.
"""

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batnet_jax.inference.search import Searcher
from batnet_jax.modes.serve.access import Guard, HostNames, refuse
from batnet_jax.modes.serve.endpoints import Endpoints
from batnet_jax.modes.serve.following import Following
from batnet_jax.modes.serve.openapi import describe_api
from batnet_jax.modes.serve.verdicts import Bands
from batnet_jax.report.page import read_parts

FOLDER = Path(__file__).parent


def make_app(
    searcher: Searcher | Following,
    names: HostNames,
    token: str | None = None,
    bands: Bands | None = None,
    lowest: float | None = None,
) -> Guard:
    """Make the application: the page, and what `openapi.py` describes.

    Args:
      searcher: the model and the gallery, which may follow its files.
      names: the host names to answer to.
      token: the token that requests must send; None = requests need no token.
      bands: turn scores into words; None = no words.
      lowest: leave out hits below this score; None = keep all.
    """
    following = searcher if isinstance(searcher, Following) else Following(searcher)
    endpoints = Endpoints(following, bands, lowest)
    pages = {name: (FOLDER / name).read_text("utf-8") for name in ("page.html", "page.css")}
    scripts = "\n".join((FOLDER / name).read_text("utf-8") for name in ("page.js", "crop.js"))
    routes = [
        Route("/", _constant(pages["page.html"], "text/html")),
        Route("/page.css", _constant(read_parts(["base.css"]) + pages["page.css"], "text/css")),
        Route("/page.js", _constant(scripts, "text/javascript")),
        Route("/openapi.json", _openapi),
        Route("/health", endpoints.health),
        Route("/search", endpoints.search, methods=["POST"]),
        Route("/embed", endpoints.embed, methods=["POST"]),
        Route("/gallery", endpoints.gallery),
        Route("/gallery/{number}", endpoints.gallery_image),
        Route("/gallery/{number}/similar", endpoints.similar),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse})
    app.router.redirect_slashes = False
    return Guard(app, names, token)


def _constant(text: str, media_type: str) -> Any:
    """Return an endpoint that always answers with one text."""

    async def answer(request: Request) -> Response:
        del request
        return Response(text, media_type=media_type)

    return answer


async def _openapi(request: Request) -> Response:
    """Answer with the description of all endpoints."""
    del request
    return JSONResponse(describe_api())


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer an HTTPException with its detail as JSON."""
    del request
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return refuse(error.status_code, error.detail, headers)
