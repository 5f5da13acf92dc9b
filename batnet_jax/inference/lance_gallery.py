"""Galleries in LanceDB: in a folder or in a bucket, larger than the memory of one machine.

A gallery is the table `images` of a database: `path`, `features` and the columns of a feature file.
Its schema carries the fingerprint of the model. LanceDB keeps every version of a table, and the tag
`whole` names the version that the last complete load left. Only this version is searched, so a load
that is under way, or was killed, is not seen.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from batnet_jax.errors import UserError, one_line
from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.inference.lance_filter import quote_text, to_sql
from batnet_jax.retrieval.chosen_rows import RowView
from batnet_jax.retrieval.matches import ItemLists
from batnet_jax.retrieval.scores import unit_length
from batnet_jax.runtime.extras import import_extra

SCHEME = "lancedb:"
IMAGES, WHOLE = "images", "whole"
"""The table, and the tag of its whole version."""
FINGERPRINT = b"batnet_jax fingerprint"
PATH, FEATURES = "path", "features"
_PROBES = 64
"""Lists of the engine's index that a search looks at."""
_ANEW = 10
"""Results of the engine's index that are compared again by their features, in lengths of the
list."""
_QUERIES_AT_ONCE = 64


def is_lance(gallery: Any) -> bool:
    """Return whether the name of a gallery names a database."""
    return isinstance(gallery, str | Path) and str(gallery).startswith(SCHEME)


def uri_of(gallery: str | Path) -> str:
    """Return the folder or the address in a gallery's name.

    Raises: UserError if it names nothing.
    """
    rest = str(gallery).removeprefix(SCHEME)
    if not rest:
        raise UserError(f"'{gallery}' names no database: give {SCHEME}FOLDER")
    return re.sub(r"^([a-z][a-z0-9]+):/(?!/)", r"\1://", rest)  # a path has lost the second /


def import_lancedb(user: str) -> Any:
    """Return the module `lancedb`.

    Args:
      user: the argument that needs it, for the message.

    Raises: UserError if LanceDB is not installed.
    """
    return import_extra("lancedb", name="LanceDB", extra="lancedb", user=user)


def open_lance(gallery: str | Path) -> FeatureFile:
    """Open the whole version of a gallery.

    Raises: UserError if there is none, or LanceDB is missing or cannot read it.
    """
    uri = uri_of(gallery)
    lancedb = import_lancedb(f"'{gallery}'")
    if "://" not in uri and not os.path.isdir(uri):
        raise UserError(f"'{gallery}': there is no folder '{uri}': load a gallery into it first")
    try:
        table = lancedb.connect(uri).open_table(IMAGES)
        if WHOLE not in table.tags.list():
            raise UserError(f"'{gallery}' is not fully loaded: give the same `batnet load` again")
        table.checkout(WHOLE)
        schema = table.schema
        count = table.count_rows()
    except UserError:
        raise
    except Exception as error:  # LanceDB raises many types
        raise UserError(
            f"'{gallery}' holds no gallery that LanceDB can read ({one_line(error)}): load one"
        ) from error
    field = schema.field(FEATURES) if FEATURES in schema.names else None
    if field is None or PATH not in schema.names or not hasattr(field.type, "list_size"):
        raise UserError(f"'{gallery}' holds another table: load a gallery into another folder")
    features = LanceRows(str(gallery), table, (count, field.type.list_size))
    mark = (schema.metadata or {}).get(FINGERPRINT, b"").decode("ascii", "replace") or None
    return FeatureFile(features, LancePaths(features), mark)


def is_remote(gallery: str | Path) -> bool:
    """Return whether a gallery's database is in a bucket."""
    return "://" in uri_of(gallery)


def whole_version(gallery: str | Path) -> tuple[int, ...] | None:
    """Return the version of the last complete load of a gallery; None if no load is complete."""
    uri = uri_of(gallery)
    try:
        # A database that was replaced counts its versions from the start.
        place = () if is_remote(gallery) else (os.stat(f"{uri}/{IMAGES}.lance").st_ino,)
        table = import_lancedb(f"'{gallery}'").connect(uri).open_table(IMAGES)
        return (*place, table.tags.get_version(WHOLE))
    except MemoryError:
        raise
    except Exception:  # LanceDB raises many types; who opens the gallery says what is wrong
        return None


