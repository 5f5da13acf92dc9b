"""The answers of `--mode=serve`.

Nothing that is sent is written to the disk. Gallery images are asked for by their number, so no
request can name a file. Answers are for this page alone: no other site may read or frame them.
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

from batnet_jax.data.files.image_headers import is_cut_off, read_pixels
from batnet_jax.data.loading.images import ImageFiles
from batnet_jax.data.loading.loader import decode
from batnet_jax.errors import UserError
from batnet_jax.inference.search import Searcher
from batnet_jax.modes.search import hits

MOST_BYTES = 10 * 2**20
MOST_PIXELS = 50_000_000
MOST_HITS = 100
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
THUMBNAIL = (256, 192)
"""Height and width into which a gallery image is fitted, in pixels."""
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
    """The application: the page, `POST /search` and `GET /gallery/<number>`.

    Args:
      searcher: the model and the gallery.
      local: answer only to this machine's names, so that no web site can reach the page under a
        name of its own.
    """
    folder = Path(__file__).parent
    routes = [
        Route(path, _fixed((folder / name).read_text(encoding="utf-8"), kind))
        for path, (name, kind) in PAGES.items()
    ]
    desk = _Desk(searcher)
    routes += [
        Route("/search", desk.search, methods=["POST"]),
        Route("/gallery/{number:int}", desk.picture),
    ]
    names = LOCAL_NAMES if local else ["*"]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)],
        exception_handlers={HTTPException: _refuse},
    )


def _fixed(text: str, kind: str) -> Any:
    async def answer(request: Request) -> Response:
        del request
        return Response(text, media_type=kind, headers=HEADERS)

    return answer


async def _refuse(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": error.detail}, error.status_code, headers={**HEADERS, **(error.headers or {})}
    )


class _Desk:
    """Answers what needs the model or the gallery; one search at a time."""

    def __init__(self, searcher: Searcher):
        self._searcher = searcher
        self._busy = threading.Lock()
        paths = searcher.gallery.paths or []
        folders = {os.path.dirname(path) for path in paths}
        mixed = len({os.path.isabs(folder) for folder in folders}) != 1
        above = "" if mixed else os.path.commonpath(folders)
        self._above = os.path.join(above, "")  # what all paths share

    async def search(self, request: Request) -> Response:
        """The ranked list of the image in the request's body, JSON."""
        top = _number(request.query_params.get("top", "10"))
        if not request.headers.get("content-type", "").startswith("image/"):
            # Other sites' forms cannot send such a type without being asked for leave.
            raise HTTPException(415, f"send an image: {', '.join(FORMATS)}")
        content = await _read(request)
        return JSONResponse(await run_in_threadpool(self._find, content, top), headers=HEADERS)

    def _find(self, content: bytes, top: int) -> dict[str, Any]:
        start = time.perf_counter()
        check_upload(content)
        try:
            image = decode(content, self._searcher.model.image_size, "the image")
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        with self._busy:
            indices, scores = self._searcher.search(image[None], top)
        found = hits(self._searcher, indices[0], scores[0])
        for hit in found:
            hit["path"] = hit["path"].removeprefix(self._above)
        total = len(self._searcher.gallery.features)
        return {"hits": found, "gallery": total, "seconds": time.perf_counter() - start}

    def picture(self, request: Request) -> Response:
        """A gallery image, made small, JPEG."""
        number, paths = request.path_params["number"], self._searcher.gallery.paths
        if paths is None or number >= len(paths):
            raise HTTPException(404, "there is no such gallery image")
        lost = "the image is no longer where it was embedded from"
        try:
            image = read_pixels(ImageFiles([paths[number]]).encoded(0))
        except UserError as error:
            raise HTTPException(404, lost) from error
        scale = min(1.0, *(most / size for most, size in zip(THUMBNAIL, image.shape, strict=False)))
        if scale < 1:
            size = [max(1, round(scale * length)) for length in image.shape[1::-1]]
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(".jpg", image)
        return Response(np.asarray(encoded).tobytes(), media_type="image/jpeg", headers=HEADERS)


def _number(given: str) -> int:
    if not given.isdecimal() or not 1 <= int(given) <= MOST_HITS:
        raise HTTPException(400, f"top={given[:20]}: must be 1 to {MOST_HITS}")
    return int(given)


async def _read(request: Request) -> bytes:
    """The body; it is no longer read once it is too long."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise HTTPException(413, f"the file is too large: at most {MOST_BYTES >> 20} MB")
    return bytes(content)


def check_upload(content: bytes) -> None:
    """Looks at an image's beginning only, before anything is made of it.

    Raises: HTTPException if it is of another format, too large or cut off.
    """
    wanted = f"this is no image of a known kind: {', '.join(FORMATS)}"
    large = f"the image is too large: at most {MOST_PIXELS // 10**6} megapixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise HTTPException(413, large) from error
    except Exception as error:  # Pillow raises what it likes of damaged headers
        raise HTTPException(415, wanted) from error
    if width * height > MOST_PIXELS:
        raise HTTPException(413, large)
    if is_cut_off(content):
        raise HTTPException(422, "the image is cut off")
