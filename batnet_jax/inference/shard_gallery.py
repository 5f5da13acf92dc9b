"""Opens a gallery in shards as one: the features of all shards, their paths and columns."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.evaluation.parquet.columns import read_columns
from batnet_jax.evaluation.parquet.file import Contents, Opened, find_parts, open_file, read_texts
from batnet_jax.evaluation.parquet.rows import read_batches, unpack
from batnet_jax.evaluation.parquet.texts import TextColumn
from batnet_jax.evaluation.parquet.write import FEATURES, PATH
from batnet_jax.inference.shards import Plan, Shard, crc_of, read_manifest
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.row_parts import Part, PartFile, RowParts, part_file
from batnet_jax.runtime.read_files import open_regular, reason


def open_shards(folder: Path, in_memory: int) -> Contents:
    """Open a gallery in shards.

    Args:
      folder: of the shards.
      in_memory: the limit in bytes up to which features are read into memory.

    Raises: UserError, OSError or ValueError if the gallery is not whole, or a shard is missing,
      damaged or not the shard that the manifest names.
    """
    plan, shards = read_manifest(folder)
    files: list[PartFile] = []
    parts: list[Part] | None = []
    texts, columns = [], []
    for shard in shards:
        with _opened(folder, plan, shard) as opened:
            found = find_parts(opened, len(files))
            files.append(part_file(opened.path, opened.file.fileno()))
            parts = None if parts is None or found is None else parts + found
            texts += read_texts(opened, PATH).chunks
            leave_out = FEATURES, PATH
            columns.append(read_columns(opened.parquet, leave_out=leave_out, facts=opened.facts))
    count = sum(shard.rows for shard in shards)
    if not count:
        raise UserError(f"'{folder}' has no rows: embed images that can be read")
    features = _place(files, parts, plan.dim, in_memory)
    if features is None:
        features = unpack(folder, _read_all(folder, plan, shards), count, in_memory)
    return Contents(features, TextColumn(texts), plan.fingerprint, _joined(folder, columns))


@contextlib.contextmanager
def _opened(folder: Path, plan: Plan, shard: Shard) -> Iterator[Opened]:
    """Open a shard.

    Raises: UserError if it is missing, damaged or not the shard that the manifest names.
    """
    path = folder / shard.file
    try:
        with open(open_regular(path), "rb") as file:
            opened = open_file(path, file)
            facts = opened.facts
            if facts is None or crc_of(facts) != shard.crc32 or facts.dim != plan.dim:
                raise UserError(
                    f"'{path}' is another file than the manifest of the gallery names: restore it,"
                    " or embed into a new folder"
                )
            yield opened
    except (UserError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises many types
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(
            f"'{path}' cannot be read ({why}): restore it, or embed into a new folder"
        ) from error


def _place(
    files: list[PartFile], parts: list[Part] | None, dim: int, in_memory: int
) -> np.ndarray | RowFile | None:
    """Return the features in place, or in memory if they are few; None if they must be unpacked."""
    if not parts:
        return None
    rows = RowParts(files, parts, dim)
    if not rows.check_part(0):
        return None  # a version of pyarrow that writes otherwise, or damage
    return rows[:] if rows.nbytes <= in_memory else rows


def _read_all(folder: Path, plan: Plan, shards: list[Shard]) -> Iterator[np.ndarray]:
    """Yield the features of all shards, [m, d]."""
    for shard in shards:
        with _opened(folder, plan, shard) as opened:
            yield from read_batches(opened.path, opened.parquet, FEATURES, opened.facts)


def _joined(folder: Path, columns: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the columns of all shards.

    Raises: UserError if the shards have different columns.
    """
    names = columns[0].keys()
    if any(one.keys() != names for one in columns):
        raise UserError(f"'{folder}' has shards of other columns: embed into a new folder")
    return {name: np.concatenate([one[name] for one in columns]) for name in names}
