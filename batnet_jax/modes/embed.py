"""The mode `embed`: write the features of images to a file, or bring such a file up to date."""

import functools
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import ml_collections
import numpy as np

from batnet_jax.data.loading.described_images import DescribedImages, describe_images
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError, printable
from batnet_jax.evaluation.parquet.write import SUFFIX as PARQUET
from batnet_jax.inference import living_gallery
from batnet_jax.inference.columns import check_columns
from batnet_jax.inference.feature_file import FeatureFile, open_features, write_features
from batnet_jax.inference.living_gallery import Plan
from batnet_jax.inference.loading import load_with_config
from batnet_jax.inference.model import Model
from batnet_jax.inference.save_index import BAR_DELAY
from batnet_jax.modes.embed_shards import parse_shard, run_shards
from batnet_jax.modes.flags import given_fields, report_write_errors
from batnet_jax.runtime import processes
from batnet_jax.runtime.file_lock import only_writer
from batnet_jax.runtime.paths import is_file, is_folder
from batnet_jax.runtime.progress import progress_bar


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    images: Path | None,
    output: Path,
    skip_unreadable: bool,
    append: bool = False,
    update: bool = False,
    remove: str | None = None,
    shard: str | None = None,
    shard_images: int | None = None,
) -> None:
    """Write the features of images to a file, or to a folder of shards.

    Args:
      config: see `load_with_config`. `data.layout` and `data.pattern` name the identities and the
        cameras of a folder if the command line gives them.
      workdir: a workdir or a checkpoint.
      images: see `describe_images`; None if images are only removed.
      output: the .npz or .parquet to write, or a folder, see `embed_shards`.
      skip_unreadable: leave out images that cannot be read, and name them on stderr. Every image
        is decoded twice then.
      append: keep the images that the file has, and add those that it does not have.
      update: embed images that are new or have changed, and remove those that `images` lacks.
      remove: remove images from the file, see `living_gallery.plan_remove`.
      shard: see `embed_shards.parse_shard`.
      shard_images: images of a shard.

    Raises: UserError if the model or the images are missing, an image cannot be read, or another
      process is writing the file.
    """
    to_folder = check_output(output, shard, shard_images)
    given = [f"--{n}" for n, on in zip(("append", "update", "remove"), (append, update, remove),
                                       strict=True) if on]  # fmt: skip
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: run one after the other")
    if (images is None) == (remove is None):
        what = "--images (or --remove)" if images is None else "either --images or --remove"
        raise UserError(f"--mode=embed needs {what}: a folder, a list or a table")
    if to_folder:
        if given or images is None:
            raise UserError(
                f"{given[0]} changes a file, not a folder as --output={output}: embed into a new"
                " folder, or into a file"
            )
        found, model = _prepare(config, workdir, images, look=False)
        run_shards(
            model,
            found,
            output=output,
            shard=parse_shard(shard),
            shard_images=shard_images,
            readable=functools.partial(readable, model=model) if skip_unreadable else None,
        )
        return
    with report_write_errors("output", output), only_writer(output):
        if remove is not None:
            _remove(output, remove)
            return
        assert images is not None
        found, model = _prepare(config, workdir, images)
        old = _open_old(output, model) if append or update else None
        if old is None:
            plan = living_gallery.plan_all(len(found))
        else:
            plan_of = living_gallery.plan_append if append else living_gallery.plan_update
            plan = plan_of(old, found)
        _embed(model, found, old, plan, output, str(images), skip_unreadable)


def _prepare(
    config: ml_collections.ConfigDict, workdir: Path, images: Path, *, look: bool = True
) -> tuple[DescribedImages, Model]:
    """Return the images and the model; of several processes each has its own images and devices.

    Raises: see `run`, in all processes.
    """
    fields = given_fields()
    reading = {n: config.data[n] for n in ("layout", "pattern") if f"data.{n}" in fields}
    found = processes.by_all(lambda: describe_images(images, **reading, look=look))
    check_columns(found.columns, len(found))
    model = load_with_config(config, workdir, step=config.eval.step, apart=True)
    found.alpha = model.alpha
    return found, model


def check_output(output: Path, shard: str | None, shard_images: int | None) -> bool:
    """Return whether the output is a folder: one that exists, or a name without a suffix.

    Raises: UserError for a file of another suffix than .npz or .parquet, and for a file with
      several processes or the flags of shards.
    """
    if str(output).startswith("gs:/"):
        raise UserError(
            f"--output={output} is in a bucket: name a folder, in which a bucket may be mounted"
        )
    if not output.suffix or is_folder(output):
        return True
    if output.suffix.lower() not in (".npz", PARQUET):
        raise UserError(
            f"--output={output} does not end in .npz or {PARQUET}: name such a file, or a folder"
            " without a suffix"
        )
    if shard is not None or shard_images is not None:
        flag = "--shard" if shard is not None else "--shard_images"
        raise UserError(f"{flag} needs a folder to write shards into, not --output={output}")
    if not processes.alone():
        raise UserError(
            f"--output={output} is a file, which one process writes: name a folder, into which"
            f" {jax.process_count()} processes write shards"
        )
    return False


