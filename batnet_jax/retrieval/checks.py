"""Checks of a user's arguments, made once at the boundary; inner code trusts them."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float32, Int64

from batnet_jax.errors import UserError, one_line
from batnet_jax.retrieval.mapped_rows import ROWS_AT_ONCE, read_rows, view_rows
from batnet_jax.retrieval.row_file import RowFile

METRICS = ("cosine", "euclidean")
AP_CONVENTIONS = ("precision", "trapezoid")
SAME_CAMERA = ("remove", "keep")
DTYPES = ("float32", "bfloat16")

# Squared lengths and inner products below this stay finite in float32 (largest: 3.4e38).
_LARGEST_SQUARED_NORM = 1e37


class NotFiniteFeaturesError(UserError):
    """An error for features that contain NaN or infinite values."""


def choice(name: str, given: Any, allowed: Sequence[str]) -> str:
    """Return `given`, or raise UserError if it is not one of the `allowed` names."""
    if not isinstance(given, str) or given not in allowed:
        names = " or ".join(repr(a) for a in allowed)
        raise UserError(f"{name}={given!r} is unknown: use {names}")
    return given


def positive_int(name: str, given: Any) -> int:
    """Return `given` as an int; raise UserError unless it is a whole number of at least 1."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise UserError(f"{name}={given!r}: must be an integer of at least 1; correct the argument")
    return int(given)


def positive_ints(name: str, given: Any) -> None:
    """Raise UserError unless `given` is a list of whole numbers of at least 1."""
    listed = isinstance(given, Sequence) or (isinstance(given, np.ndarray) and given.ndim > 0)
    if isinstance(given, str | bytes) or not listed or any(np.ndim(n) for n in given):
        raise UserError(f"{name}={given!r}: must be a list of integers, such as (1, 5, 10)")
    for number in given:
        positive_int(name, number)


def as_array(name: str, given: Any) -> np.ndarray:
    """Return `given` as an array; a mapped file and a `RowFile` stay what they are.

    Raises: UserError if the object cannot become an array, such as lists of different lengths or a
      tensor on a GPU.
    """
    if isinstance(given, RowFile):  # has the attributes that are checked, and is read in chunks
        return cast(np.ndarray, given)
    try:
        return np.asanyarray(given)
    except Exception as error:  # the array protocol of any library
        tensor = ", as tensor.detach().float().cpu().numpy() does" if hasattr(given, "cpu") else ""
        raise UserError(
            f"{name}, {type(given).__name__}, cannot become an array of NumPy"
            f" ({one_line(error)}): give one{tensor}"
        ) from error


def features(name: str, given: Any, metric: str) -> np.ndarray:
    """Check features [n, d]: real, not empty, and finite in float32.

    Returns: an array of floats of at most 32 bits unchanged, mapped files included; other arrays
      as float32. Longer floats are rounded: see `rounded_type`.

    Raises: UserError if the features are not as described.
    """
    array = _check_shape(name, given)
    bad, largest = [], 0.0
    for start in range(0, len(array), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = _as_float32(name, array, rows)
        if not np.isfinite(np.vdot(part, part)):  # one pass, which may also overflow
            bad.append(start + np.flatnonzero(~np.isfinite(part).all(axis=1)))
        if metric == "euclidean":
            squares = np.einsum("nd,nd->n", part, part, dtype=np.float64)
            largest = max(largest, float(squares.max()))
    bad = np.concatenate([*bad, np.empty(0, int)])
    if len(bad):
        raise NotFiniteFeaturesError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(array)} rows (the first"
            f" is row {bad[0]}): all must be finite in float32; look for a model that"
            " diverged"
        )
    if largest > _LARGEST_SQUARED_NORM:
        raise UserError(
            f"{name} holds a vector of length {largest**0.5:.3g}: euclidean distances in"
            f" float32 allow {_LARGEST_SQUARED_NORM**0.5:.3g}; scale the features down, or use"
            " metric='cosine'"
        )
    return array if _is_small_float(array) else array.astype(np.float32)


