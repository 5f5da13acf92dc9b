"""A trained model that embeds images, loaded from its checkpoint alone.

An evaluation computes the same features: both use the same decoding and the same step.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.data.files.safe_open import check_local
from batnet_jax.data.loading.loader import ImageStore, prefetch, resize_into
from batnet_jax.data.loading.user_arrays import CHANNELS, ArrayStore, cut_boxes, paths_or_arrays
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import make_embed
from batnet_jax.inference.feature_file import check_fingerprint, read_fingerprint
from batnet_jax.inference.fingerprint import fingerprint
from batnet_jax.inference.restore import restore_train_state
from batnet_jax.models import feature_sizes
from batnet_jax.runtime import devices
from batnet_jax.runtime.compilation_cache import use_compilation_cache
from batnet_jax.runtime.paths import exists, is_file
from batnet_jax.runtime.progress import progress_bar
from batnet_jax.runtime.read_files import read_json
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.validation import check_trusted, from_saved, validate
from batnet_jax.weights.given import given_config, load_given
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.gcs import is_bucket
from batnet_jax.workdir.run_folder import CONFIG
from batnet_jax.workdir.same_run import check_image_size

WEIGHTS_SUFFIXES = (".pth", ".pt", ".pth.tar", ".safetensors")
MAX_BOXES = 32
"""The most boxes that `prepare_boxes` prepares for in one step."""
BAR_DELAY = 2.0
"""Seconds until a progress bar is shown."""


class Model:
    """A trained network that embeds images; `load` returns one.

    Attributes:
      config: all settings of the run that trained the network.
      step: training steps taken.
      image_size: (height, width) that images are resized to, in pixels.
      alpha: what becomes of transparency, see `config.data.alpha`.
      dim: d, the length of a feature.
      batch: images per step, over all devices of this process.
      fingerprint: see `inference.fingerprint`; features of models with other fingerprints cannot be
        compared with this model's.
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
        """Put the variables on the devices; the first `embed` compiles."""
        self.config = config
        self.step = step
        self.image_size: tuple[int, int] = tuple(config.data.image_size)
        self.alpha: str = config.data.alpha
        self.dim: int = sum(feature_sizes(variables["params"]).values())
        self.batch = devices.round_up(batch)
        self.fingerprint = fingerprint(config, variables)
        self._embed = make_embed(network, variables)
        self._box_batches: tuple[int, ...] = ()

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Model(step={self.step}, image_size={height}x{width}, dim={self.dim})"

    def embed(
        self, images: Any, *, channels: str = "rgb", boxes: Any = None, progress: bool = True
    ) -> np.ndarray:
        """Return the features of images, in the order of the images.

        Args:
          images: paths, in a list or an array; a folder (all images below it, sorted by name), an
            image file, or a text file with one path per line; or arrays: [n, h, w, 3] uint8, a list
            of [h, w], [h, w, 3] or [h, w, 4] of any sizes, tensors of the same shapes, or Pillow
            images. Grey images become RGB, transparency is treated as `config.data.alpha` says,
            16-bit images keep their upper 8 bits, and files and Pillow images are turned upright.
          channels: the order of the colours of arrays, "rgb", or "bgr" as OpenCV has it.
          boxes: [n, 4] numbers x0, y0, x1, y1 in pixels: embed these parts of the only image, a
            frame, instead of the image. They are rounded, and cut at the edges of the frame. See
            `prepare_boxes` for a stream of frames.
          progress: show a bar on stderr after `BAR_DELAY` seconds.

        Returns: [n, d] float32: f_a and, if the network has parts, f_p side by side, each of unit
          length. The inner product of two features is 2 times their cosine (1 time without parts).

        Raises: UserError naming the file, array or box that is not an image.
        """
        paths, arrays = self._find_images(images, channels, boxes)
        total = len(arrays) if paths is None else len(paths)
        if boxes is not None and self._box_batches:
            return self._embed_crops(arrays)
        order = "rgb" if boxes is not None else channels
        with contextlib.ExitStack() as stack:
            bar = None
            if progress:
                bar = stack.enter_context(progress_bar(total, description="embed", delay=BAR_DELAY))
            features = np.empty((total, self.dim), np.float32)
            done = 0
            for batch in self._embed_found(paths, arrays, order):
                features[done : done + len(batch)] = batch
                done += len(batch)
                if bar is not None:
                    bar.update(len(batch))
        return features

    def prepare_boxes(self, most: int = MAX_BOXES) -> None:
        """Compile for boxes of a stream of frames, so that no later frame waits for a compilation.

        Steps of 1, 2, 4, ... up to `most` boxes are compiled. From then on `embed` with boxes takes
        the smallest step that holds them, and several steps for more than `most`. The features
        differ from those of a larger batch by rounding.

        Args:
          most: boxes of the largest step, 1 to `MAX_BOXES`.

        Raises: UserError if `most` is out of range.
        """
        if not 1 <= most <= MAX_BOXES:
            raise UserError(f"most={most} must be 1 to {MAX_BOXES}: more boxes take several steps")
        sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
        self._box_batches = tuple(sorted({devices.round_up(size) for size in sizes}))
        for size in self._box_batches:
            self._embed(np.zeros((size, *self.image_size, 3), np.uint8))

    def _embed_crops(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Return the features of crops in memory, by the steps of `prepare_boxes`."""
        features = np.empty((len(crops), self.dim), np.float32)
        largest = self._box_batches[-1]
        for start in range(0, len(crops), largest):
            part = crops[start : start + largest]
            size = next(size for size in self._box_batches if size >= len(part))
            images = np.zeros((size, *self.image_size, 3), np.uint8)
            for crop, image in zip(part, images, strict=False):
                resize_into(crop, image)
            features[start : start + len(part)] = self._embed(images)[: len(part)]
        return features

    def check_gallery(self, path: str | os.PathLike) -> None:
        """Check that a file that `embed` or `search` wrote holds features of this model.

        A file without a fingerprint gives a warning on stderr.

        Args:
          path: an .npz of features, or an index for faiss.

        Raises: UserError if the features are of another model, or the file cannot be read.
        """
        check_fingerprint(Path(path), read_fingerprint(Path(path)), self.fingerprint)

    def embed_parts(self, images: Any, *, channels: str = "rgb") -> Iterator[np.ndarray]:
        """Yield the features that `embed` returns, at most `batch` rows at a time.

        The last batch is padded, so that all steps have one shape and one compilation serves all.

        Raises: see `embed`.
        """
        return self._embed_found(*self._find_images(images, channels, None), channels)

    def _find_images(
        self, images: Any, channels: str, boxes: Any
    ) -> tuple[Sequence[str] | None, Sequence[Any]]:
        """Return the paths, or None and the arrays, that the arguments of `embed` name.

        Raises: UserError if the arguments do not fit each other.
        """
        if channels not in CHANNELS:
            raise UserError(f"channels={channels!r} is not one of {', '.join(CHANNELS)}")
        if boxes is not None:
            return None, cut_boxes(images, boxes, channels=channels, alpha=self.alpha)
        paths, arrays = paths_or_arrays(images)
        if paths is not None and channels != "rgb":
            raise UserError(f"channels={channels!r} is for arrays: image files know their colours")
        return paths, arrays

    def _embed_found(
        self, paths: Sequence[str] | None, arrays: Sequence[Any], channels: str
    ) -> Iterator[np.ndarray]:
        """Yield the features of files or, if `paths` is None, of arrays."""
        workers = max(self.config.data.workers, os.cpu_count() or 1)
        if paths is None:
            store: Any = ArrayStore(arrays, self.image_size, channels=channels, alpha=self.alpha)
        else:
            store = ImageStore(
                ImageFiles(paths),
                image_size=self.image_size,
                cache_gb=0.0,
                workers=workers,
                alpha=self.alpha,
            )
        total = len(store)
        plan = (
            np.minimum(np.arange(start, start + self.batch), total - 1)
            for start in range(0, total, self.batch)
        )
        with contextlib.closing(store), prefetch(store, plan) as batches:
            for start, (_, batch) in zip(range(0, total, self.batch), batches, strict=True):
                yield self._embed(batch)[: total - start]


def load(
    path: str | os.PathLike,
    *,
    step: int = 0,
    batch: int = 0,
    image_size: tuple[int, int] | None = None,
    trust: str | Collection[str] = (),
) -> Model:
    """Load a trained model from a workdir, a checkpoint, or a file of weights.

    Args:
      path: a workdir, of a run or made by `--mode=import`; `<workdir>/checkpoints/<step>`; a copy
        of such a folder; or a .pth, .pth.tar or .safetensors file, see docs/weights.md. A file is
        known by the names of its tensors, and a warning on stderr says what it does not tell.
      step: the checkpoint of a workdir; 0 = the latest.
      batch: images per step, over all devices; 0 = `config.eval.batch`, which gives the features
        of an evaluation to the last bit. A smaller batch embeds a single image sooner.
      image_size: (height, width) for a file of weights, which does not tell it; None = what its
        authors use. A checkpoint has its own.
      trust: packages of your own that may be imported, as in "mypkg", if the checkpoint's network
        has parts of them, see docs/extend.md. A checkpoint alone imports nothing.

    Compiled programs are kept in the user's cache, see `runtime.compilation_cache`.

    Raises: UserError if the checkpoint or the file is missing, damaged or unknown, or names code
      that is not trusted.
    """
    # As main does; without effect if JAX has already computed something.
    choose_cpu_libraries()
    use_compilation_cache()
    check_local(path)
    path = Path(path)
    config = read_config(path, step)
    check_trusted(config, path, trust, sections=("model",))
    if image_size is not None:
        config.data.image_size = tuple(image_size)
        validate(config)
    return load_with_config(config, path, step=step, batch=batch)


def load_with_config(
    config: ml_collections.ConfigDict, path: Path, *, step: int = 0, batch: int = 0
) -> Model:
    """Load a trained model as `load` does, with settings that must describe its network.

    Raises: UserError if the config describes another network or another image size.
    """
    batch = batch or config.eval.batch
    if is_file(path):
        _refuse_step(path, step)
        network, variables = load_given(config, path)
        return Model(network, variables, config=config, step=0, batch=batch)
    workdir, step = choose_checkpoint(path, step)
    saved = checkpoints.restore_metadata(workdir, step).get("config")
    if saved:
        check_image_size(config, tuple(from_saved(saved).data.image_size), path)
    network, state = restore_train_state(config, workdir, step)
    return Model(network, state.tested(), config=config, step=int(state.step), batch=batch)


def read_config(path: Path, step: int = 0) -> ml_collections.ConfigDict:
    """Read the settings of a run from its checkpoint, or an old run's from its config.json.

    A file of weights has the settings of `weights.given.given_config`.

    Raises: UserError if the checkpoint is missing, lacks settings, or has a later version's.
    """
    if is_file(path):
        _refuse_step(path, step)
        return given_config(path)
    if path.name.endswith(WEIGHTS_SUFFIXES) and not is_bucket(path) and not exists(path):
        raise UserError(f"'{path}' does not exist: name a file of weights, or a workdir")
    workdir, step = choose_checkpoint(path, step)
    run = checkpoints.restore_metadata(workdir, step)
    saved = run.get("config")
    if saved is None:
        try:
            saved = read_json(workdir / CONFIG)
        except (OSError, ValueError) as error:
            raise UserError(
                f"'{path}' does not hold its settings, and '{workdir / CONFIG}' cannot be read:"
                " give the workdir"
            ) from error
    config = from_saved(saved)
    unknown = sorted(run["model"].keys() - config.model.keys())
    if unknown:
        raise UserError(
            f"'{path}' has model.{unknown[0]}, which this version does not know: install a later"
            " version"
        )
    config.eval.step = 0
    validate(config)
    return config


def _refuse_step(path: Path, step: int) -> None:
    """Refuse a step of a file of weights, which has no steps.

    Raises: UserError for any but 0.
    """
    if step != 0:
        raise UserError(f"'{path}' is a file of weights, which has no step {step}: leave step out")


def choose_checkpoint(path: Path, step: int) -> tuple[Path, int]:
    """Return the workdir and the step of the checkpoint that `load` reads.

    Raises: UserError if no such checkpoint exists.
    """
    workdir, own_step = checkpoints.locate(path)
    if own_step is not None and step not in (0, own_step):
        raise UserError(f"'{path}' is a checkpoint by itself, not step {step}: leave step out")
    return workdir, checkpoints.choose_step(workdir, step) if own_step is None else own_step
