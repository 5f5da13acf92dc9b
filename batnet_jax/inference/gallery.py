"""Galleries that a model searches: a feature file, images, or features in memory."""

from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import (
    FeatureFile,
    check_fingerprint,
    is_feature_file,
    open_features,
)
from batnet_jax.inference.joined_galleries import Places, join_galleries, places_of
from batnet_jax.inference.lance_gallery import LanceRows, is_lance, open_lance
from batnet_jax.inference.near_index import NearIndex
from batnet_jax.inference.where import find_rows
from batnet_jax.retrieval import ItemLists, top_k
from batnet_jax.retrieval.chosen_rows import ChosenRows
from batnet_jax.retrieval.row_file import RowFile

Rows: TypeAlias = np.ndarray | str | None
"""Gallery images to search: their indices, a condition of a database, or None for all."""


class Embedder(Protocol):
    """The methods of `Model` that opening a gallery needs."""

    dim: int
    fingerprint: str

    def find_images(self, images: Any, channels: str = "rgb", boxes: Any = None) -> Any:
        """Return paths, or None and images."""

    def embed_found(self, paths: Any, images: Any, channels: str = "rgb") -> np.ndarray:
        """Return features [n, d]."""
        ...


def open_gallery(model: Embedder, gallery: Any, channels: str) -> tuple[FeatureFile, Places | None]:
    """Open a gallery; also return which of several files each image comes from, if it is a list.

    Args:
      model: embeds images, and checks that a file holds its own features.
      gallery: a file of features (.npz, .npy, .index), or a list of such files; features [n, d] of
        floats; or images, see `Model.embed`.
      channels: of arrays.

    Raises: UserError if the features are of another model or another length.
    """
    if isinstance(gallery, list | tuple) and gallery and all(map(_is_file, gallery)):
        files = [open_gallery(model, one, channels)[0] for one in gallery]
        names = [str(one) for one in gallery]
        return join_galleries(files, names), places_of(files, names)
    if isinstance(gallery, str | Path) and is_gallery(gallery):
        found = open_kept(gallery)
        check_fingerprint(Path(gallery), found.fingerprint, model.fingerprint)
    elif isinstance(gallery, np.ndarray) and gallery.ndim == 2 and gallery.dtype.kind == "f":
        found = FeatureFile(gallery, None, model.fingerprint)
    else:
        paths, images = model.find_images(gallery, channels)
        found = FeatureFile(model.embed_found(paths, images, channels), paths, model.fingerprint)
    dim = found.features.shape[1]
    if dim != model.dim:
        raise UserError(
            f"the gallery holds features of {dim} dimensions, and the model's have {model.dim}: "
            "embed the gallery with this model"
        )
    return found, None


def _is_file(given: Any) -> bool:
    """Return whether a gallery is a file of features."""
    return isinstance(given, str | Path) and is_feature_file(Path(given))


def is_gallery(gallery: Any) -> bool:
    """Return whether a gallery is a file of features or a database, not images."""
    is_name = isinstance(gallery, str | Path)
    return is_lance(gallery) or (is_name and is_feature_file(Path(gallery)))


def open_kept(gallery: str | Path) -> FeatureFile:
    """Open a file of features or a database of them.

    Raises: UserError if it is missing or damaged.
    """
    return open_lance(gallery) if is_lance(gallery) else open_features(Path(gallery))


def choose_rows(gallery: FeatureFile, where: str | None) -> Rows:
    """Return the argument `rows` of `top_of_rows` for the gallery images that pass a filter.

    Args:
      gallery: an open one.
      where: the filter, see `where`; None for all images.

    Raises: UserError if the filter cannot be read, or names a column that is missing.
    """
    if where is None:
        return None
    if isinstance(gallery.features, LanceRows):
        return gallery.features.condition(where)
    return find_rows(where, gallery.columns, gallery.paths, len(gallery.features))


def top_of_rows(
    features: np.ndarray, gallery: np.ndarray | RowFile, top: int, rows: Rows
) -> tuple[np.ndarray, np.ndarray]:
    """Search as `retrieval.top_k` does, among some gallery images.

    An approximate index may miss some of the best, unless `rows` chooses what to compare.

    Args:
      features: of q queries, [q, d].
      gallery: [n, d].
      top: k.
      rows: [m] gallery images to search, ascending; None for all; see `choose_rows`.

    Returns: indices [q, min(k, m)] among all gallery images, int32 or of a database int64, and
      cosines.
    """
    if isinstance(gallery, LanceRows):
        return gallery.nearest(features, top, rows if isinstance(rows, str) else None)
    assert not isinstance(rows, str)
    if rows is None:
        is_near = isinstance(gallery, NearIndex)
        return gallery.nearest(features, top) if is_near else top_k(features, gallery, top)
    if not len(rows):
        return np.empty((len(features), 0), np.int32), np.empty((len(features), 0), np.float32)
    places, scores = top_k(features, ChosenRows(gallery, rows), top)
    return rows.astype(np.int32)[places], scores


def search_lists(
    features: np.ndarray,
    gallery: np.ndarray | RowFile,
    top: int,
    left_out: ItemLists | None = None,
    rows: Rows = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Search as `top_of_rows` does, and leave out some gallery images of each query.

    Args:
      features: of q queries, [q, d].
      gallery: [n, d].
      top: k.
      left_out: the gallery images to leave out, for each query; None for none.
      rows: the gallery images to search, ascending; None for all.

    Returns: indices and cosines of each query, at most k of each.
    """
    most = 0 if left_out is None else int(left_out.counts.max(initial=0))
    found = list(zip(*top_of_rows(features, gallery, top + most, rows), strict=True))
    if left_out is not None:
        kept = [~np.isin(indices, left_out.of(q)) for q, (indices, _) in enumerate(found)]
        found = [(i[keep], s[keep]) for (i, s), keep in zip(found, kept, strict=True)]
    return [(indices[:top], scores[:top]) for indices, scores in found]
