"""A trained model from its checkpoint alone, and images to features: `load`, and the mode `embed`.

The features are those that evaluation compares: the same decoding, the same step.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.data.loading.images import ArrayStore, ImageFiles, as_list
from batnet_jax.data.loading.loader import ImageStore, prefetch
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import make_embed
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import feature_sizes
from batnet_jax.runtime import devices
from batnet_jax.runtime.progress import progress_bar
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.validation import from_saved, validate
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.run_folder import CONFIG

PATIENCE = 2.0
"""Seconds before a bar is shown."""


class Model:
    """A trained network that embeds images; get one from `load`.

    Attributes:
      config: all settings of its run.
      step: steps that it was trained for.
      image_size: (height, width) that images are resized to, in pixels.
      dim: d, the length of a feature.
      batch: images a step, over all devices of this process.
    """

    def __init__(
        self,
        network: Any,
        variables: dict[str, Any],
        *,
        config: ml_collections.ConfigDict,
        step: int,
        batch: int,
    ):
        """Puts the variables on the devices; compiles nothing yet."""
        self.config = config
        self.step = step
        self.image_size: tuple[int, int] = tuple(config.data.image_size)
        self.dim: int = sum(feature_sizes(variables["params"]).values())
        self.batch = devices.round_up(batch)
        self._embed = make_embed(network, variables)

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Model(step={self.step}, image_size={height}x{width}, dim={self.dim})"

    def embed(self, images: Any, *, progress: bool = True) -> np.ndarray:
        """Features of images, in their order.

        Args:
          images: paths, in a list or an array; a folder (all images below it, sorted by name), an
            image file, or a text file with a path a line; or arrays: [n, h, w, 3] uint8, or a list
            of [h, w], [h, w, 3] or [h, w, 4] of any sizes, or Pillow's images. Grey is repeated,
            transparency dropped, of 16 bits the upper 8 are taken, and files are turned upright.
          progress: show a bar on stderr if it takes longer than `PATIENCE`.

        Returns: [n, d] float32: f_a and, where there are parts, f_p, each of unit length, side by
          side. The inner product of two is 2 (or 1) times their cosine.

        Raises: UserError if something is no image, naming it.
        """
        paths, arrays = as_list(images)
        total = len(arrays) if paths is None else len(paths)
        with contextlib.ExitStack() as stack:
            bar = None
            if progress:
                bar = stack.enter_context(progress_bar(total, description="embed", delay=PATIENCE))
            source = arrays if paths is None else paths
            features = np.empty((total, self.dim), np.float32)
            done = 0
            for part in self.embed_parts(source):
                features[done : done + len(part)] = part
                done += len(part)
                if bar is not None:
                    bar.update(len(part))
        return features

    def embed_parts(self, images: Any) -> Iterator[np.ndarray]:
        """What `embed` returns, in parts of at most `batch` rows: of memory it takes a few batches.

        Every step has the same shape, so there is one compilation: the last batch is filled up.

        Raises: see `embed`.
        """
        paths, arrays = as_list(images)
        workers = max(self.config.data.workers, os.cpu_count() or 1)
        if paths is None:
            store: Any = ArrayStore(arrays, self.image_size)
        else:
            store = ImageStore(
                ImageFiles(paths), image_size=self.image_size, cache_gb=0.0, workers=workers
            )
        total = len(store)
        plan = (
            np.minimum(np.arange(start, start + self.batch), total - 1)
            for start in range(0, total, self.batch)
        )
        with contextlib.closing(store), prefetch(store, plan) as batches:
            for start, (_, batch) in zip(range(0, total, self.batch), batches, strict=True):
                yield self._embed(batch)[: total - start]


def load(path: str | os.PathLike, *, step: int = 0, batch: int = 0) -> Model:
    """A trained model: a workdir, a checkpoint's folder, or what `--mode=import` made.

    Args:
      path: a run's workdir; `<workdir>/checkpoints/<step>`; or a copy of such a folder.
      step: of the checkpoint in a workdir; 0 = the latest.
      batch: images a step, over all devices; 0 = `config.eval.batch`, with which features are
        those of evaluation to the last bit. A smaller one answers a single image sooner.

    Raises: UserError if there is no checkpoint, or it is damaged.
    """
    choose_cpu_libraries()  # as main does; in vain where JAX has computed before
    path = Path(path)
    return restore(read_config(path, step), path, step=step, batch=batch)


def choose(path: Path, step: int) -> tuple[Path, int]:
    """The workdir and step of the checkpoint that `load` takes.

    Raises: UserError if there is none.
    """
    workdir, own = checkpoints.locate(path)
    if own is not None and step not in (0, own):
        raise UserError(f"'{path}' is a checkpoint by itself, not step {step}: leave step out")
    return workdir, checkpoints.choose_step(workdir, step) if own is None else own


def read_config(path: Path, step: int = 0) -> ml_collections.ConfigDict:
    """The settings of a run, from its checkpoint; of older ones, from the workdir's config.json.

    Raises: UserError if there is no checkpoint, it does not say, or it is of a later version.
    """
    workdir, step = choose(path, step)
    run = checkpoints.restore_run(workdir, step)
    saved = run.get("config")
    if saved is None:
        try:
            saved = json.loads((workdir / CONFIG).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"'{path}' does not hold its settings, nor can '{workdir / CONFIG}' be read: give"
                " the workdir"
            ) from error
    config = from_saved(saved)
    unknown = sorted(run["model"].keys() - config.model.keys())
    if unknown:
        raise UserError(
            f"'{path}' has model.{unknown[0]}, which this version does not know: install a later"
        )
    config.eval.step = 0
    validate(config)
    return config


def restore(
    config: ml_collections.ConfigDict, path: Path, *, step: int = 0, batch: int = 0
) -> Model:
    """As `load`, with settings that must describe the checkpoint's network.

    Raises: UserError if they do not, or describe other image sizes.
    """
    workdir, step = choose(path, step)
    own = checkpoints.restore_run(workdir, step).get("config")
    size = tuple(config.data.image_size)
    trained = tuple(from_saved(own).data.image_size) if own else size
    if trained != size:
        raise UserError(
            f"'{path}' was trained on images of {trained} and the config says {size}: pass"
            f" '--config.data.image_size={trained}', or leave --config out"
        )
    network, state = restore_network(config, workdir, step)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return Model(
        network, variables, config=config, step=int(state.step), batch=batch or config.eval.batch
    )
