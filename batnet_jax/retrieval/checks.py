"""What the user gave, checked once at the boundary; everything inside trusts it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from batnet_jax.errors import UserError

METRICS = ("cosine", "euclidean")
AP_CONVENTIONS = ("precision", "trapezoid")
SAME_CAMERA = ("remove", "keep")

# Squared lengths and inner products below this stay finite in float32 (largest: 3.4e38).
_LARGEST_SQUARED_NORM = 1e37


class Images(NamedTuple):
    """The n images of a query or gallery set, checked."""

    features: Float32[np.ndarray, "n d"]
    pids: Int64[np.ndarray, " n"]
    cameras: Int64[np.ndarray, " n"] | None  # None: not known

    def only(self, which: np.ndarray) -> "Images":
        """Those that `which` ([n] bool) marks."""
        cameras = None if self.cameras is None else self.cameras[which]
        return Images(self.features[which], self.pids[which], cameras)


def choice(name: str, given: Any, allowed: Sequence[str]) -> str:
    """`given`, or UserError where it is not one of the `allowed` names."""
    if not isinstance(given, str) or given not in allowed:
        names = " or ".join(repr(a) for a in allowed)
        raise UserError(f"{name}={given!r} is unknown: use {names}")
    return given


def positive_int(name: str, given: Any) -> int:
    """`given` as an int, or UserError where it is not a whole number of at least 1."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise UserError(f"{name}={given!r}: must be an integer of at least 1; mend the argument")
    return int(given)


def features(name: str, given: Any, metric: str) -> Float32[np.ndarray, "n d"]:
    """`given` as [n, d] float32: real, finite and not empty, or UserError."""
    array = np.asarray(given)
    if array.ndim != 2:
        raise UserError(f"{name} has shape {array.shape}: must be [images, dimensions]; reshape it")
    if 0 in array.shape:
        raise UserError(f"{name} is empty, of shape {array.shape}: give at least one image")
    if np.iscomplexobj(array):
        raise UserError(f"{name} has dtype {array.dtype}: must be real numbers; take the real part")
    try:
        with np.errstate(over="ignore"):  # an overflow shows as inf, refused just below
            array = array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} has dtype {array.dtype}: must be numbers; convert it") from error
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise UserError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(array)} rows (the first"
            f" is row {bad[0]}): all must be finite in float32; look for a model that"
            " diverged"
        )
    if metric == "euclidean":
        largest = float(np.einsum("nd,nd->n", array, array, dtype=np.float64).max())
        if largest > _LARGEST_SQUARED_NORM:
            raise UserError(
                f"{name} holds a vector of length {largest**0.5:.3g}: euclidean distances in"
                f" float32 allow {_LARGEST_SQUARED_NORM**0.5:.3g}; scale the features down, or use"
                " metric='cosine'"
            )
    return array


def images(which: str, features_: Any, pids: Any, cameras: Any, metric: str) -> Images:
    """Check the `which` ("query" or "gallery") set, or raise UserError."""
    checked = features(f"{which}_features", features_, metric)
    return Images(
        checked,
        ids(f"{which}_pids", pids, len(checked)),
        None if cameras is None else ids(f"{which}_cameras", cameras, len(checked)),
    )


def same_dimension(query: np.ndarray, gallery: np.ndarray) -> None:
    """UserError where query and gallery features differ in length."""
    if query.shape[1] != gallery.shape[1]:
        raise UserError(
            f"query_features have {query.shape[1]} dimensions and gallery_features"
            f" {gallery.shape[1]}: must be equal; embed both with the same model"
        )


def ids(name: str, given: Any, length: int) -> Int64[np.ndarray, " n"]:
    """`given` as [length] int64, or UserError; floats and strings are refused, not rounded."""
    array = np.asarray(given)
    if array.ndim != 1 or len(array) != length:
        raise UserError(
            f"{name} has shape {array.shape}: must be ({length},), one per image of its features;"
            " check that both come from the same list"
        )
    if array.dtype.kind not in "iu":
        raise UserError(
            f"{name} has dtype {array.dtype}: must be integers; convert with .astype(int), or"
            " number the names with np.unique(names, return_inverse=True)"
        )
    return array.astype(np.int64)
