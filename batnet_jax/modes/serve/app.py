"""The web application of the mode `serve`.

Uploads are never written to the disk. Requests ask for gallery images by number, so no request can
name a file.
"""

import asyncio
import io
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batnet_jax.data.files.image_headers import is_cut_off
from batnet_jax.data.files.pixels import describe_transparent, read_picture
from batnet_jax.data.loading.loader import decode_into
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError, printable
from batnet_jax.inference.search import Searcher
from batnet_jax.modes.search import hits
from batnet_jax.modes.serve.access import Guard, HostNames, refuse
from batnet_jax.modes.serve.turns import Turns, client_of

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 50_000_000
MAX_HITS = 100
MAX_SEARCHES = 1
"""Queries that are decoded and searched at a time: a query of 50 megapixels takes 0.6 GB."""
MAX_PICTURES = 2
"""Gallery images that are decoded at a time."""
BODY_SECONDS = 60
"""Time to send an image."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
THUMBNAIL = (256, 192)
"""Largest height and width of a gallery image on the page, in pixels."""
PAGES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
PAGES |= {"/page.js": ("page.js", "text/javascript")}


def make_app(searcher: Searcher, names: HostNames, token: str | None = None) -> Guard:
    """Make the application: the page, `POST /search` and `GET /gallery/<number>`.

    Args:
      searcher: the model and the gallery.
      names: the host names to answer to.
      token: what a request must know; None for nothing.
    """
    folder = Path(__file__).parent
    routes = [
        Route(path, _constant((folder / name).read_text(encoding="utf-8"), media_type))
        for path, (name, media_type) in PAGES.items()
    ]
    endpoints = _SearchEndpoints(searcher)
    routes += [
        Route("/search", endpoints.search, methods=["POST"]),
        Route("/gallery/{number}", endpoints.gallery_image),
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


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer an HTTPException with its detail as JSON."""
    del request
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return refuse(error.status_code, error.detail, headers)


class _SearchEndpoints:
    """The endpoints that need the model or the gallery."""

    def __init__(self, searcher: Searcher):
        self._searcher = searcher
        self._searches, self._pictures = Turns(MAX_SEARCHES), Turns(MAX_PICTURES)
        paths = searcher.gallery.paths or []
        folders = {os.path.dirname(path) for path in paths}
        mixed = len({os.path.isabs(folder) for folder in folders}) != 1
        common = "" if mixed else os.path.commonpath(folders)
        self._common_folder = os.path.join(common, "")

    async def search(self, request: Request) -> Response:
        """Answer with the ranked list, as JSON, of the image in the request's body."""
        top = _parse_number(request.query_params.get("top", "10"))
        if top is None or not 1 <= top <= MAX_HITS:
            raise HTTPException(400, f"top must be 1 to {MAX_HITS}")
        if not request.headers.get("content-type", "").startswith("image/"):
            # A form of another site cannot send an image type without a CORS preflight request.
            raise HTTPException(415, f"send an image: {', '.join(FORMATS)}")
        content = await _read_body(request)
        return await self._in_turn(self._searches, request, lambda: self._find(content, top))

    async def gallery_image(self, request: Request) -> Response:
        """Answer with a gallery image, shrunk to `THUMBNAIL`, as JPEG."""
        number = _parse_number(request.path_params["number"])
        paths = self._searcher.gallery.paths
        if number is None or paths is None or number >= len(paths):
            raise HTTPException(404, "there is no such gallery image")
        path = str(paths[number])
        return await self._in_turn(self._pictures, request, lambda: self._shrink(path))

    async def _in_turn(
        self, turns: Turns, request: Request, work: Callable[[], Response]
    ) -> Response:
        """Do the work of a request in a thread when it is its client's turn.

        Raises: HTTPException as `work`, or with status 503 if memory is short.
        """
        async with turns.take(client_of(request)):
            if await request.is_disconnected():
                return Response(status_code=503)  # for nobody
            try:
                return await run_in_threadpool(work)
            except MemoryError as error:
                raise HTTPException(503, "there is too little memory for this image") from error

    def _find(self, content: bytes, top: int) -> Response:
        """Decode an image and search it.

        Raises: HTTPException if the image cannot be decoded, or the gallery cannot be read.
        """
        start = time.perf_counter()
        check_upload(content)
        model = self._searcher.model
        image = np.empty((*model.image_size, 3), np.uint8)
        try:
            transparent = decode_into(content, image, "the image", model.alpha)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        try:
            indices, scores = self._searcher.search(image[None], top)
        except UserError as error:  # the gallery's file has been damaged meanwhile
            print(f"error: {error}", file=sys.stderr)
            raise HTTPException(503, "the gallery cannot be read") from error
        ranked = hits(self._searcher, indices[0], scores[0])
        for hit in ranked:
            hit["path"] = printable(hit["path"].removeprefix(self._common_folder))
        total = len(self._searcher.gallery.features)
        note = describe_transparent(1, 1, model.alpha) if transparent else ""
        seconds = time.perf_counter() - start
        return JSONResponse({"hits": ranked, "gallery": total, "seconds": seconds, "note": note})

    def _shrink(self, path: str) -> Response:
        """Answer with an image file.

        Raises: HTTPException if the file cannot be read.
        """
        try:
            encoded = ImageFiles([path]).encoded(0)
            image = read_picture(encoded, self._searcher.model.alpha).pixels
        except UserError as error:
            raise HTTPException(404, "the image file has been moved or deleted") from error
        scale = min(
            1.0, *(limit / size for limit, size in zip(THUMBNAIL, image.shape, strict=False))
        )
        if scale < 1:
            size = [max(1, round(scale * length)) for length in image.shape[1::-1]]
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return Response(np.asarray(jpeg).tobytes(), media_type="image/jpeg")


def _parse_number(text: str) -> int | None:
    """Return decimal digits as a number; None for other text and huge numbers."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


async def _read_body(request: Request) -> bytes:
    """Read the body of a request; stop as soon as it is too long.

    Raises: HTTPException if the body is too long, takes too long or breaks off.
    """
    too_long = HTTPException(413, f"the file is too large: at most {MAX_BYTES >> 20} MB")
    declared = _parse_number(request.headers.get("content-length", "0"))
    if declared is None or declared > MAX_BYTES:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > MAX_BYTES:
                    raise too_long
    except TimeoutError as error:
        raise HTTPException(408, f"the upload took longer than {BODY_SECONDS} s") from error
    except ClientDisconnect as error:
        size = f"{len(content):,} bytes"
        print(f"{client_of(request)}: an upload broke off after {size}", file=sys.stderr)
        raise HTTPException(400, "the upload broke off") from error
    return bytes(content)


def check_upload(content: bytes) -> None:
    """Check the header of an uploaded image before the image is decoded.

    Raises: HTTPException if the image has another format, is too large or is cut off.
    """
    unknown = f"this is not an image of a known format: {', '.join(FORMATS)}"
    too_large = f"the image is too large: at most {MAX_PIXELS // 10**6} megapixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise HTTPException(413, too_large) from error
    except Exception as error:  # Pillow raises many types of errors for damaged headers
        raise HTTPException(415, unknown) from error
    if width * height > MAX_PIXELS:
        raise HTTPException(413, too_large)
    if is_cut_off(content):
        raise HTTPException(422, "the image is cut off")
