"""Loads feature files into LanceDB: in batches, by path, and so that a kill loses nothing.

A load adds all batches, builds the index of the engine, and as its last step moves the tag `whole`
to the resulting version. A table of one row, `loading`, holds the number of images loaded so far:
the same load, started again, continues behind them. The batch that was interrupted is written again
by path, so no image is stored twice. Another load first goes back to the whole version.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.inference.index_file import choose_kind
from batnet_jax.inference.lance_filter import quote_column, to_sql
from batnet_jax.inference.lance_gallery import (
    FEATURES,
    FINGERPRINT,
    IMAGES,
    PATH,
    WHOLE,
    column_types,
    import_lancedb,
    uri_of,
)
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.runtime.atomic_write import open_lock

LOADING = "loading"
ROWS_AT_ONCE = 2**14
"""Images of a batch."""
_KEPT = timedelta(days=7)
"""Age of versions that may be removed: a search may still use a younger one."""
_FOR_EVER = timedelta(days=36500)
_LEAST_INDEXED = 1_000
"""Images that the engine's index needs."""


def load(
    gallery: FeatureFile,
    target: str | Path,
    *,
    kind: str = "auto",
    user: str = "--index",
    progress: Callable[[int], None] = lambda count: None,
) -> int:
    """Load features, paths and columns into a database; an image of a known path is replaced.

    Args:
      gallery: an open feature file.
      target: `lancedb:` and a folder or an address.
      kind: of the engine's index, see `index_file.choose_kind`; flat for none.
      user: the argument that names the kind, for messages.
      progress: called with the number of images already loaded, then with the size of each batch.

    Returns: the images of the whole database.

    Raises: UserError if the gallery does not fit, or the database belongs to another model.
    """
    lancedb = import_lancedb(f"'{target}'")
    paths = gallery.paths
    if paths is None or not isinstance(paths, list):
        raise UserError("only images with paths can be loaded: give the .npz that embed wrote")
    if len(set(paths)) < len(paths):
        raise UserError(
            "the gallery names an image twice: a database identifies images by their paths"
        )
    schema = _schema(gallery)
    with _opened(lancedb, target) as database:
        table = _open_table(database, schema, target)
        digest = _digest(gallery)
        done = _read_progress(database, digest)
        if done is None:
            table = _go_back(database, table, schema)
            done = 0
            _write_progress(database, digest, done)
        was_empty = table.count_rows() == 0
        progress(done)
        for start in range(done, len(paths), ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, len(paths)))
            batch = _batch(gallery, paths, rows, schema)
            if was_empty:
                table.add(batch)
            else:
                merge = table.merge_insert(PATH).when_matched_update_all()
                merge.when_not_matched_insert_all().execute(batch)
            _write_progress(database, digest, rows.stop)
            progress(rows.stop - rows.start)
        return _finish(lancedb, database, table, kind, user)


def delete(target: str | Path, where: str) -> int:
    """Remove the images that pass a filter, see `where`; return how many.

    Raises: UserError if the filter cannot be read, or there is no whole gallery.
    """
    lancedb = import_lancedb(f"'{target}'")
    with _opened(lancedb, target) as database:
        if IMAGES not in _names(database):
            raise UserError(f"'{target}' holds no gallery: load one first")
        table = database.open_table(IMAGES)
        if WHOLE not in table.tags.list() or LOADING in _names(database):
            raise UserError(f"'{target}' is not fully loaded: give the same load again first")
        before = table.count_rows()
        table.delete(to_sql(where, column_types(table.schema)))
        table.tags.update(WHOLE, table.version)
        return before - table.count_rows()


