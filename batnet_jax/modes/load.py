"""The mode `load`: put the features of images into a database, or remove images from it."""

import time
from pathlib import Path

import ml_collections

from batnet_jax.errors import UserError, printable
from batnet_jax.inference.feature_file import is_feature_file, open_features
from batnet_jax.inference.lance_gallery import is_lance
from batnet_jax.inference.lance_load import delete as delete_images
from batnet_jax.inference.lance_load import load
from batnet_jax.inference.save_index import BAR_DELAY
from batnet_jax.runtime.progress import progress_bar


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    to: str,
    gallery: Path | None = None,
    index: str = "auto",
    delete: str | None = None,
) -> None:
    """Remove images from a database, then load the images of a feature file into it.

    Args:
      config: not read.
      workdir: not read.
      to: `lancedb:` and a folder or an address.
      gallery: a feature file; None to remove images only.
      index: of the database, see `lance_load.load`.
      delete: a filter of the images to remove, see `inference.where`.

    Raises: UserError if a file or the database is missing or damaged, or they do not fit.
    """
    del config, workdir
    if not is_lance(to):
        raise UserError(f"--to={to} names no database: give lancedb: and a folder")
    if gallery is None and delete is None:
        raise UserError("--mode=load needs --gallery, or --delete alone to remove images")
    if gallery is not None and not is_feature_file(gallery):
        raise UserError(
            f"--gallery={gallery} is not a file of features: give the .npz that embed wrote"
        )
    shown = []
    if delete is not None:
        shown += [f"removed: {delete_images(to, delete):,} images from {to}"]
    if gallery is not None:
        start = time.perf_counter()
        found = open_features(gallery)
        count, dim = found.features.shape
        with progress_bar(count, description="load", delay=BAR_DELAY) as bar:
            total = load(found, to, kind=index, progress=bar.update)
        rate = count / (time.perf_counter() - start)
        line = f"loaded: {count:,} images of {dim} dimensions into {to}, {rate:,.0f} images/s"
        shown += [f"{line}; it holds {total:,}"]
    print("\n".join(map(printable, shown)))
