"""Checksums of a checkpoint: a disk may return other bytes than were written.

The metadata of a checkpoint holds the CRC-32 of each array of the state, and of the metadata
itself. Checkpoints of older versions have no checksums, and pass all checks.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

METADATA = "facts"
"""The key of the metadata's own checksum among the checksums of the arrays."""


def add_checksums(run: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """Return the metadata of a run with the checksums of a state and of the metadata.

    Args:
      run: see `checkpoints.metadata`.
      state: a tree of NumPy arrays.
    """
    return {**run, "checksums": array_checksums(state) | {METADATA: metadata_checksum(run)}}


def damaged_arrays(run: Mapping[str, Any], state: Any) -> list[str]:
    """Return the names of the arrays of a state that do not have the checksums in metadata."""
    sums = array_checksums(state)
    expected = run.get("checksums", {})
    return [name for name in expected if name != METADATA and sums.get(name) != expected[name]]


def metadata_checksum(run: Mapping[str, Any]) -> int:
    """Return the CRC-32 of metadata as JSON, without the checksums in it."""
    own = {name: value for name, value in run.items() if name != "checksums"}
    return zlib.crc32(json.dumps(own, sort_keys=True).encode())


def array_checksums(tree: Any) -> dict[str, int]:
    """Return the CRC-32 of each array's bytes by the array's name."""
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).data)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
