"""The index of a prepared data set, `index.npz`: the labels of all splits, sealed by a checksum.

For each split the file holds `SPLIT/pid` and `SPLIT/camera` [n] int64, `SPLIT/filename` [n] bytes
in UTF-8, `SPLIT/shape` [n, 2] int32 and `SPLIT/digest` [n] uint64; besides `identity_names` [k]
bytes and `seal`. Data sets of older versions lack `seal`, and some also shapes and digests.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from batnet_jax.errors import printable
from batnet_jax.runtime.atomic_write import atomic_path
from batnet_jax.runtime.npz import read_npz

INDEX_NAME = "index.npz"
"""The file with all splits' labels, so that opening a data set does not read the images."""
NAMES = "identity_names"
SEAL = "seal"
_COLUMNS = {"pid": "i8", "camera": "i8", "filename": "S", "shape": "i4", "digest": "u8"}
_OPTIONAL = ("shape", "digest")


def write_index(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the labels of all splits, and their seal.

    Raises: OSError if the file cannot be written.
    """
    seal = np.array(seal_of(arrays), np.bytes_)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, **{SEAL: seal})  # type: ignore


def read_index(path: Path) -> dict[str, np.ndarray]:
    """Read the labels of all splits; say on stderr if they have no seal.

    Raises: OSError if the file cannot be read; ValueError if it is damaged.
    """
    index = read_npz(path)
    seal = index.pop(SEAL, None)
    if seal is not None and seal.tolist() != seal_of(index).encode():
        raise ValueError("its labels do not match their checksum")
    for split in {name.partition("/")[0] for name in index if "/" in name}:
        _check_split(index, split)
    names = index.get(NAMES)
    if names is None or names.dtype.kind != "S" or names.ndim != 1:
        raise ValueError(f"it holds no {NAMES}")
    if seal is None:
        line = (
            f"note: '{path}' is of an older version and has no checksum: damage to its labels would"
            f" not be noticed; to have one, delete '{path.parent}', and run again"
        )
        print(printable(line), file=sys.stderr)
    return index


def _check_split(index: Mapping[str, np.ndarray], split: str) -> None:
    """Check that each column of a split has its type, its length and possible values.

    Raises: ValueError for another column; KeyError for a missing one.
    """
    length = len(index[f"{split}/filename"])
    for column, kind in _COLUMNS.items():
        name = f"{split}/{column}"
        if name not in index and column in _OPTIONAL:
            continue
        array = index[name]
        wanted = (length, 2) if column == "shape" else (length,)
        is_type = array.dtype.kind == "S" if kind == "S" else array.dtype == np.dtype(kind)
        if not is_type or array.shape != wanted or not length:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not {wanted}")
    pids, cameras = index[f"{split}/pid"], index[f"{split}/camera"]
    names = index.get(NAMES, ())
    if pids.min() < 0 or (len(names) and pids.max() >= len(names)) or cameras.min() < -1:
        raise ValueError(f"{split} has labels that cannot be")


def seal_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a checksum of the names, types, shapes and values of arrays, in any order."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