def _finish(lancedb: Any, database: Any, table: Any, kind: str, user: str) -> int:
    """Build or renew the index, and mark the version as whole."""
    count = table.count_rows()
    wanted = choose_kind(kind, count, user)
    if kind == "auto" and wanted == "ivfpq":
        wanted = "hnsw"
    has_index = any(FEATURES in index.columns for index in table.list_indices())
    if wanted != "flat" and not has_index and count >= _LEAST_INDEXED:
        parts = max(1, min(round(count**0.5), count // 256))
        config = {
            "hnsw": lancedb.index.HnswSq,
            "ivfpq": lancedb.index.IvfPq,
        }[wanted]
        options = {"distance_type": "cosine", "num_partitions": parts}
        table.create_index(FEATURES, config=config(**options), replace=True)
    table.optimize(cleanup_older_than=_FOR_EVER)
    table.checkout_latest()
    mark = table.tags.update if WHOLE in table.tags.list() else table.tags.create
    mark(WHOLE, table.version)
    if LOADING in _names(database):
        database.drop_table(LOADING)
    with contextlib.suppress(Exception):  # old versions cost disk and nothing else
        table.cleanup_old_versions(older_than=_KEPT)
    return count


@contextlib.contextmanager
def _opened(lancedb: Any, target: str | Path) -> Iterator[Any]:
    """Open a database for one writer, and report LanceDB's exceptions in one line."""
    uri = uri_of(target)
    try:
        with contextlib.ExitStack() as stack:
            if "://" not in uri:
                os.makedirs(uri, exist_ok=True)
                lock = stack.enter_context(open_lock(Path(uri, "batnet.lock")))
                try:
                    fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UserError(
                        f"'{target}' is being loaded by another process: wait for its end"
                    ) from None
            yield lancedb.connect(uri)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot write '{target}' ({error.strerror or one_line(error)})") from error
    except MemoryError:
        raise
    except Exception as error:  # LanceDB raises many types
        raise UserError(f"LanceDB cannot write '{target}' ({one_line(error)})") from error


def _names(database: Any) -> list[str]:
    """Return the names of a database's tables, which are few."""
    return list(database.list_tables().tables)


def _schema(gallery: FeatureFile) -> Any:
    """Return the schema of a gallery's table.

    Raises: UserError for a column that LanceDB cannot hold.
    """
    import pyarrow as pa

    types = {"b": pa.bool_(), "i": pa.int64(), "u": pa.int64(), "f": pa.float64(), "U": pa.string()}
    dim = gallery.features.shape[1]
    fields = [
        pa.field(PATH, pa.string(), nullable=False),
        pa.field(FEATURES, pa.list_(pa.float32(), dim), nullable=False),
    ]
    for name, column in gallery.columns.items():
        quote_column(name)
        if name in (PATH, FEATURES) or name.startswith("_"):
            raise UserError(f"LanceDB needs the name {name} itself: give the column another one")
        if column.dtype.kind == "u" and len(column) and column.max() > np.iinfo(np.int64).max:
            raise UserError(f"the column {name} holds numbers of 2^63 or more: LanceDB cannot")
        fields.append(pa.field(name, types[column.dtype.kind], nullable=False))
    mark = {FINGERPRINT: gallery.fingerprint.encode()} if gallery.fingerprint else {}
    return pa.schema(fields, metadata=mark)


def _open_table(database: Any, schema: Any, target: str | Path) -> Any:
    """Open or make the table of images.

    Raises: UserError if its images are of another model, or have other columns.
    """
    if IMAGES not in _names(database):
        return database.create_table(IMAGES, schema=schema)
    table = database.open_table(IMAGES)
    if table.schema.equals(schema, check_metadata=False):
        known, new = ((s.metadata or {}).get(FINGERPRINT) for s in (table.schema, schema))
        if known == new:
            return table
        raise UserError(f"'{target}' holds images of another model: load into another folder")
    if table.count_rows() == 0:  # a load of other columns was killed at once
        return database.create_table(IMAGES, schema=schema, mode="overwrite")
    raise UserError(
        f"'{target}' holds features or columns of other names or types"
        f" ({', '.join(table.schema.names)}): load into another folder"
    )


def _digest(gallery: FeatureFile) -> str:
    """Return a digest of a gallery, by which a load that is started again is recognised."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{gallery.features.shape} {gallery.fingerprint}\n".encode())
    for path in gallery.paths or ():
        digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
    for name, column in sorted(gallery.columns.items()):
        digest.update(name.encode() + np.ascontiguousarray(column).tobytes())
    for part in (slice(0, 16), slice(max(0, len(gallery.features) - 16), None)):
        digest.update(np.ascontiguousarray(read_rows(gallery.features, part)).tobytes())
    return digest.hexdigest()


def _go_back(database: Any, table: Any, schema: Any) -> Any:
    """Return the table as its last complete load or removal left it; empty if there is none."""
    if WHOLE not in table.tags.list():
        if table.count_rows() == 0:
            return table
        return database.create_table(IMAGES, schema=schema, mode="overwrite")
    if table.tags.get_version(WHOLE) != table.version:
        table.checkout(WHOLE)
        table.restore()
    return table


def _read_progress(database: Any, digest: str) -> int | None:
    """Return how many images of a load are loaded already; None if the last load was another."""
    if LOADING not in _names(database):
        return None
    rows = database.open_table(LOADING).to_arrow().to_pylist()
    return next((row["done"] for row in rows if row["digest"] == digest), None)


def _write_progress(database: Any, digest: str, done: int) -> None:
    """Write how many images of a load are loaded."""
    database.create_table(LOADING, data=[{"digest": digest, "done": done}], mode="overwrite")


def _batch(gallery: FeatureFile, paths: list[str], rows: slice, schema: Any) -> Any:
    """Return some images as a table of Arrow.

    Raises: UserError if a feature is not finite, or a path is not text.
    """
    import pyarrow as pa

    features = read_rows(gallery.features, rows)
    if not np.isfinite(features).all():
        raise UserError("the gallery holds features that are not finite: embed the images again")
    try:
        flat = pa.array(np.ascontiguousarray(features).reshape(-1))
        arrays = [
            pa.array(paths[rows], pa.string()),
            pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
        ]
        for name in schema.names[len(arrays) :]:
            column = gallery.columns[name][rows]
            arrays.append(pa.array(column.tolist(), schema.field(name).type, from_pandas=False))
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise UserError(
            f"LanceDB cannot hold a path or a column of the images {rows.start} to {rows.stop}"
            f" ({one_line(error)}): names must be UTF-8"
        ) from error
    return pa.Table.from_arrays(arrays, schema=schema)
