"""Features prepared for the matrix product: at unit length, or with an offset for each score.

The device that multiplies the features also prepares them. On this device, computing the lengths
and checking for NaN cost almost nothing.
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
from batnet_jax.retrieval.mapped_rows import in_memory, read_file, read_rows, view_rows
from batnet_jax.retrieval.row_file import ALIGNMENT, RowFile, aligned_array
from batnet_jax.retrieval.scores import rescale_rows, row_lengths

# An accelerator uploads a gallery of at most this share of its memory; the upload takes twice that.
_MEMORY_SHARE = 0.25
# An array is uploaded in at most this many pieces, each of at least this many bytes.
_MAX_PIECES, _PIECE_BYTES = 16, 2**20


class CheckedRows(NamedTuple):
    """Rows of features on a device, known to be finite and of lengths that float32 represents."""

    rows: Float32[Array, "n d"]


Rows = Float[np.ndarray, "n d"] | Float32[Array, "n d"] | CheckedRows

# A function that returns the features [n, d] of gallery items, given the items' indices. The
# features are on the host or on a device. Items may be requested more than once.
FeatureSource = Callable[[np.ndarray], Rows]


class FileSource:
    """A source of rows of a file, which can be called in a thread."""

    def __init__(self, gallery: RowFile):
        """Keep the file; nothing is read."""
        self._gallery = gallery

    def __call__(self, rows: np.ndarray) -> Float[np.ndarray, "n d"]:
        """Return the features of rows; the device converts features of 16 bits.

        Raises: UserError if the file has been cut off or is damaged.
        """
        found = read_file(self._gallery, rows)
        return found if found.dtype == np.float16 else np.asarray(found, np.float32)


def make_source(gallery: np.ndarray, metric: str) -> FeatureSource:
    """Return a source of a gallery's rows.

    If an accelerator has room for the gallery, a thread uploads it now. The accelerator checks the
    whole gallery and gathers the rows.
    """
    if isinstance(gallery, RowFile) and metric == "cosine":
        return FileSource(gallery)
    uploads = metric == "cosine" and gallery.dtype == np.float32 and in_memory(gallery)
    if not uploads or gallery.nbytes > _upload_limit():
        return lambda rows: read_rows(gallery, rows)
    pool = ThreadPoolExecutor(1, "upload")
    upload = pool.submit(_upload_checked, gallery)
    pool.shutdown(wait=False)

    def source(rows: np.ndarray) -> Float32[np.ndarray, "n d"] | CheckedRows:
        on_device = upload.result()
        if on_device is None:  # `ChunkPreparer` repairs rows, or names those that are not finite
            return read_rows(gallery, rows)
        return CheckedRows(_gather(on_device, rows.astype(np.int32)))

    return source


def check_rows(given: Rows, dimensions: int, metric: str) -> Rows:
    """Check what a `FeatureSource` returned, except values that `ChunkPreparer` checks.

    Returns: float32 rows, or under "cosine" float16 rows, which must not be written to.

    Raises: UserError for rows of another shape or type.
    """
    if isinstance(given, CheckedRows):
        return given
    is_float32_matrix = given.ndim == 2 and given.dtype == np.float32
    if isinstance(given, jax.Array) and is_float32_matrix and metric == "cosine":
        rows = given
    else:
        array = checks.streamed_features("gallery_features", given, metric)
        is_half = array.dtype == np.float16 and metric == "cosine" and in_memory(array)
        rows = array if is_half else view_rows(array, slice(None))
    checks.same_dimension(dimensions, rows.shape[1])
    return rows


def _upload_checked(gallery: Float32[np.ndarray, "g d"]) -> Float32[Array, "g d"] | None:
    """Upload a gallery; return None if float32 does not represent all lengths."""
    on_device = upload(gallery)
    return on_device if _all_safe(on_device) else None


def upload(array: np.ndarray) -> Array:
    """Start copying an array to a device, and return the copy.

    An accelerator receives a large array in pieces, several at a time.
    `benchmarks/evaluator_gpu.py` times an upload in pieces and an upload of the whole array.
    """
    count = min(_MAX_PIECES, array.nbytes // _PIECE_BYTES)
    if jax.default_backend() == "cpu" or count < 2:
        return jax.device_put(array)
    return _concatenate(*[jax.device_put(piece) for piece in np.array_split(array, count)])


@jax.jit
def _concatenate(*pieces: Array) -> Array:
    return jnp.concatenate(pieces)


@jax.jit
def _all_safe(rows: Float32[Array, "n d"]) -> Bool[Array, ""]:
    return row_lengths(rows)[1].all()


def _upload_limit() -> float:
    """Return the bytes of the largest gallery to upload; 0 on a CPU, which has it in memory."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return _MEMORY_SHARE * stats["bytes_limit"] if stats else 0


@jax.jit
def _gather(features: Float[Array, "n d"], rows: Array) -> Float[Array, "... d"]:
    return features.at[rows].get(mode="promise_in_bounds")


