"""Gallery items that single queries leave out, such as each query's own image.

If a set is searched in itself, each query finds its own image first. Ids or indices tell which
images to leave out. Protocols that compare two cameras, or people who have changed their clothes,
leave out further items, given as lists of indices.
"""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from batnet_jax.errors import UserError
from batnet_jax.retrieval.checks import as_array
from batnet_jax.retrieval.image_set import JUNK_PID, ImageSet, check_pair
from batnet_jax.retrieval.mapped_rows import ROWS_AT_ONCE, read_rows
from batnet_jax.retrieval.matches import ItemLists, find_matches, make_lists, match_keys

_FIRST_COLUMNS = 8
"""Columns of a feature that are compared first: few pairs of images agree in them."""
_PAIRS_AT_ONCE = 2**20
_PACKAGE = str(Path(__file__).parent)


class SameImageWarning(UserWarning):
    """A warning that a query seems to find itself, because the gallery holds the same image."""


def check_left_out(
    num_query: int,
    num_gallery: int,
    *,
    query_ids: Any = None,
    gallery_ids: Any = None,
    ignore: Any = None,
) -> ItemLists | None:
    """Return the items that each query leaves out, from a user's arguments.

    Args:
      num_query: q.
      num_gallery: g.
      query_ids: [q] the ids of the images, integers, strings or paths; None if not given.
      gallery_ids: [g] of the same type. A query leaves out the items of its own id.
      ignore: the gallery indices to leave out: [q] int, one for each query; [q, n] int; or q lists
        of integers of any lengths, or a dict of such lists by query. The index -1 stands for no
        item. Or a mask, [q, g] bool.

    Returns: None if all three are None.

    Raises: UserError if an argument is not as described.
    """
    if (query_ids is None) != (gallery_ids is None):
        raise UserError("ids were given for only one of query and gallery: give both, or neither")
    pairs = []
    if query_ids is not None:
        query = _check_ids("query_ids", query_ids, num_query)
        gallery = _check_ids("gallery_ids", gallery_ids, num_gallery)
        pairs.append(_pair_ids(query, gallery))
    if ignore is not None:
        pairs.append(_pair_ignored(ignore, num_query, num_gallery))
    if not pairs:
        return None
    queries, items = np.concatenate(pairs, 1)
    codes = np.unique(queries * num_gallery + items)  # sorted by query, then by item
    return make_lists(codes % num_gallery, codes // num_gallery, num_query)


def _check_ids(name: str, given: Any, length: int) -> np.ndarray:
    """Return ids as an array of integers or of strings."""
    array = as_array(name, given)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "surrogateescape")
    elif array.dtype.kind == "O" and all(isinstance(one, str | Path) for one in array.ravel()):
        array = array.astype(str)
    elif array.dtype.kind == "O" and all(isinstance(one, int) for one in array.ravel()):
        array = np.array(array.tolist())
    if array.shape != (length,) or array.dtype.kind not in "iuU":
        raise UserError(
            f"{name} has dtype {array.dtype} and shape {array.shape}: must be integers or strings,"
            f" one for each of the {length} images"
        )
    return array


