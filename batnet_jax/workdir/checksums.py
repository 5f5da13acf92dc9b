"""Checksums of a checkpoint: a disk may return other bytes than were written.

The metadata of a checkpoint holds the CRC-32 of each array of the state, and of the metadata
itself. Its seal binds the step and the arrays to the metadata: to the settings of the run, its
identities and its data. Checkpoints of older versions lack the seal, and the oldest have no
checksums.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

METADATA = "facts"
"""The key of the metadata's own checksum among the checksums of the arrays."""
SEAL = "seal"
"""The key of the seal in the metadata."""


def add_checksums(run: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """Return the metadata of a run with the checksums of a state and of the metadata.

    Args:
      run: see `checkpoints.metadata`.
      state: a tree of NumPy arrays.
    """
    return {**run, "checksums": array_checksums(state) | {METADATA: metadata_checksum(run)}}


def seal(run: Mapping[str, Any], state: Any, step: int) -> dict[str, Any]:
    """Return the metadata of a run with checksums, and with a seal on the step and the arrays.

    Args:
      run: see `checkpoints.metadata`.
      state: a tree of NumPy arrays.
      step: steps taken.
    """
    sums = array_checksums(state)
    return add_checksums({**run, SEAL: {"step": step, "arrays": _sum_of(sums)}}, state)


def broken_seal(run: Mapping[str, Any]) -> bool:
    """Return whether metadata has a seal that does not fit its checksums."""
    if SEAL not in run:
        return False
    found, sums = run[SEAL], run.get("checksums")
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return True
    own = {name: value for name, value in (sums or {}).items() if name != METADATA}
    return found.get("arrays") != _sum_of(own)


def sealed_step(run: Mapping[str, Any]) -> int | None:
    """Return the step that metadata was saved with; None for a checkpoint of an older version."""
    return run[SEAL]["step"] if SEAL in run else None


def _sum_of(sums: Mapping[str, int]) -> int:
    return zlib.crc32(json.dumps(sums, sort_keys=True).encode())


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
    """Return the CRC-32 of the bytes of each array, by the array's name."""
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf).data)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
