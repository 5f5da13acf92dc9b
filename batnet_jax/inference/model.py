"""A trained model that embeds images, see `loading.load`.

An evaluation computes the same features: both use the same decoding and the same step.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.data.loading.loader import ImageStore, prefetch
from batnet_jax.data.loading.user_arrays import CHANNELS, ArrayStore, cut_boxes, paths_or_arrays
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError
from batnet_jax.evaluation.attention import mean_masks
from batnet_jax.evaluation.embed import make_embed
from batnet_jax.inference.box_steps import MAX_BOXES, BoxSteps
from batnet_jax.inference.evaluate_model import evaluate_model
from batnet_jax.inference.feature_file import check_fingerprint, read_fingerprint
from batnet_jax.inference.fingerprint import fingerprint
from batnet_jax.inference.gallery import choose_rows, open_gallery, search_lists
from batnet_jax.inference.hit_columns import take_columns
from batnet_jax.inference.hits import RankedHits
from batnet_jax.inference.own_files import find_own_files
from batnet_jax.inference.save_index import embed_bar, names_of, save_index
from batnet_jax.models import feature_sizes
from batnet_jax.retrieval.scores import unit_length
from batnet_jax.runtime import devices


class Model:
    """A trained network that embeds images; `loading.load` returns one.

    Attributes:
      config: all settings of the run that trained the network.
      step: training steps taken.
      image_size: (height, width) that images are resized to, in pixels.
      alpha: the treatment of transparent pixels, see `config.data.alpha`.
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
        apart: bool = False,
    ):
        """Put the variables on the devices; the first `embed` compiles.

        Args:
          network: the module.
          variables: `params` and `batch_stats`.
          config: the settings.
          step: training steps taken.
          batch: images per step.
          apart: each of several processes embeds its own images, independently of the others.
        """
        self.config = config
        self.step = step
        self.image_size: tuple[int, int] = tuple(config.data.image_size)
        self.alpha: str = config.data.alpha
        self.dim: int = sum(feature_sizes(variables["params"]).values())
        self.batch = devices.round_up_own(batch) if apart else devices.round_up(batch)
        self.fingerprint = fingerprint(config, variables)
        self._network, self._variables = network, variables
        self._embed = make_embed(network, variables, apart=apart)
        self._box_steps: BoxSteps | None = None

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Model(step={self.step}, image_size={height}x{width}, dim={self.dim})"

    def embed(
        self,
        images: Any,
        *,
        channels: str = "rgb",
        boxes: Any = None,
        normalize: bool = False,
        progress: bool = True,
    ) -> np.ndarray:
        """Return the features of images, in the order of the images.

        Args:
          images: a folder (all images below it, sorted by name), an image file, a text file with
            one path per line, or a pattern such as "photos/**/*.jpg"; an array [n, h, w, 3] uint8;
            or a list, mixed as you like, of paths, patterns, bytes of image files, Pillow images,
            and arrays or tensors [h, w], [h, w, 3] or [h, w, 4] of any sizes. Grey images become
            RGB, transparency is treated as `config.data.alpha` says, 16-bit images keep their upper
            8 bits, and files and Pillow images are turned upright.
          channels: the order of the colours of arrays, "rgb", or "bgr" as OpenCV has it.
          boxes: [n, 4] numbers x0, y0, x1, y1 in pixels: embed these parts of the only image, a
            frame, instead of the image. They are rounded, and cut at the edges of the frame. See
            `prepare_boxes` for a stream of frames.
          normalize: scale each feature to unit length, so that inner products are cosines. Without
            it f_a and f_p have unit length each, and the whole feature has length root 2, as in
            an evaluation and in the files of `embed`.
          progress: show a bar on stderr after `BAR_DELAY` seconds.

        Returns: [n, d] float32: f_a and, if the network has parts, f_p side by side.

        Raises: UserError naming the file, array or box that is not an image.
        """
        paths, found = self.find_images(images, channels, boxes)
        order = "rgb" if boxes is not None else channels
        if boxes is not None and self._box_steps is not None:
            features = self._box_steps.embed(found)
        else:
            features = self.embed_found(paths, found, order, progress=progress)
        return unit_length(features) if normalize else features

    def __call__(self, images: Any, **options: Any) -> np.ndarray:
        """Embed images; see `embed`."""
        return self.embed(images, **options)

    def search(
        self,
        images: Any,
        gallery: Any,
        top: int = 10,
        *,
        channels: str = "rgb",
        boxes: Any = None,
        keep_own: bool = False,
        where: str | None = None,
    ) -> RankedHits:
        """Return the gallery images most similar to each query, best first.

        Args:
          images: q queries, see `embed`.
          gallery: a file that `save_index` or the command `embed` wrote, an .npy of features, an
            index for faiss, or a list of such files; features [n, d]; or images, see `embed`. A
            file is read at each call; its features stay on the disk if they take more than 256 MB.
          top: length of a list.
          channels: see `embed`.
          boxes: see `embed`; of the query.
          keep_own: list a gallery image that is the query's own file, too.
          where: search only the gallery images that pass this filter of their columns, as in
            `camera = 3 and time > 2024-01-01`; see `inference.where`.

        Returns: q lists of hits, see `RankedHits`.

        Raises: UserError if the gallery is of another model, something is not an image, or the
          filter cannot be read or names a column that the gallery does not have.
        """
        opened, places = open_gallery(self, gallery, channels)
        rows = choose_rows(opened, where)
        paths, found = self.find_images(images, channels, boxes)
        features = self.embed_found(paths, found, "rgb" if boxes is not None else channels)
        own = None if keep_own or paths is None else find_own_files(paths, opened.paths)
        lists = search_lists(features, opened.features, top, own, rows)
        names = names_of(paths, len(found))
        indices, scores = [i for i, _ in lists], [s for _, s in lists]
        columns = take_columns(opened, np.concatenate(indices)) if indices else {}
        return RankedHits(names, indices, scores, opened.paths, places, columns)

    def masks(self, images: Any, *, channels: str = "rgb") -> dict[str, np.ndarray]:
        """Return where the Bi-attention looks: its masks, as means over the channels.

        Args:
          images: n images, see `embed`.
          channels: see `embed`.

        Returns: by position, such as `p2`, [n, h, w] float32 in [1/2, 1), where 1/2 emphasises
          nothing. `report.attention_maps.overlay` lays one over an image. Empty if the network has
          no attention.
        """
        paths, found = self.find_images(images, channels)
        return mean_masks(self._network, self._variables, self._load(paths, found, channels))

    def save_index(
        self,
        images: Any,
        path: str | os.PathLike,
        *,
        channels: str = "rgb",
        kind: str = "auto",
        progress: bool = True,
    ) -> Path:
        """Write the features of images to a file for `search`, or for other programs.

        Args:
          images: see `embed`; or a table of images, as a .csv, which the command `embed` reads.
          path: an .npz, as the command `embed` writes it: `features` [n, d], `paths` [n] (for
            images without a path `image 3`) and, if all images are files, columns; written
            incrementally. `batnet embed --update` can update it. A .parquet with the same
            columns; or an .index for faiss, of vectors of unit length, with the paths behind it.
          channels: see `embed`.
          kind: of an .index: "flat", "hnsw" or "ivfpq"; "auto" = flat below 100,000 images, HNSW
            below 3,000,000.
          progress: see `embed`.

        Returns: the path.

        Raises: UserError for another suffix, or if faiss is missing; OSError if the file cannot be
          written.
        """
        save_index(self, images, Path(path), channels=channels, kind=kind, progress=progress)
        return Path(path)

    def evaluate(self, data: str | os.PathLike = "", *, trust: str | Collection[str] = ()) -> dict:
        """Return the figures of the model on a test; write nothing.

        Args:
          data: a folder of people, an archive or a table, see docs/own_data.md; the name of a data
            set, as `market1501` or `msmt17:v2`; "" for the test of the model's own run.
          trust: your own packages that may be imported, if the run's data set comes from them.

        Returns: `mAP`, `mINP`, `cmc` by rank, `num_query` and more: what an evaluation writes to
          `eval/step_<N>.json`. Figures are fractions.

        Raises: UserError if the data are missing, or no query can have a match.
        """
        return evaluate_model(self.config, self._embed, self.step, data, trust)

    def prepare_boxes(self, most: int = MAX_BOXES) -> None:
        """Compile for boxes of a stream of frames, so that no later frame waits for a compilation.

        Steps of 1, 2, 4, ... up to `most` boxes are compiled. From then on `embed` with boxes takes
        the smallest step that holds them, and several steps for more than `most`. The features
        differ from those of a larger batch by rounding.

        Args:
          most: boxes of the largest step, 1 to `MAX_BOXES`.

        Raises: UserError if `most` is out of range.
        """
        self._box_steps = BoxSteps(self._embed, self.image_size, most)

    def check_gallery(self, path: str | os.PathLike) -> None:
        """Check that a file that `embed` or `search` wrote holds features of this model.

        A file without a fingerprint gives a warning on stderr.

        Args:
          path: an .npz or a .parquet of features, a folder of shards, or an index for faiss.

        Raises: UserError if the features are of another model, or the file cannot be read.
        """
        check_fingerprint(Path(path), read_fingerprint(Path(path)), self.fingerprint)

    def embed_parts(self, images: Any, *, channels: str = "rgb") -> Iterator[np.ndarray]:
        """Yield the features that `embed` returns, at most `batch` rows at a time.

        The last batch is padded, so that all steps have one shape and one compilation serves all.

        Raises: see `embed`.
        """
        return self.embed_batches(*self.find_images(images, channels), channels)

    def find_images(
        self, images: Any, channels: str = "rgb", boxes: Any = None
    ) -> tuple[Sequence[str] | None, Sequence[Any]]:
        """Return the paths, or None and the images, that the arguments of `embed` name.

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

    def embed_found(
        self,
        paths: Sequence[str] | None,
        images: Sequence[Any],
        channels: str = "rgb",
        *,
        progress: bool = True,
    ) -> np.ndarray:
        """Return the features [n, d] of what `find_images` has found."""
        total = len(images) if paths is None else len(paths)
        features, done = np.empty((total, self.dim), np.float32), 0
        with embed_bar(total, progress) as bar:
            for batch in self.embed_batches(paths, images, channels):
                features[done : done + len(batch)] = batch
                done += len(batch)
                bar.update(len(batch))
        return features

    def embed_batches(
        self, paths: Sequence[str] | None, images: Sequence[Any], channels: str
    ) -> Iterator[np.ndarray]:
        """Yield the features of what `find_images` has found, a batch at a time."""
        for batch, count in self._load(paths, images, channels):
            yield self._embed(batch)[:count]

    def _load(
        self, paths: Sequence[str] | None, images: Sequence[Any], channels: str
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Yield batches of images [batch, h, w, 3] bytes, each with its number of images."""
        workers = max(self.config.data.workers, os.cpu_count() or 1)
        if paths is None:
            store: Any = ArrayStore(images, self.image_size, channels=channels, alpha=self.alpha)
        else:
            store = ImageStore(
                paths if isinstance(paths, ImageFiles) else ImageFiles(paths),
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
                yield batch, min(self.batch, total - start)