def _pair_ids(query: np.ndarray, gallery: np.ndarray) -> Int64[np.ndarray, "2 m"]:
    """Return the pairs of a query and a gallery item of the same id."""
    if (query.dtype.kind == "U") != (gallery.dtype.kind == "U"):
        raise UserError(
            f"query_ids are {query.dtype} and gallery_ids {gallery.dtype}: give both as integers,"
            " or both as strings"
        )
    if query.dtype.kind != gallery.dtype.kind:  # NumPy compares int64 and uint64 as floats
        query, gallery = query.astype(str), gallery.astype(str)
    order = np.argsort(gallery, kind="stable")
    first = np.searchsorted(gallery[order], query, "left")
    counts = np.searchsorted(gallery[order], query, "right") - first
    queries = np.repeat(np.arange(len(query)), counts)
    position = np.arange(len(queries)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([queries, order[first[queries] + position]]).astype(np.int64)


def _pair_ignored(ignore: Any, num_query: int, num_gallery: int) -> Int64[np.ndarray, "2 m"]:
    """Return the pairs of a query and an item that it ignores; see `check_left_out`."""
    allowed = (
        f"give, for each of the {num_query} queries, the indices of gallery items from 0 to"
        f" {num_gallery - 1}, or a mask of shape ({num_query}, {num_gallery})"
    )
    if isinstance(ignore, Mapping):
        if unknown := [key for key in ignore if key not in range(num_query)]:
            raise UserError(f"ignore has the key {str(unknown[0])[:40]!r}: {allowed}")
        ignore = [ignore.get(query, ()) for query in range(num_query)]
    try:
        whole = np.asarray(ignore)
    except ValueError:  # lists of different lengths
        whole = np.empty(0, object)
    if whole.dtype == bool:
        if whole.shape != (num_query, num_gallery):
            raise UserError(f"ignore is a mask of shape {whole.shape}: {allowed}")
        return np.stack(np.nonzero(whole)).astype(np.int64)
    zeros_and_ones = whole.dtype.kind in "iu" and whole.ndim == 2 and not (whole >> 1).any()
    if zeros_and_ones and whole.shape == (num_query, num_gallery) and num_gallery > 2:
        raise UserError(
            f"ignore holds 0 and 1 in shape {whole.shape}: if it is a mask, give it as bool, as in"
            " ignore.astype(bool)"
        )
    if not hasattr(ignore, "__len__") or len(ignore) != num_query:
        raise UserError(f"ignore has no entry for each query: {allowed}")
    lists = [_check_indices(one, allowed) for one in ignore]
    items = np.concatenate([np.empty(0, np.int64), *lists])
    queries = np.repeat(np.arange(num_query), [len(one) for one in lists])
    outside = items[(items < -1) | (items >= num_gallery)]
    if len(outside):
        raise UserError(f"ignore names the gallery item {outside[0]}: {allowed}")
    return np.stack([queries[items >= 0], items[items >= 0]])


def _check_indices(given: Any, allowed: str) -> Int64[np.ndarray, " n"]:
    """Return the indices that one query ignores."""
    if isinstance(given, set | frozenset):
        given = sorted(given)
    array = np.atleast_1d(np.asarray([] if given is None else given))
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise UserError(f"ignore holds {str(given)[:40]!r}: {allowed}")
    return array.astype(np.int64)


def check_test(
    query: tuple[Any, Any, Any],
    gallery: tuple[Any, Any, Any],
    *,
    metric: str,
    same_camera: str,
    **left_out: Any,
) -> tuple[ImageSet, ImageSet, ItemLists | None]:
    """Check the arrays of a test, and warn if a query's own image seems to count as a match.

    Args:
      query: features, pids and cameras, see `evaluate`.
      gallery: the same.
      metric: see `evaluate`.
      same_camera: see `evaluate`.
      left_out: `query_ids`, `gallery_ids` and `ignore`, see `check_left_out`.

    Returns: the sets, and the items that are left out.

    Raises: UserError as `evaluate`.
    """
    own, other = check_pair(query, gallery, metric)
    lists = check_left_out(len(own), len(other), **left_out)
    warn_of_same_images(own, other, lists, same_camera)
    return own, other, lists


def find_same_images(
    query: ImageSet, gallery: ImageSet, left_out: ItemLists | None, same_camera: str
) -> Int64[np.ndarray, "2 m"]:
    """Return the pairs of a query and a relevant item that have exactly equal features.

    A network gives equal features for the same image, and hardly ever for two images. Features
    that are all zero tell nothing, and give no pair.

    Args:
      query: q images.
      gallery: g images.
      left_out: items that are not relevant, for each query; None for none.
      same_camera: see `evaluate`.
    """
    relevant = find_matches(*match_keys(query.labels, gallery.labels, same_camera), left_out)[0]
    queries, items = relevant.queries, relevant.items
    kept = gallery.pids[items] != JUNK_PID
    queries, items = queries[kept], items[kept]
    columns = np.asarray(query.features[:, :_FIRST_COLUMNS])
    used, place = np.unique(items, return_inverse=True)
    own_columns = _first_columns(gallery.features, used)
    alike = np.zeros(len(items), bool)
    for start in range(0, len(items), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        alike[part] = (columns[queries[part]] == own_columns[place[part]]).all(1)
    pairs = np.stack([queries[alike], items[alike]])
    same = [_is_same(query.features[q], gallery.features[g]) for q, g in pairs.T]
    return pairs[:, np.array(same, bool)]


def _first_columns(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the first columns of some rows; of a `RowFile` in pieces."""
    if isinstance(features, np.ndarray):
        return np.asarray(features[rows, :_FIRST_COLUMNS])
    parts = [
        read_rows(features, rows[start : start + ROWS_AT_ONCE])[:, :_FIRST_COLUMNS]
        for start in range(0, max(len(rows), 1), ROWS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one == other).all() and np.any(one))


def warn_of_same_images(
    query: ImageSet, gallery: ImageSet, left_out: ItemLists | None, same_camera: str
) -> None:
    """Warn if a query's own image seems to count as a match; see `find_same_images`."""
    pairs = find_same_images(query, gallery, left_out, same_camera)
    if not pairs.size:
        return
    text = (
        f"{len(np.unique(pairs[0]))} of {len(query)} queries have the same features as a gallery"
        f" image of their identity, for example query {pairs[0, 0]} and gallery image"
        f" {pairs[1, 0]}: if they are the same image, the query finds itself and the figures are"
        " too high; leave it out by query_ids= and gallery_ids=, or by ignore="
    )
    warnings.warn(text, SameImageWarning, stacklevel=_caller_level())


def _caller_level() -> int:
    """Return the `stacklevel` of the first frame outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
