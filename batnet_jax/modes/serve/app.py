"""The web application of the mode `serve`.

Uploads are never written to the disk. Requests ask for gallery images by number, so no request can
name a file. Headers keep other sites from reading or framing the answers.
"""

import io
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batnet_jax.data.files.image_headers import is_cut_off
from batnet_jax.data.files.pixels import describe_transparent, read_picture
from batnet_jax.data.loading.loader import decode_into
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError, printable
from batnet_jax.inference.search import Searcher
from batnet_jax.modes.search import hits

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 50_000_000
MAX_HITS = 100
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
THUMBNAIL = (256, 192)
"""Largest height and width of a gallery image on the page, in pixels."""
LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
PAGES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
PAGES |= {"/page.js": ("page.js", "text/javascript")}


def make_app(searcher: Searcher, *, local: bool) -> Starlette:
    """Make the application: the page, `POST /search` and `GET /gallery/<number>`.

    Args:
      searcher: the model and the gallery.
      local: answer only requests to local host names, so that a web site cannot reach the
        application through a domain of its own (DNS rebinding).
    """
    folder = Path(__file__).parent
    routes = [
        Route(path, _constant((folder / name).read_text(encoding="utf-8"), media_type))
        for path, (name, media_type) in PAGES.items()
    ]
    endpoints = _SearchEndpoints(searcher)
    routes += [
        Route("/search", endpoints.search, methods=["POST"]),
        Route("/gallery/{number:int}", endpoints.gallery_image),
    ]
    names = LOCAL_NAMES if local else ["*"]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)],
        exception_handlers={HTTPException: _refuse},
    )


def _constant(text: str, media_type: str) -> Any:
    """Return an endpoint that always answers with one text."""

    async def answer(request: Request) -> Response:
        del request
        return Response(text, media_type=media_type, headers=HEADERS)

    return answer


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer an HTTPException with its detail as JSON."""
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": error.detail}, error.status_code, headers={**HEADERS, **(error.headers or {})}
    )


class _SearchEndpoints:
    """The endpoints that need the model or the gallery; one search runs at a time."""

    def __init__(self, searcher: Searcher):
        self._searcher = searcher
        self._busy = threading.Lock()
        paths = searcher.gallery.paths or []
        folders = {os.path.dirname(path) for path in paths}
        mixed = len({os.path.isabs(folder) for folder in folders}) != 1
        common = "" if mixed else os.path.commonpath(folders)
        self._common_folder = os.path.join(common, "")

    async def search(self, request: Request) -> Response:
        """Answer with the ranked list, as JSON, of the image in the request's body."""
        top = _parse_top(request.query_params.get("top", "10"))
        if not request.headers.get("content-type", "").startswith("image/"):
            # A form of another site cannot send an image type without a CORS preflight request.
            raise HTTPException(415, f"send an image: {', '.join(FORMATS)}")
        content = await _read_body(request)
        return JSONResponse(await run_in_threadpool(self._find, content, top), headers=HEADERS)

    def _find(self, content: bytes, top: int) -> dict[str, Any]:
        start = time.perf_counter()
        check_upload(content)
        model = self._searcher.model
        image = np.empty((*model.image_size, 3), np.uint8)
        try:
            transparent = decode_into(content, image, "the image", model.alpha)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        with self._busy:
            indices, scores = self._searcher.search(image[None], top)
        ranked = hits(self._searcher, indices[0], scores[0])
        for hit in ranked:
            hit["path"] = printable(hit["path"].removeprefix(self._common_folder))
        total = len(self._searcher.gallery.features)
        note = describe_transparent(1, 1, model.alpha) if transparent else ""
        seconds = time.perf_counter() - start
        return {"hits": ranked, "gallery": total, "seconds": seconds, "note": note}

    def gallery_image(self, request: Request) -> Response:
        """Answer with a gallery image, shrunk to `THUMBNAIL`, as JPEG."""
        number, paths = request.path_params["number"], self._searcher.gallery.paths
        if paths is None or number >= len(paths):
            raise HTTPException(404, "there is no such gallery image")
        try:
            encoded = ImageFiles([str(paths[number])]).encoded(0)
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
        return Response(np.asarray(jpeg).tobytes(), media_type="image/jpeg", headers=HEADERS)


def _parse_top(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= MAX_HITS:
        raise HTTPException(400, f"top={value[:20]}: must be 1 to {MAX_HITS}")
    return int(value)


async def _read_body(request: Request) -> bytes:
    """Read the body of a request; stop as soon as it is too long."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            raise HTTPException(413, f"the file is too large: at most {MAX_BYTES >> 20} MB")
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
