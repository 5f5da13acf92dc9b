"""Ranked lists as Python objects: the hits of each query, and a table for pandas."""

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.inference.hit_columns import plain_rows, table_name
from batnet_jax.inference.joined_galleries import Places


class _Hit(NamedTuple):
    rank: int
    """From 1."""
    score: float
    """The cosine between the features, -1 to 1."""
    index: int
    """In the gallery, from 0."""
    path: str | None
    """None if the gallery has no paths."""


class Hit(_Hit):
    """A gallery image in a ranked list: a tuple of `rank`, `score`, `index` and `path`.

    Attributes:
      columns: what the gallery keeps about the image, by name; see `plain_rows`. Not in the tuple.
    """

    columns: Mapping[str, Any] = types.MappingProxyType({})


class _GalleryHit(NamedTuple):
    rank: int
    score: float
    index: int
    """In all galleries, one after the other, from 0."""
    path: str | None
    gallery: str
    """The path of the image's gallery."""
    row: int
    """In this gallery, from 0."""


class GalleryHit(_GalleryHit):
    """A gallery image in a ranked list of several galleries; see `Hit`."""

    columns: Mapping[str, Any] = types.MappingProxyType({})


@dataclass(frozen=True, eq=False)
class RankedHits(Sequence[list[Hit]]):
    """The ranked lists of q queries: a sequence of lists of `Hit`, in the order of the queries.

    Attributes:
      queries: q names: the path of a query, or `image 3` of an image without one.
      indices: q arrays [k] int32, gallery images, best first. k is less than was asked for if the
        gallery is smaller, or holds the query itself.
      scores: q arrays [k] float32, cosines.
      paths: of all gallery images; None if they have none.
      places: which of several galleries an image is in; hits are then `GalleryHit`s. None for one
        gallery.
      columns: the columns of all hits, one list after the other: booleans, numbers or strings by
        name. Empty if the gallery has no columns.
    """

    queries: Sequence[str]
    indices: Sequence[np.ndarray]
    scores: Sequence[np.ndarray]
    paths: Sequence[str] | None
    places: Places | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, q: Any) -> Any:
        if isinstance(q, slice):
            return [self[i] for i in range(*q.indices(len(self)))]
        found = zip(self.indices[q].tolist(), self.scores[q].tolist(), strict=True)
        hits: list[Any] = [
            Hit(rank, score, i, None if self.paths is None else str(self.paths[i]))
            for rank, (i, score) in enumerate(found, 1)
        ]
        if self.places is not None:
            places = map(self.places.find, self.indices[q].tolist())
            hits = [
                GalleryHit(hit.rank, hit.score, hit.index, hit.path, gallery, row)
                for hit, (gallery, row) in zip(hits, places, strict=True)
            ]
        if self.columns:
            q = range(len(self))[q]
            start = sum(map(len, self.indices[:q]))
            own = {name: v[start : start + len(hits)] for name, v in self.columns.items()}
            for hit, columns in zip(hits, plain_rows(own, len(hits)), strict=True):
                hit.columns = columns
        return hits

    def __iter__(self) -> Iterator[list[Hit]]:
        return (self[q] for q in range(len(self)))

    def __repr__(self) -> str:
        most = max((len(found) for found in self.indices), default=0)
        return f"RankedHits({len(self)} queries, up to {most} hits each)"

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row for each hit: query, rank, score, index, path.

        Hits of several galleries have gallery and row, too. Columns of the gallery follow, in their
        own types and under their own names; see `table_name`.

        Raises: UserError if pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError("to_pandas needs pandas: pip install pandas") from error
        rows = [
            (query, *hit) for query, hits in zip(self.queries, self, strict=True) for hit in hits
        ]
        fields = Hit._fields if self.places is None else GalleryHit._fields
        frame = pandas.DataFrame(rows, columns=["query", *fields])
        kept = {table_name(name): values for name, values in self.columns.items()}
        # One step for all columns: pandas copies at each.
        return pandas.concat([frame, pandas.DataFrame(kept)], axis=1) if kept else frame
