"""The mode `embed`: write the features of images to a file."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.loading.user_images import ImageFiles, list_files
from batnet_jax.errors import UserError, printable
from batnet_jax.inference.feature_file import write_features
from batnet_jax.inference.loading import load_with_config
from batnet_jax.inference.model import BAR_DELAY, Model
from batnet_jax.modes.flags import report_write_errors
from batnet_jax.runtime.progress import progress_bar


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    images: Path,
    output: Path,
    skip_unreadable: bool,
) -> None:
    """Write the features of images to a file.

    Args:
      config: see `load_with_config`.
      workdir: a workdir or a checkpoint.
      images: see `list_files`.
      output: the .npz to write.
      skip_unreadable: leave out images that cannot be read, and name them on stderr. Every image
        is decoded twice then.

    Raises: UserError if the model or the images are missing, or an image cannot be read.
    """
    if output.suffix.lower() != ".npz":
        raise UserError(f"--output={output} does not end in .npz: features are written as .npz")
    paths = list_files(images)
    model = load_with_config(config, workdir, step=config.eval.step)
    if skip_unreadable:
        paths = readable(paths, model)
    line = f"{model}: {len(paths)} images of '{images}' go to '{output}'"
    print(printable(line), file=sys.stderr)
    start = time.perf_counter()
    with progress_bar(len(paths), description="embed", delay=BAR_DELAY) as bar:

        def parts() -> Iterator[np.ndarray]:
            for part in model.embed_parts(paths):
                yield part
                bar.update(len(part))

        with report_write_errors("output", output):
            shape = len(paths), model.dim
            fingerprint = model.fingerprint
            write_features(output, parts(), shape=shape, paths=paths, fingerprint=fingerprint)
    rate = len(paths) / (time.perf_counter() - start)
    line = f"written: {output}, features [{len(paths)}, {model.dim}], {rate:.1f} images/s"
    print(printable(line))


def readable(paths: Sequence[str], model: Model) -> list[str]:
    """Return the paths of images that can be read, and name the others on stderr.

    Raises: UserError if no image can be read.
    """
    files, kept = ImageFiles(paths), []
    workers = max(model.config.data.workers, os.cpu_count() or 1)
    options = {"image_size": model.image_size, "cache_gb": 0.0, "alpha": model.alpha}
    with (
        ImageStore(files, workers=workers, **options) as store,
        progress_bar(len(paths), description="look", delay=BAR_DELAY) as bar,
    ):
        for path, error in zip(paths, store.errors(), strict=True):
            if error is None:
                kept.append(path)
            else:
                print(f"left out: {error}", file=sys.stderr)
            bar.update()
    if not kept:
        raise UserError(f"none of the {len(paths)} images can be read: give others")
    return kept
