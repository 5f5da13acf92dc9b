"""Answers about one gallery: ranked lists, features and pictures.

A new gallery gets a new `Answers`; requests that have begun keep the old one.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.loading.described_images import box_at
from batnet_jax.data.loading.user_arrays import cut_box
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError, printable
from batnet_jax.inference.gallery import Rows
from batnet_jax.inference.search import Searcher
from batnet_jax.modes.search import hits, keep_accepted
from batnet_jax.modes.serve.uploads import Box, decode_query
from batnet_jax.modes.serve.verdicts import Bands


class Answers:
    """Answers about the gallery of a searcher."""

    def __init__(
        self,
        searcher: Searcher,
        bands: Bands | None,
        changes: int = 0,
        *,
        lowest: float | None = None,
    ):
        """Keep the searcher.

        Args:
          searcher: a gallery and its model.
          bands: turn scores into words; None = no words.
          changes: how often the gallery was replaced before.
          lowest: leave out hits below this score; None = keep all.
        """
        self.searcher, self.changes = searcher, changes
        self._bands, self._lowest = bands, lowest
        self._common_folder = searcher.common_folder

    @property
    def count(self) -> int:
        """The number of gallery images."""
        return len(self.searcher.gallery.features)

    def find(self, content: bytes, box: Box | None, top: int, where: str | None) -> Response:
        """Decode an image and search it.

        Raises: HTTPException if the image cannot be decoded, the filter is wrong, or the gallery
          cannot be read.
        """
        start = time.perf_counter()
        rows = self._passing(where)
        model = self.searcher.model
        image, note = decode_query(content, box, model.image_size, model.alpha)
        indices, scores = _readable(lambda: self.searcher.search(image[None], top, rows))
        return self._answer(indices[0], scores[0], start, note)

    def find_like(self, number: int, top: int, where: str | None) -> Response:
        """Search with the feature of a gallery image.

        Raises: HTTPException if the filter is wrong, or the gallery cannot be read.
        """
        start = time.perf_counter()
        rows = self._passing(where)

        def find() -> tuple[np.ndarray, np.ndarray]:
            return self.searcher.search_features(self.searcher.feature(number), top + 1, rows)

        indices, scores = _readable(find)
        others = indices[0] != number
        return self._answer(indices[0][others][:top], scores[0][others][:top], start, "")

    def embed(self, content: bytes, box: Box | None, *, normalize: bool) -> Response:
        """Answer with the feature of an image.

        Raises: HTTPException if the image cannot be decoded, or the gallery is of another model.
        """
        model = self.searcher.model
        image, note = decode_query(content, box, model.image_size, model.alpha)
        features = _readable(lambda: self.searcher.embed(image[None]))
        feature = np.asarray(features[0], np.float64)
        if normalize:
            feature = feature / (np.linalg.norm(feature) or 1)
        values = {"feature": feature.tolist(), "dim": len(feature), "step": model.step}
        return JSONResponse(values | {"note": note})

    def samples(self, number: int) -> list[dict[str, Any]]:
        """Describe some gallery images, evenly spaced; see `describe`.

        Raises: HTTPException if the gallery cannot be read.
        """
        return _readable(lambda: [self.describe(i) for i in self.searcher.sample(number)])

    def column_names(self) -> list[str]:
        """Return the names that a filter can use."""
        return [printable(name) for name in self.searcher.column_names()]

    def count_passing(self, where: str) -> int:
        """Return how many gallery images pass a filter.

        Raises: HTTPException if the filter is wrong, or the gallery cannot be read.
        """
        rows = self._passing(where)
        return _readable(lambda: self.searcher.count(rows))

    def has(self, number: int) -> bool:
        """Return whether there is a gallery image of a number.

        Raises: HTTPException if the gallery cannot be read.
        """
        return _readable(lambda: self.searcher.has(number))

    def describe(self, i: int) -> dict[str, Any]:
        """Return the index, the path and, if people have names, the name of a gallery image."""
        about: dict[str, Any] = {"index": i, "path": self._shown(self.searcher.name(i))}
        return about | ({"name": self.searcher.person(i)} if self.searcher.names else {})

    def shrink(self, number: int, size: tuple[int, int]) -> Response:
        """Answer with an image file, or its box, as JPEG.

        Args:
          number: of the gallery image, which has a path.
          size: the largest height and width.

        Raises: HTTPException if the file cannot be read.
        """
        path = self.searcher.name(number)
        try:
            encoded = ImageFiles([path]).encoded(0)
            image = read_picture(encoded, self.searcher.model.alpha).pixels
            box = box_at(self.searcher.gallery.columns, number)
            if box is not None:
                image = cut_box(image, np.array(box), "the box")
        except UserError as error:
            raise HTTPException(404, "the image file has been moved or deleted") from error
        scale = min(1.0, *(limit / own for limit, own in zip(size, image.shape, strict=False)))
        if scale < 1:
            shape = [max(1, round(scale * length)) for length in image.shape[1::-1]]
            image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return Response(np.asarray(jpeg).tobytes(), media_type="image/jpeg")

    def _passing(self, where: str | None) -> Rows:
        """Return the gallery images that pass a filter; None for all.

        Raises: HTTPException if the filter is wrong.
        """
        try:
            return self.searcher.find_rows(where)
        except UserError as error:
            raise HTTPException(400, f"where: {error}") from error

    def _answer(self, indices: np.ndarray, scores: np.ndarray, start: float, note: str) -> Response:
        """Answer with a ranked list."""
        ranked = _readable(lambda: hits(self.searcher, indices, scores))
        for hit in ranked:
            hit["path"] = self._shown(hit["path"])
            hit["verdict"] = self._bands.verdict(hit["score"]) if self._bands else None
            if "gallery" in hit:
                hit["gallery"] = printable(hit["gallery"])
        found = {"hits": ranked, "gallery": self.count, "changes": self.changes}
        if self._lowest is not None:
            found = keep_accepted(found, self._lowest)
        return JSONResponse(found | {"seconds": time.perf_counter() - start, "note": note})

    def _shown(self, path: str) -> str:
        return printable(path.removeprefix(self._common_folder))


def _readable(work: Callable[[], Any]) -> Any:
    """Return the result of work on the gallery, whose file may have been damaged meanwhile."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise HTTPException(503, "the gallery cannot be read") from error
