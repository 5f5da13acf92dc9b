"""Search: a model and a gallery, and the gallery images most similar to each query."""

import copy
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.data.loading.user_images import list_files
from batnet_jax.errors import UserError
from batnet_jax.inference import feature_file, loading
from batnet_jax.inference.feature_file import FeatureFile
from batnet_jax.inference.gallery import (
    Rows,
    choose_rows,
    is_gallery,
    open_kept,
    search_lists,
    top_of_rows,
)
from batnet_jax.inference.hit_columns import plain_rows, take_columns
from batnet_jax.inference.joined_galleries import join_galleries, places_of
from batnet_jax.inference.lance_gallery import LanceRows, column_types
from batnet_jax.inference.model import Model
from batnet_jax.inference.where import PATH
from batnet_jax.retrieval import ItemLists
from batnet_jax.retrieval.mapped_rows import read_rows
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.people import name_of, read_names


class Searcher:
    """A gallery and the model that embeds queries, which is restored when first needed.

    Attributes:
      gallery: features [n, d], paths, columns and the fingerprint of their model; of several
        galleries, all of them, one after the other.
      sources: the feature file or the images of each gallery.
      kept: for each source, whether it is a file or a database of features, which somebody may
        replace; False for images.
      places: which of several galleries an image is in; None for one gallery.
      workdir: the workdir or the checkpoint of the model.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: Path,
        source: Path | Sequence[Path],
        *,
        batch: int = 0,
    ):
        """Open a gallery of features, or embed a gallery of images.

        Args:
          config: see `loading.load_with_config`.
          workdir: a workdir or a checkpoint.
          source: an .npz that embed wrote, an .npy of features, an index for faiss, a database
            (see `lance_gallery`), or images (see `list_files`); or several of them.
          batch: images per step; 0 = the config's.

        Raises: UserError if the gallery does not exist, or the model is needed and missing.
        """
        self._load_model = functools.partial(
            loading.load_with_config, config, workdir, step=config.eval.step, batch=batch
        )
        self.sources = [source] if isinstance(source, Path) else list(source)
        self.workdir = workdir
        self.kept = [is_gallery(one) for one in self.sources]
        self._files = [self._open(one) for one in self.sources]
        self._join()

    def reopened(self) -> "Searcher":
        """Open the feature files again, check them, and return a searcher with the same model.

        Raises: UserError if a file is damaged, or of another model.
        """
        new = copy.copy(self)
        new.__dict__.pop("common_folder", None)
        new._files = [
            open_kept(one) if is_kept else old
            for one, old, is_kept in zip(self.sources, self._files, self.kept, strict=True)
        ]
        new._join()
        new._check_gallery()
        return new

    def _open(self, source: Path) -> FeatureFile:
        """Open a feature file, or embed images."""
        if is_gallery(source):
            return open_kept(source)
        paths = list_files(source)
        return FeatureFile(self.model.embed(paths), paths, _fingerprint_of(self.model))

    def _join(self) -> None:
        """Join all galleries to one."""
        names = [str(one) for one in self.sources]
        several = len(names) > 1
        self.gallery = join_galleries(self._files, names) if several else self._files[0]
        self.places = places_of(self._files, names) if several else None
        self._is_checked = False

    @functools.cached_property
    def model(self) -> Model:
        """The model."""
        return self._load_model()

    def search(self, images: Any, top: int, rows: Rows = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the gallery images most similar to each query, best first.

        Args:
          images: q queries; see `Model.embed`.
          top: k; all n if the gallery has fewer.
          rows: the gallery images to search, see `find_rows`; None for all.

        Returns: indices [q, k] int32 and cosines [q, k] float32; see `gallery.top_of_rows`.

        Raises: UserError if the gallery is of another model, or a query is not an image.
        """
        return self.search_features(self.embed(images), top, rows)

    def embed(self, images: Any) -> np.ndarray:
        """Return the features of images, [q, d], that can be compared with the gallery's.

        Raises: UserError as `search`.
        """
        self._check_gallery()
        return self.model.embed(images)

    def search_features(
        self, features: np.ndarray, top: int, rows: Rows = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search as `search` does, for features [q, d], such as `embed` returns."""
        return top_of_rows(features, self.gallery.features, top, rows)

    def find_rows(self, where: str | None) -> Rows:
        """Return the gallery images that pass a filter, see `where`; None for all images.

        Raises: UserError if the filter cannot be read, or names a column that is missing.
        """
        return choose_rows(self.gallery, where)

    def column_names(self) -> list[str]:
        """Return the names that a filter of this gallery can use."""
        if isinstance(self.gallery.features, LanceRows):
            return list(column_types(self.gallery.features.table.schema))
        return [*self.gallery.columns, *([] if self.gallery.paths is None else [PATH])]

    def count(self, rows: Rows) -> int:
        """Return how many gallery images `rows` chooses."""
        features = self.gallery.features
        if isinstance(rows, str):
            return features.count(rows) if isinstance(features, LanceRows) else 0
        return len(features) if rows is None else len(rows)

    def has(self, number: int) -> bool:
        """Return whether there is a gallery image of a number."""
        rows = self.gallery.features
        return bool(rows.path(number)) if isinstance(rows, LanceRows) else number < len(rows)

    def sample(self, number: int) -> list[int]:
        """Return the numbers of some gallery images, evenly spaced."""
        rows = self.gallery.features
        if isinstance(rows, LanceRows):
            return rows.sample(number)
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(int))
        return chosen.tolist()

    def feature(self, number: int) -> np.ndarray:
        """Return the feature of a gallery image, [1, d]."""
        rows = self.gallery.features
        if isinstance(rows, LanceRows):
            return rows.feature(number)
        return read_rows(rows, slice(number, number + 1))

    def search_lists(
        self,
        features: np.ndarray,
        top: int,
        left_out: ItemLists | None = None,
        rows: Rows = None,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Search as `search_features` does, and leave out some gallery images of each query.

        Args:
          features: of q queries.
          top: k.
          left_out: the gallery images to leave out, for each query; None for none.
          rows: the gallery images to search, see `find_rows`; None for all.

        Returns: indices and cosines of each query, at most k of each.
        """
        return search_lists(features, self.gallery.features, top, left_out, rows)

    def _check_gallery(self) -> None:
        """Check, before the first search, that the gallery is of this model.

        Raises: UserError if it is not.
        """
        if self._is_checked:
            return
        own = _fingerprint_of(self.model)
        for source, file in zip(self.sources, self._files, strict=True):
            if own is not None and is_gallery(source):
                feature_file.check_fingerprint(source, file.fingerprint, own)
            dim = file.features.shape[1]
            if dim != self.model.dim:
                raise UserError(
                    f"'{source}' holds features of {dim} dimensions, and the model's have"
                    f" {self.model.dim}: embed the gallery with this model"
                )
        self._is_checked = True

    @functools.cached_property
    def common_folder(self) -> str:
        """The folder above all images, with a slash at its end; "" if there is none."""
        paths = self.gallery.paths or []
        if isinstance(self.gallery.features, LanceRows):  # a database has too many paths
            return ""
        folders = {os.path.dirname(path) for path in paths}
        mixed = len({os.path.isabs(folder) for folder in folders}) != 1
        return os.path.join("" if mixed else os.path.commonpath(folders), "")

    @functools.cached_property
    def names(self) -> set[str]:
        """The names of the people that the model's run has seen; empty if it knows no names."""
        return read_names(checkpoints.locate(self.workdir)[0])

    def person(self, i: int) -> str | None:
        """Return the name of the person in gallery image i, by the folders of its path."""
        return name_of(self.gallery.paths[i], self.names) if self.gallery.paths else None

    def columns(self, numbers: np.ndarray) -> list[dict[str, Any]]:
        """Return the columns of gallery images, see `plain_rows`; empty if the gallery has none."""
        found = take_columns(self.gallery, numbers)
        return plain_rows(found, len(numbers)) if found else []

    def name(self, i: int) -> str:
        """Return the path of gallery image i, or its row if the gallery has no paths."""
        return self.gallery.paths[i] if self.gallery.paths else f"row {i}"


def _fingerprint_of(model: Any) -> str | None:
    """Return the fingerprint of a model; None for a model of the user's own, which has none."""
    return getattr(model, "fingerprint", None)
