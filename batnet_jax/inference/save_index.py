"""Writes the features of images to a file, for `Model.save_index`."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from batnet_jax.data.loading.described_images import DescribedImages, describe_images
from batnet_jax.data.loading.name_list import NameList
from batnet_jax.data.loading.user_arrays import check_local, match_pattern
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError
from batnet_jax.inference.columns import check_columns
from batnet_jax.inference.feature_file import INDEX_SUFFIX, PARQUET_SUFFIX, mark, write_features
from batnet_jax.inference.index_file import choose_kind, write_index
from batnet_jax.runtime.progress import progress_bar

BAR_DELAY = 2.0
"""Seconds until a progress bar is shown."""


class Embedder(Protocol):
    """The methods of `Model` that writing a file of features needs."""

    dim: int
    fingerprint: str
    alpha: str

    def find_images(self, images: Any, channels: str = "rgb") -> Any:
        """Return paths, or None and images."""

    def embed_batches(self, paths: Any, images: Any, channels: str) -> Iterator[np.ndarray]:
        """Yield features, at most a batch at a time."""
        ...


def save_index(
    model: Embedder, images: Any, path: Path, *, channels: str, kind: str, progress: bool
) -> None:
    """Write the features of images to a file; see `Model.save_index`.

    Raises: see `Model.save_index`.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npz", PARQUET_SUFFIX, INDEX_SUFFIX):
        raise UserError(f"'{path}' does not end in .npz, {PARQUET_SUFFIX} or {INDEX_SUFFIX}")
    described = describe(images)
    paths, found = model.find_images(images if described is None else described, channels)
    if described is not None:
        described.alpha = model.alpha
        check_columns(described.columns, len(described))
    names = names_of(paths, len(found))
    kind = choose_kind(kind, len(names), "kind") if suffix == INDEX_SUFFIX else ""
    with embed_bar(len(names), progress) as bar:

        def batches() -> Iterator[np.ndarray]:
            for batch in model.embed_batches(paths, found, channels):
                yield batch
                bar.update(len(batch))

        if suffix == INDEX_SUFFIX:
            features = np.concatenate(list(batches()))
            about = {"user": "an .index", "paths": names, "kind": kind}
            write_index(path, features, mark(model.fingerprint), **about)
            return

        def columns() -> Mapping[str, np.ndarray]:
            return {} if described is None else {**described.columns, "digest": described.digests}

        write_features(
            path,
            batches(),
            shape=(len(names), model.dim),
            paths=names,
            fingerprint=model.fingerprint,
            columns=columns,
        )


def describe(images: Any) -> DescribedImages | None:
    """Return images with the columns that `embed` keeps; None unless all images are files.

    Args:
      images: see `Model.embed`; a table, see `describe_images`.

    Raises: UserError if no image is found, or a row of the table is wrong.
    """
    if isinstance(images, str | Path):
        check_local(images)
        matches = match_pattern(images)
        return describe_images(Path(images)) if matches is None else DescribedImages(matches, {})
    if isinstance(images, NameList):
        return DescribedImages(images, {})
    if isinstance(images, DescribedImages):
        return images
    is_list = isinstance(images, list | tuple) and len(images) > 0
    if not is_list or not all(isinstance(item, str | Path) for item in images):
        return None
    names = []
    for item in images:
        matches = match_pattern(item)
        names += [str(item)] if matches is None else matches
    return DescribedImages(names, {})


def names_of(paths: Sequence[str] | ImageFiles | None, count: int) -> Sequence[str]:
    """Return the names of images: their paths, or `image 3` of an image without one."""
    if paths is None:
        return [f"image {i}" for i in range(count)]
    return list(paths.filenames if isinstance(paths, ImageFiles) else paths)


@contextlib.contextmanager
def embed_bar(total: int, progress: bool) -> Iterator[Any]:
    """Open a progress bar, which shows nothing unless `progress`."""
    if not progress:
        yield SimpleNamespace(update=lambda count: None)
        return
    with progress_bar(total, description="embed", delay=BAR_DELAY) as bar:
        yield bar