def rounded_type(given: Any, checked: np.ndarray) -> str | None:
    """Return the type from which `features` has rounded; None if no value has changed.

    Args:
      given: a user's features; a list declares no precision, so nothing is rounded.
      checked: the array that `features` returned for them.
    """
    if not hasattr(given, "dtype"):
        return None
    array = as_array("features", given)  # a tensor's dtype is of another library
    if array.dtype.kind != "f" or array.dtype.itemsize <= 4:
        return None
    for start in range(0, len(array), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        if (np.asarray(array[rows]) != checked[rows]).any():
            return str(array.dtype)
    return None


def streamed_features(name: str, given: Any, metric: str) -> np.ndarray:
    """`features` without a pass over the values, if they can be checked later in chunks."""
    array = _check_shape(name, given)
    if metric == "cosine" and _is_small_float(array):
        return array
    return features(name, array, metric)


def _is_small_float(array: np.ndarray) -> bool:
    """Return whether an array has a floating-point type that float32 contains."""
    return array.dtype.kind == "f" and array.dtype.itemsize <= 4


def _check_shape(name: str, given: Any) -> np.ndarray:
    """Return [n, d] real numbers, not empty, or raise UserError."""
    array = as_array(name, given)
    if not hasattr(given, "dtype") and array.dtype == np.float64:  # a list declares no precision
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if array.ndim != 2:
        raise UserError(f"{name} has shape {array.shape}: must be [images, dimensions]; reshape it")
    if 0 in array.shape:
        raise UserError(f"{name} is empty, of shape {array.shape}: give at least one image")
    if np.iscomplexobj(array):
        raise UserError(f"{name} has dtype {array.dtype}: must be real numbers; take the real part")
    return array


def _as_float32(name: str, array: np.ndarray, rows: slice) -> Float32[np.ndarray, "n d"]:
    """Return some rows as float32: floats rounded, integers only as they are.

    Raises: UserError if an integer is not a number of float32.
    """
    if array.dtype == np.float32:
        return view_rows(array, rows)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes inf: not finite
            part = read_rows(array, rows)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} has dtype {array.dtype}: must be numbers; convert it") from error
    exact = np.asarray(array[rows])
    if exact.dtype.kind == "f":
        return part
    if (np.isfinite(part) & (part.astype(exact.dtype) != exact)).any():
        raise UserError(
            f"{name} has dtype {array.dtype} and values that float32 rounds, which may change"
            " ranks: pass features.astype(np.float32) to have them rounded"
        )
    return part


def same_dimension(query: int, gallery: int) -> None:
    """Raise UserError if the features of query and gallery differ in length."""
    if query != gallery:
        raise UserError(
            f"query_features have {query} dimensions and gallery_features {gallery}: must be equal;"
            " embed both with the same model"
        )


def ids(name: str, given: Any, length: int) -> Int64[np.ndarray, " n"]:
    """Return `given` as [length] int64, or raise UserError; floats and strings are refused.

    `label_pairs.number_pids` numbers strings before.
    """
    array = as_array(name, given)
    if array.ndim != 1 or len(array) != length:
        raise UserError(
            f"{name} has shape {array.shape}: must be ({length},), one per image of its features;"
            " check that both come from the same list"
        )
    if array.dtype.kind not in "iu":
        raise UserError(
            f"{name} has dtype {array.dtype}: must be integers, or strings in query and gallery;"
            " convert both with .astype(int), or with .astype(str)"
        )
    if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        raise UserError(
            f"{name} holds {array.max()}: must be {np.iinfo(np.int64).max} or less, as int64;"
            " give query and gallery as strings, with .astype(str)"
        )
    return array.astype(np.int64)


def mask(name: str, given: Any, length: int) -> Bool[np.ndarray, " n"]:
    """Return `given` as [length] bool, or raise UserError; None means all False."""
    array = np.zeros(length, bool) if given is None else as_array(name, given)
    if array.dtype != bool or array.shape != (length,):
        raise UserError(
            f"{name} has dtype {array.dtype} and shape {array.shape}: must be a mask, bool of shape"
            f" ({length},)"
        )
    return array
