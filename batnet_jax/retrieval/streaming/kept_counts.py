"""Keeps the counts of an evaluation in a file, so that an interrupted evaluation can continue.

The counts of the chunks so far are small: a few numbers for each relevant item. The file belongs to
one evaluation on one kind of machine, and holds a digest of both.
"""

import hashlib
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.retrieval.image_set import ImageSet
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.retrieval.matches import ItemLists
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.npz import open_npz
from batnet_jax.runtime.paths import exists

EVERY_SECONDS = 30.0
"""Seconds between two writes."""
_SAMPLES = 256
"""Rows of the gallery in a digest; a digest of all would take as long as an evaluation."""


class KeptCounts:
    """A file of counts."""

    def __init__(self, path: Path, key: str):
        """Keep counts in a file.

        Args:
          path: the file, an .npz.
          key: of the evaluation, see `evaluation_key`.
        """
        self._path, self._key = path, key
        self._last = time.monotonic()

    def read(self, num_chunks: int) -> tuple[int, list[np.ndarray]]:
        """Return the number of chunks that were counted, and the counts; 0 without a file.

        Args:
          num_chunks: of the whole gallery.

        Raises: UserError if the file is damaged, or of another evaluation.
        """
        if not exists(self._path):
            return 0, []
        try:
            with open_npz(self._path) as archive:
                found = archive.read(archive.names)
            key, number = str(found.pop("key")), int(found.pop("chunks"))
            arrays = [found[f"array_{i}"] for i in range(len(found))]
        except Exception as error:  # damaged files raise many types
            raise UserError(
                f"'{self._path}' cannot be read ({one_line(error)}): delete it to start again"
            ) from error
        if key != self._key or not 0 < number <= num_chunks:
            raise UserError(
                f"'{self._path}' holds the counts of another evaluation (other features, labels,"
                " settings or devices): delete it, or name another file"
            )
        return number, arrays

    def is_due(self) -> bool:
        """Return whether it is time to write the counts again."""
        return time.monotonic() - self._last >= EVERY_SECONDS

    def write(self, chunks: int, arrays: Sequence[np.ndarray] | None) -> None:
        """Write the counts of the first chunks; do nothing if `arrays` is None.

        Raises: OSError if the file cannot be written.
        """
        if arrays is None:
            return
        named: dict[str, Any] = {f"array_{i}": array for i, array in enumerate(arrays)}
        content = io.BytesIO()
        np.savez(content, key=np.array(self._key), chunks=np.array(chunks), **named)
        write_atomically(self._path, content.getvalue())
        self._last = time.monotonic()

    def remove(self) -> None:
        """Remove the file after the evaluation."""
        self._path.unlink(missing_ok=True)


def evaluation_key(
    query: ImageSet, gallery: ImageSet, options: Any, junk: Any, left_out: ItemLists | None
) -> str:
    """Return a digest of an evaluation: all labels and queries, and some rows of the gallery.

    Args:
      query: q images.
      gallery: g images.
      options: of the evaluation; their text is a part of the digest.
      junk: see `evaluate`.
      left_out: see `check_left_out`.
    """
    devices = [str(device.device_kind) for device in jax.devices()]
    shapes = query.features.shape, gallery.features.shape
    rows = np.unique(np.linspace(0, len(gallery) - 1, _SAMPLES).astype(np.int64))
    arrays = [query.pids, query.cameras, gallery.pids, gallery.cameras, junk]
    arrays += [None, None] if left_out is None else [left_out.items, left_out.offsets]
    arrays += [query.features, read_rows(gallery.features, rows)]
    digest = hashlib.blake2b(
        repr((options, jax.__version__, devices, shapes)).encode(), digest_size=16
    )
    for array in arrays:
        given = b"" if array is None else np.ascontiguousarray(array).tobytes()
        digest.update(len(given).to_bytes(8, "little") + given)
    return digest.hexdigest()