class LanceRows(RowView):
    """The features of a gallery in LanceDB. Images are named by LanceDB's own row numbers."""

    def __init__(self, name: str, table: Any, shape: tuple[int, int]):
        """Keep an open table.

        Args:
          name: of the gallery, for messages.
          table: checked out at the whole version.
          shape: images and dimensions.
        """
        super().__init__(shape, np.dtype(np.float32))
        self.name, self.table = name, table
        self._known: dict[int, str] = {}

    def __getitem__(self, rows: slice | int | np.ndarray) -> np.ndarray:
        """Refuse: the numbers of the images are not 0 to n - 1."""
        raise UserError(
            f"'{self.name}' is in LanceDB, which holds its features: use what embed wrote"
        )

    def nearest(
        self, features: np.ndarray, top: int, where: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the images most similar to each query, best first.

        The search is exact if the gallery has no index of the engine.

        Args:
          features: of q queries, [q, d].
          top: k.
          where: a condition of `find`; None for all images.

        Returns: numbers of images [q, k] int64, and cosines [q, k] float32.
        """
        query = unit_length(np.asarray(features, np.float32))
        if not np.isfinite(query).all():
            raise UserError("the features of a query are not finite: the model is damaged")
        k = min(top, len(self))
        numbers, scores = np.empty((len(query), k), np.int64), np.empty((len(query), k), np.float32)
        least, known = k, {}
        for start in range(0, len(query) if k else 0, _QUERIES_AT_ONCE):
            part = query[start : start + _QUERIES_AT_ONCE]
            for place, (found, cosines) in enumerate(self._search(part, k, where, known), start):
                least = min(least, len(found))
                numbers[place, : len(found)], scores[place, : len(found)] = found, cosines
        self._known = known
        return numbers[:, :least], scores[:, :least]

    def _search(
        self, query: np.ndarray, k: int, where: str | None, known: dict[int, str]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the numbers and cosines of each query's images, equal cosines by number.

        The paths of the images are added to `known`.
        """
        with reading(self.name):
            search = self.table.search(list(query)).distance_type("cosine").with_row_id(True)
            search = search.nprobes(_PROBES).refine_factor(_ANEW).limit(k)
            if where is not None:
                search = search.where(where, prefilter=True)
            found = search.select([PATH, "_distance"]).to_arrow()
        of = found["query_index"].to_numpy() if len(query) > 1 else np.zeros(len(found), int)
        numbers = found["_rowid"].to_numpy().astype(np.int64)
        cosines = 1 - np.clip(found["_distance"].to_numpy(), 0, 2).astype(np.float32)
        known.update(zip(numbers.tolist(), found[PATH].to_pylist(), strict=True))
        for place in range(len(query)):
            own = np.flatnonzero(of == place)
            own = own[np.lexsort((numbers[own], -cosines[own]))]
            yield numbers[own], cosines[own]

    def condition(self, where: str) -> str:
        """Return a filter, see `where`, as a condition of LanceDB.

        Raises: UserError if the filter cannot be read, or names a column that is missing.
        """
        return to_sql(where, column_types(self.table.schema))

    def count(self, where: str) -> int:
        """Return how many images pass a condition of `condition`."""
        with reading(self.name):
            return self.table.count_rows(where)

    def path(self, number: int) -> str:
        """Return the path of an image; "" if there is no such image."""
        if number in self._known:
            return self._known[number]
        with reading(self.name):
            found = self.table.take_row_ids([number]).select([PATH]).to_arrow()
        return found[PATH][0].as_py() if len(found) else ""

    def columns(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of some images, by name, [k] each, without their paths.

        Nulls, which only other programs write, are NaN among numbers and "" among texts.
        """
        names = [name for name in column_types(self.table.schema) if name != PATH]
        wanted, places = np.unique(numbers, return_inverse=True)
        if not names or not len(wanted):
            return {}
        with reading(self.name):
            take = self.table.take_row_ids(wanted.tolist()).with_row_id()
            found = take.select(names).to_arrow().sort_by("_rowid")
            return {name: _to_numpy(found[name])[places] for name in names}

    def feature(self, number: int) -> np.ndarray:
        """Return the feature of an image, [1, d].

        Raises: UserError if there is no such image.
        """
        with reading(self.name):
            found = self.table.take_row_ids([number]).select([FEATURES]).to_arrow()
        if not len(found):
            raise UserError(f"'{self.name}' has no image {number}")
        return np.array(found[FEATURES].to_pylist(), np.float32)

    def sample(self, number: int) -> list[int]:
        """Return the numbers of some images, evenly spaced."""
        places = np.unique(np.linspace(0, len(self) - 1, min(number, len(self))).astype(int))
        if not len(places):
            return []
        with reading(self.name):
            found = self.table.take_offsets(places.tolist()).with_row_id().select([PATH]).to_arrow()
        return found["_rowid"].to_pylist()

    def find_own(self, queries: Sequence[str]) -> ItemLists:
        """Return the images whose path leads to the query's file, for each query.

        An image is found if its path is the query's, its absolute path, or its path without links.
        """
        numbers: list[int] = []
        offsets = [0]
        for query in queries:
            names = {query, os.path.abspath(query), os.path.realpath(query), os.path.relpath(query)}
            wanted = ", ".join(map(quote_text, sorted(names)))
            with reading(self.name):
                search = self.table.search().where(f"{PATH} IN ({wanted})").select([PATH])
                found = search.with_row_id(True).limit(len(names)).to_arrow()
            numbers += sorted(found["_rowid"].to_pylist())
            offsets.append(len(numbers))
        return ItemLists(np.array(numbers, np.int64), np.array(offsets, np.int64))


class LancePaths(Sequence[str]):
    """The paths of a gallery's images, by their numbers; read when they are asked for."""

    def __init__(self, rows: LanceRows):
        """Keep the gallery."""
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: Any) -> Any:
        return self.rows.path(int(number))


def column_types(schema: Any) -> dict[str, np.dtype]:
    """Return the types of a table's columns that a filter can name."""
    import pyarrow as pa

    kinds = (
        (pa.types.is_boolean, np.bool_),
        (pa.types.is_integer, np.int64),
        (pa.types.is_floating, np.float64),
        (pa.types.is_string, np.str_),
    )
    found = {}
    for field in schema:
        kind = next((kind for fits, kind in kinds if fits(field.type)), None)
        if kind is not None:
            found[field.name] = np.dtype(kind)
    return found


def _to_numpy(column: Any) -> np.ndarray:
    """Return a column of a table as an array; see `LanceRows.columns`."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        return np.array(column.fill_null("").to_pylist(), np.str_)
    if column.null_count:
        column = column.cast(pa.float64()).fill_null(np.nan)
    return column.to_numpy()


class reading:  # noqa: N801 (a context manager)
    """Report LanceDB's exceptions as a gallery that cannot be read."""

    def __init__(self, name: str):
        """Keep the gallery's name."""
        self._name = name

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Turn an exception into one line."""
        if isinstance(error, Exception) and not isinstance(error, UserError | MemoryError):
            raise UserError(f"'{self._name}' cannot be read ({one_line(error)})") from error
