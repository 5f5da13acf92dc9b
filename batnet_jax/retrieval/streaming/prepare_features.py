"""Features made ready for the product: of unit length, or with what is added to their scores.

All is made so where it is multiplied: there lengths, and whether all of the gallery is finite, cost
next to nothing.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from batnet_jax.retrieval import checks
from batnet_jax.retrieval.mapped_rows import in_memory, read_rows, view_rows
from batnet_jax.retrieval.scores import near_one, row_lengths


class CheckedRows(NamedTuple):
    """Rows of features on a device, known to be finite and of lengths that float32 has."""

    rows: Float32[Array, "n d"]


# Gives the features of gallery items by their indices, [n, d] float32 on the host or a device, as
# often as asked.
FeatureSource = Callable[
    [np.ndarray], Float32[np.ndarray, "n d"] | Float32[Array, "n d"] | CheckedRows
]

# Of an accelerator's memory, at most, for the gallery as it was given; twice that when it comes.
_SHARE = 0.25
_PIECES, _PIECE = 16, 2**20  # an array goes to an accelerator in so many, of so many bytes or more


def make_source(gallery: np.ndarray, metric: str) -> FeatureSource:
    """What gives rows of a gallery: an accelerator that has room for it gathers them itself.

    It takes the gallery while the host plans, and looks at all of it at once.
    """
    if metric != "cosine" or gallery.dtype != np.float32 or not in_memory(gallery):
        return lambda rows: read_rows(gallery, rows)
    if gallery.nbytes > _room():
        return lambda rows: read_rows(gallery, rows)
    pool = ThreadPoolExecutor(1, "upload")
    upload = pool.submit(_hold, gallery)
    pool.shutdown(wait=False)

    def source(rows: np.ndarray) -> Float32[np.ndarray, "n d"] | CheckedRows:
        held = upload.result()
        if held is None:  # what is strange is found, and named, chunk by chunk
            return read_rows(gallery, rows)
        return CheckedRows(_gather(held, rows.astype(np.int32)))

    return source


def check_rows(
    given: Float32[np.ndarray, "n d"] | Float32[Array, "n d"] | CheckedRows,
    dimensions: int,
    metric: str,
) -> Float32[np.ndarray, "n d"] | Float32[Array, "n d"] | CheckedRows:
    """Check what a `FeatureSource` returned, except values that `ChunkPreparer` checks.

    Returns: float32 rows, which are not to be written to.

    Raises: UserError for rows of another shape or type.
    """
    if isinstance(given, CheckedRows):
        return given
    is_float32_matrix = given.ndim == 2 and given.dtype == np.float32
    if isinstance(given, jax.Array) and is_float32_matrix and metric == "cosine":
        rows = given
    else:
        array = checks.streamed_features("gallery_features", given, metric)
        rows = view_rows(array, slice(None))
    checks.same_dimension(dimensions, rows.shape[1])
    return rows


def _hold(gallery: Float32[np.ndarray, "g d"]) -> Float32[Array, "g d"] | None:
    """The gallery on a device; None where float32 is not enough for all lengths."""
    held = upload(gallery)
    return held if _all_sound(held) else None


def upload(array: np.ndarray) -> Array:
    """The array on a device, or on its way there.

    To an accelerator pieces are copied side by side; `benchmarks/evaluator_gpu.py` times both ways.
    """
    count = min(_PIECES, array.nbytes // _PIECE)
    if jax.default_backend() == "cpu" or count < 2:
        return jax.device_put(array)
    return _together(*[jax.device_put(piece) for piece in np.array_split(array, count)])


@jax.jit
def _together(*pieces: Array) -> Array:
    return jnp.concatenate(pieces)


@jax.jit
def _all_sound(rows: Float32[Array, "n d"]) -> Bool[Array, ""]:
    return row_lengths(rows)[1].all()


def _room() -> float:
    """Bytes; on a CPU nothing, as the gallery is in its memory already."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return _SHARE * stats["bytes_limit"] if stats else 0


@jax.jit
def _gather(gallery: Float32[Array, "g d"], rows: Array) -> Float32[Array, "n d"]:
    return gallery.at[rows].get(mode="promise_in_bounds")


