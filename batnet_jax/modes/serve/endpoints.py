"""The endpoints of the mode `serve` that need the model or the gallery."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError, printable
from batnet_jax.inference.search import Searcher
from batnet_jax.modes.search import hits
from batnet_jax.modes.serve.turns import Turns, client_of
from batnet_jax.modes.serve.uploads import (
    FORMATS,
    Box,
    decode_query,
    parse_box,
    parse_number,
    read_body,
)
from batnet_jax.modes.serve.verdicts import Bands
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.version import VERSION

MAX_HITS = 100
MAX_SAMPLES = 100
MAX_SEARCHES = 1
"""Queries that are decoded and searched at a time: a query of 50 megapixels takes 0.6 GB."""
MAX_PICTURES = 2
"""Gallery images that are decoded at a time."""
SIZES = {"small": (512, 256), "large": (1024, 1024)}
"""Largest height and width of a gallery image on the page, in pixels."""


class Endpoints:
    """Answers to requests."""

    def __init__(self, searcher: Searcher, bands: Bands | None):
        self._searcher, self._bands = searcher, bands
        self._searches, self._pictures = Turns(MAX_SEARCHES), Turns(MAX_PICTURES)
        paths = searcher.gallery.paths or []
        folders = {os.path.dirname(path) for path in paths}
        mixed = len({os.path.isabs(folder) for folder in folders}) != 1
        common = "" if mixed else os.path.commonpath(folders)
        self._common_folder = os.path.join(common, "")

    async def health(self, request: Request) -> Response:
        """Answer with the model, the gallery and the thresholds."""
        del request
        model, bands = self._searcher.model, self._bands
        height, width = model.image_size
        about = {
            "name": printable(self._searcher.workdir.absolute().name),
            "step": model.step,
            "dim": model.dim,
            "input": f"{height} x {width}",
        }
        words = (
            {"same": bands.same, "different": bands.different, "rate": bands.rate}
            if bands
            else None
        )
        count = len(self._searcher.gallery.features)
        return JSONResponse(
            {"status": "ok", "version": VERSION, "gallery": count, "model": about, "bands": words}
        )

    async def search(self, request: Request) -> Response:
        """Answer with the ranked list, as JSON, of the image in the request's body."""
        top, box = _parse_top(request), parse_box(request.query_params.get("box"))
        where = request.query_params.get("where")
        content = await _read_image(request)
        return await self._in_turn(
            self._searches, request, lambda: self._find(content, box, top, where)
        )

    async def similar(self, request: Request) -> Response:
        """Answer with the ranked list of a gallery image, which is not in its own list."""
        number, top = self._parse_item(request), _parse_top(request)
        where = request.query_params.get("where")
        return await self._in_turn(
            self._searches, request, lambda: self._find_like(number, top, where)
        )

    async def embed(self, request: Request) -> Response:
        """Answer with the feature of the image in the request's body."""
        box = parse_box(request.query_params.get("box"))
        normalize = request.query_params.get("normalize", "false")
        if normalize not in ("true", "false"):
            raise HTTPException(400, "normalize must be true or false")
        content = await _read_image(request)

        def work() -> Response:
            model = self._searcher.model
            image, note = decode_query(content, box, model.image_size, model.alpha)
            feature = np.asarray(self._embed(image)[0], np.float64)
            if normalize == "true":
                feature = feature / (np.linalg.norm(feature) or 1)
            values = {"feature": feature.tolist(), "dim": len(feature), "step": model.step}
            return JSONResponse(values | {"note": note})

        return await self._in_turn(self._searches, request, work)

    async def gallery(self, request: Request) -> Response:
        """Answer with the number of gallery images, and some of them, evenly spaced."""
        wanted = parse_number(request.query_params.get("samples", "12"))
        if wanted is None or wanted > MAX_SAMPLES:
            raise HTTPException(400, f"samples must be 0 to {MAX_SAMPLES}")
        count = len(self._searcher.gallery.features)
        chosen = np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int))
        samples = [self._describe(int(i)) for i in chosen]
        return JSONResponse({"gallery": count, "samples": samples})

    async def gallery_image(self, request: Request) -> Response:
        """Answer with a gallery image, shrunk to one of `SIZES`, as JPEG."""
        number, paths = self._parse_item(request), self._searcher.gallery.paths
        size = SIZES.get(request.query_params.get("size", "small"))
        if size is None:
            raise HTTPException(400, f"size must be {' or '.join(SIZES)}")
        if paths is None:
            raise HTTPException(404, "this gallery has no image files")
        path = str(paths[number])
        return await self._in_turn(self._pictures, request, lambda: self._shrink(path, size))

    def _parse_item(self, request: Request) -> int:
        """Return the gallery index in a request's path."""
        number = parse_number(request.path_params["number"])
        if number is None or number >= len(self._searcher.gallery.features):
            raise HTTPException(404, "there is no such gallery image")
        return number

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

    def _find(self, content: bytes, box: Box | None, top: int, where: str | None) -> Response:
        """Decode an image and search it.

        Raises: HTTPException if the image cannot be decoded, the filter is wrong, or the gallery
          cannot be read.
        """
        start = time.perf_counter()
        rows = self._passing(where)
        model = self._searcher.model
        image, note = decode_query(content, box, model.image_size, model.alpha)
        indices, scores = _readable(lambda: self._searcher.search(image[None], top, rows))
        return self._answer(indices[0], scores[0], start, note)

    def _find_like(self, number: int, top: int, where: str | None) -> Response:
        """Search a gallery image by its own feature.

        Raises: HTTPException if the filter is wrong, or the gallery cannot be read.
        """
        start = time.perf_counter()
        rows = self._passing(where)

        def find() -> tuple[np.ndarray, np.ndarray]:
            feature = read_rows(self._searcher.gallery.features, slice(number, number + 1))
            return self._searcher.search_features(feature, top + 1, rows)

        indices, scores = _readable(find)
        others = indices[0] != number
        return self._answer(indices[0][others][:top], scores[0][others][:top], start, "")

    def _passing(self, where: str | None) -> np.ndarray | None:
        """Return the gallery images that pass a filter; None for all.

        Raises: HTTPException if the filter is wrong.
        """
        try:
            return self._searcher.find_rows(where)
        except UserError as error:
            raise HTTPException(400, f"where: {error}") from error

    def _embed(self, image: np.ndarray) -> np.ndarray:
        return _readable(lambda: self._searcher.embed(image[None]))

    def _answer(self, indices: np.ndarray, scores: np.ndarray, start: float, note: str) -> Response:
        """Answer with a ranked list."""
        ranked = hits(self._searcher, indices, scores)
        for hit in ranked:
            hit["path"] = self._shown(hit["path"])
            hit["verdict"] = self._bands.verdict(hit["score"]) if self._bands else None
        total = len(self._searcher.gallery.features)
        seconds = time.perf_counter() - start
        return JSONResponse({"hits": ranked, "gallery": total, "seconds": seconds, "note": note})

    def _describe(self, i: int) -> dict[str, Any]:
        """Return the index, the path and, if people have names, the name of a gallery image."""
        about: dict[str, Any] = {"index": i, "path": self._shown(self._searcher.name(i))}
        return about | ({"name": self._searcher.person(i)} if self._searcher.names else {})

    def _shown(self, path: str) -> str:
        return printable(path.removeprefix(self._common_folder))

    def _shrink(self, path: str, size: tuple[int, int]) -> Response:
        """Answer with an image file.

        Raises: HTTPException if the file cannot be read.
        """
        try:
            encoded = ImageFiles([path]).encoded(0)
            image = read_picture(encoded, self._searcher.model.alpha).pixels
        except UserError as error:
            raise HTTPException(404, "the image file has been moved or deleted") from error
        scale = min(1.0, *(limit / own for limit, own in zip(size, image.shape, strict=False)))
        if scale < 1:
            shape = [max(1, round(scale * length)) for length in image.shape[1::-1]]
            image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return Response(np.asarray(jpeg).tobytes(), media_type="image/jpeg")


def _readable(work: Callable[[], Any]) -> Any:
    """Return the result of work on the gallery, whose file may have been damaged meanwhile."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise HTTPException(503, "the gallery cannot be read") from error


def _parse_top(request: Request) -> int:
    top = parse_number(request.query_params.get("top", "10"))
    if top is None or not 1 <= top <= MAX_HITS:
        raise HTTPException(400, f"top must be 1 to {MAX_HITS}")
    return top


async def _read_image(request: Request) -> bytes:
    """Return the image in a request's body."""
    if not request.headers.get("content-type", "").startswith("image/"):
        # A form of another site cannot send an image type without a CORS preflight request.
        raise HTTPException(415, f"send an image: {', '.join(FORMATS)}")
    return await read_body(request)
