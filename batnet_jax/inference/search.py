"""TODO."""

import functools
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.data.loading.images import list_files
from batnet_jax.errors import UserError
from batnet_jax.inference import feature_file, model
from batnet_jax.inference.feature_file import Gallery
from batnet_jax.retrieval import top_k


class Searcher:
    """A model, read when it is first needed, and a gallery that fits it.

    Attributes:
      gallery: features [n, d] and paths.
      place: where the gallery comes from.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, workdir: Path, place: Path, *, batch: int = 0
    ):
        """Opens the gallery, or embeds it.

        Args:
          config: as `embedding.restore` takes it.
          workdir: a workdir or a checkpoint.
          place: an .npz that embed wrote, an .npy of features, or images (see `list_files`).
          batch: images a step; 0 = the config's.

        Raises: UserError if there is no such thing, or no model where one is needed.
        """
        self._restore = functools.partial(
            model.restore, config, workdir, step=config.eval.step, batch=batch
        )
        self.place = place
        if feature_file.is_named(place):
            self.gallery = feature_file.open_features(place)
        else:
            paths = list_files(place)
            self.gallery = Gallery(self.model.embed(paths), paths)

    @functools.cached_property
    def model(self) -> model.Model:
        """The model."""
        return self._restore()

    def search(self, images: Any, top: int) -> tuple[np.ndarray, np.ndarray]:
        """The gallery's images that are most like each query, best first.

        Args:
          images: q queries; see `Model.embed`.
          top: k; all n where there are fewer.

        Returns: indices [q, k] int32 and cosines [q, k] float32; see `retrieval.top_k`.

        Raises: UserError if the gallery's features are of another length than the model's, or
          something is no image.
        """
        dim = self.gallery.features.shape[1]
        if dim != self.model.dim:
            raise UserError(
                f"'{self.place}' holds features of {dim} dimensions, and the model's have"
                f" {self.model.dim}: embed the gallery with this model"
            )
        return top_k(self.model.embed(images), self.gallery.features, top)

    def name(self, i: int) -> str:
        """The path of gallery image i, or its row where the file has no paths."""
        return self.gallery.paths[i] if self.gallery.paths else f"row {i}"