def _open_old(path: Path, model: Model) -> FeatureFile | None:
    """Return the gallery that is to be changed; None if there is none yet.

    Raises: UserError if it is damaged, of another model, or lacks its fingerprint or its paths.
    """
    if not is_file(path):
        return None
    found = open_features(path)
    if found.paths is None or found.fingerprint is None:
        lacks = "paths" if found.paths is None else "the fingerprint of their model"
        raise UserError(f"'{path}' has features without {lacks}: embed all images again")
    if (found.fingerprint, found.features.shape[1]) != (model.fingerprint, model.dim):
        raise UserError(
            f"'{path}' was embedded by another model ({found.fingerprint[:8]}, this one is"
            f" {model.fingerprint[:8]}): embed all images again, or give that model"
        )
    return found


def _embed(
    model: Model,
    images: DescribedImages,
    old: FeatureFile | None,
    plan: Plan,
    output: Path,
    source: str,
    skip_unreadable: bool,
) -> None:
    """Embed the fresh images of a plan, and write the file.

    Raises: UserError if an image cannot be read.
    """
    chosen = plan.listed[plan.is_fresh].tolist()
    if skip_unreadable and chosen:
        keep = readable(images.take(chosen), model, allow_none=old is not None)
        lost = sorted(set(chosen) - {chosen[i] for i in keep})
        plan = plan.without(lost)
        chosen = plan.listed[plan.is_fresh].tolist()
    if old is not None and plan.is_nothing():
        known = living_gallery.merge_columns(old, plan, images)
        if living_gallery.merge_paths(old, plan, images) == old.paths and same(known, old.columns):
            print(printable(f"nothing to write: {output}, {plan.counts()}"))
            return
    fresh = images.take(chosen)
    line = f"{model}: {len(fresh)} images of '{source}' go to '{output}'"
    print(printable(line), file=sys.stderr)
    start = time.perf_counter()
    with progress_bar(len(fresh), description="embed", delay=BAR_DELAY) as bar:

        def parts() -> Iterator[np.ndarray]:
            for part in model.embed_parts(fresh) if len(fresh) else ():
                yield part
                bar.update(len(part))

        def columns() -> dict[str, np.ndarray]:
            images.digests[chosen] = fresh.digests
            return living_gallery.merge_columns(old, plan, images)

        write_features(
            output,
            living_gallery.merge_features(old and old.features, plan, parts(), model.dim),
            shape=(len(plan.old), model.dim),
            paths=(paths := living_gallery.merge_paths(old, plan, images)),
            fingerprint=model.fingerprint,
            columns=columns,
        )
    seconds = time.perf_counter() - start
    twins = living_gallery.describe_twins(paths, columns())
    if twins:
        print(twins, file=sys.stderr)
    rate = f"{len(fresh) / seconds:.1f} images/s"
    counts = "" if old is None else f", {plan.counts()}"
    print(printable(f"written: {output}, features [{len(paths)}, {model.dim}]{counts}, {rate}"))


def same(columns: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    """Return whether columns have the same names and values."""
    return columns.keys() == others.keys() and all(
        values.dtype == others[name].dtype
        and np.array_equal(values, others[name], equal_nan=values.dtype.kind == "f")
        for name, values in columns.items()
    )


def _remove(path: Path, removed: str) -> None:
    """Remove images from a file of features.

    Raises: UserError if the file cannot be read, or has no such image.
    """
    old = open_features(path)
    if old.paths is None:
        raise UserError(f"'{path}' has features without paths: --remove has nothing to compare")
    plan = living_gallery.plan_remove(old, removed)
    shape = len(plan.old), old.features.shape[1]
    write_features(
        path,
        living_gallery.merge_features(old.features, plan, iter(()), shape[1]),
        shape=shape,
        paths=living_gallery.merge_paths(old, plan, None),
        fingerprint=old.fingerprint,
        columns=living_gallery.merge_columns(old, plan, None),
    )
    print(printable(f"written: {path}, features [{shape[0]}, {shape[1]}], {plan.counts()}"))


def readable(images: ImageFiles, model: Model, *, allow_none: bool = False) -> list[int]:
    """Return which images can be read, and name the others on stderr.

    Args:
      images: n files.
      model: decodes them.
      allow_none: return nothing if no image can be read.

    Raises: UserError if no image can be read, unless `allow_none`.
    """
    kept = []
    workers = max(model.config.data.workers, os.cpu_count() or 1)
    options = {"image_size": model.image_size, "cache_gb": 0.0, "alpha": model.alpha}
    with (
        ImageStore(images, workers=workers, **options) as store,
        progress_bar(len(images), description="look", delay=BAR_DELAY) as bar,
    ):
        for i, error in enumerate(store.errors()):
            if error is None:
                kept.append(i)
            else:
                print(f"left out: {error}", file=sys.stderr)
            bar.update()
    if not kept and not allow_none:
        raise UserError(f"none of the {len(images)} images can be read: give others")
    return kept