def make_queries(
    features: Float32[np.ndarray, "q d"], metric: str, dtype: str
) -> Callable[[np.ndarray], Float[Array, "... d"]]:
    """Start preparing queries on a device; return a function that gathers them by index.

    Under "cosine" each query is brought to unit length. The check that float32 represents all
    lengths waits until the first queries are gathered.
    """
    if metric != "cosine":
        on_device = upload(features.astype(jnp.dtype(dtype), copy=False))
        return lambda rows: _gather(on_device, rows.astype(np.int32))
    prepared, is_safe = unit_rows(upload(features), dtype=dtype)

    @functools.cache
    def unit_queries() -> Float[Array, "q d"]:
        is_unsafe = ~np.asarray(is_safe)
        if is_unsafe.any():
            return unit_rows(rescale_rows(features, is_unsafe), dtype=dtype)[0]
        return prepared

    return lambda rows: _gather(unit_queries(), rows.astype(np.int32))


class ChunkPreparer:
    """Prepares the chunks of a gallery one after the other, in the memory of one chunk."""

    def __init__(self, length: int, dimensions: int, metric: str, dtype: str):
        """Prepare for chunks that are padded to `length` items."""
        self._shape = length, dimensions
        self._buffer = np.empty((0, dimensions), np.float32)
        self._metric = metric
        self._dtype = dtype
        self.gallery_on_device = False  # whether the last chunk came from an uploaded gallery

    def __call__(
        self, rows: Rows
    ) -> tuple[Float[Array, "d length"], Float32[np.ndarray, " length"] | None]:
        """Return the transposed features of a chunk on a device, and offsets for the scores if any.

        Raises: UserError for rows of another shape or with values that are not finite.
        """
        rows = check_rows(rows, self._shape[1], self._metric)
        self.gallery_on_device = isinstance(rows, CheckedRows)
        if isinstance(rows, CheckedRows):
            return unit_columns(self._pad(rows.rows), dtype=self._dtype)[0], None
        if self._metric == "euclidean":
            return self._prepare_euclidean(np.asarray(rows))
        prepared, is_safe = unit_columns(self._pad(rows), dtype=self._dtype)
        is_safe = np.asarray(is_safe)  # waits for the device; the buffer may be written after that
        if not is_safe.all():
            rows = np.asarray(rows, np.float32)
            checks.features("gallery_features", rows, self._metric)
            padded = self._pad(rescale_rows(rows, ~is_safe[: len(rows)]))
            prepared, _ = unit_columns(padded, dtype=self._dtype)
            jax.block_until_ready(prepared)
        return prepared, None

    def _pad(
        self, rows: Float[np.ndarray, "n d"] | Float32[Array, "n d"]
    ) -> Float[np.ndarray, "length d"] | Float32[Array, "length d"]:
        """Append rows of zeros."""
        length = self._shape[0]
        if isinstance(rows, jax.Array):
            return jnp.pad(rows, ((0, length - len(rows)), (0, 0)))
        if len(rows) == length and rows.ctypes.data % ALIGNMENT == 0:
            return rows  # a CPU uses it where it lies
        if self._buffer.dtype != rows.dtype or len(self._buffer) != length:
            self._buffer = aligned_array(self._shape, rows.dtype)
        self._buffer[: len(rows)] = rows
        self._buffer[len(rows) :] = 0
        return self._buffer

    def _prepare_euclidean(
        self, rows: Float32[np.ndarray, "n d"]
    ) -> tuple[Float[Array, "d length"], Float32[np.ndarray, " length"]]:
        """Return the features, and -|g|^2 / 2 as the offset of item g."""
        rounded = np.array(self._pad(rows), jnp.dtype(self._dtype))
        exact = rounded.astype(np.float32, copy=False)
        offset = -0.5 * np.einsum("nd,nd->n", exact, exact, dtype=np.float64)
        return _transpose(rounded), offset.astype(np.float32)


@functools.partial(jax.jit, static_argnames="dtype")
def unit_rows(
    rows: Float[Array, "n d"], dtype: str
) -> tuple[Float[Array, "n d"], Bool[Array, " n"]]:
    """Return rows at unit length, rounded to a type, and whether float32 represents each length."""
    rows = rows.astype(jnp.float32)
    lengths, is_safe = row_lengths(rows)
    return (rows / lengths[:, None]).astype(dtype), is_safe


@functools.partial(jax.jit, static_argnames="dtype")
def unit_columns(
    rows: Float[Array, "n d"], dtype: str
) -> tuple[Float[Array, "d n"], Bool[Array, " n"]]:
    """`unit_rows`, transposed: XLA's CPU backend multiplies faster in this layout."""
    unit, is_safe = unit_rows(rows, dtype)
    return unit.T, is_safe


@jax.jit
def _transpose(rows: Float[Array, "n d"]) -> Float[Array, "d n"]:
    return rows.T