def make_queries(
    features: Float32[np.ndarray, "q d"], metric: str, dtype: str
) -> Callable[[np.ndarray], Float[Array, "... d"]]:
    """What gives queries by their indices, as they are multiplied.

    A row is brought to unit length by a power of two and a float32 length. The device does it, from
    now on; whether float32 was enough is asked with the first rows.
    """
    if metric != "cosine":
        held = upload(features.astype(jnp.dtype(dtype), copy=False))
        return lambda rows: _gather(held, rows.astype(np.int32))
    ready, sound = _unit_rows(upload(features), dtype=dtype)

    @functools.cache
    def unit() -> Float[Array, "q d"]:
        strange = ~np.asarray(sound)
        if strange.any():
            return _unit_rows(near_one(features, strange), dtype=dtype)[0]
        return ready

    return lambda rows: _gather(unit(), rows.astype(np.int32))


class ChunkPreparer:
    """Makes chunks of a gallery ready, one after the other; holds memory for one."""

    def __init__(self, length: int, dimensions: int, metric: str, dtype: str):
        """For chunks that are filled up to `length`."""
        self._buffer = np.zeros((length, dimensions), np.float32)
        self._metric = metric
        self._dtype = dtype
        self.held = False  # whether the last chunk came from a gallery on a device

    def __call__(
        self, rows: Float32[np.ndarray, "n d"] | Float32[Array, "n d"] | CheckedRows
    ) -> tuple[Float[Array, "d length"], Float32[np.ndarray, " length"] | None]:
        """What is multiplied, on a device, and what is added to each item's scores, if anything.

        Raises: UserError for values that are not finite.
        """
        rows = check_rows(rows, self._buffer.shape[1], self._metric)
        self.held = isinstance(rows, CheckedRows)
        if isinstance(rows, CheckedRows):
            return _unit_columns(self._fill(rows.rows), dtype=self._dtype)[0], None
        if self._metric == "euclidean":
            return self._euclidean(np.asarray(rows))
        filled = self._fill(rows)
        ready, sound = _unit_columns(filled, dtype=self._dtype)
        sound = np.asarray(sound)  # waits, so that the buffer is free again
        if not sound.all():
            rows = np.asarray(rows)
            checks.features("gallery_features", rows, self._metric)
            filled = self._fill(near_one(rows, ~sound[: len(rows)]))
            ready, _ = _unit_columns(filled, dtype=self._dtype)
            jax.block_until_ready(ready)
        return ready, None

    def _fill(
        self, rows: Float32[np.ndarray, "n d"] | Float32[Array, "n d"]
    ) -> Float32[np.ndarray, "length d"] | Float32[Array, "length d"]:
        """The rows, and zeros."""
        if isinstance(rows, jax.Array):
            return jnp.pad(rows, ((0, len(self._buffer) - len(rows)), (0, 0)))
        self._buffer[: len(rows)] = rows
        self._buffer[len(rows) :] = 0
        return self._buffer

    def _euclidean(
        self, rows: Float32[np.ndarray, "n d"]
    ) -> tuple[Float[Array, "d length"], Float32[np.ndarray, " length"]]:
        rounded = np.array(self._fill(rows), jnp.dtype(self._dtype))
        exact = rounded.astype(np.float32, copy=False)
        offset = -0.5 * np.einsum("nd,nd->n", exact, exact, dtype=np.float64)
        return _transpose(rounded), offset.astype(np.float32)


@functools.partial(jax.jit, static_argnames="dtype")
def _unit_rows(
    rows: Float32[Array, "n d"], dtype: str
) -> tuple[Float[Array, "n d"], Bool[Array, " n"]]:
    lengths, sound = row_lengths(rows)
    return (rows / lengths[:, None]).astype(dtype), sound


@functools.partial(jax.jit, static_argnames="dtype")
def _unit_columns(
    rows: Float32[Array, "n d"], dtype: str
) -> tuple[Float[Array, "d n"], Bool[Array, " n"]]:
    """Transposed: in this layout XLA's CPU backend multiplies faster, by more than it costs."""
    unit, sound = _unit_rows(rows, dtype)
    return unit.T, sound


@jax.jit
def _transpose(rows: Float[Array, "n d"]) -> Float[Array, "d n"]:
    return rows.T
