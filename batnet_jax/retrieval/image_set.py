"""Sets of images as retrieval compares them: features, identities and cameras.

A user's arrays are checked once, by `check_images` and `check_labels`. Code that receives an
`ImageSet` or `Labels` trusts them.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int64

from batnet_jax.errors import UserError
from batnet_jax.retrieval import checks
from batnet_jax.retrieval.label_pairs import JUNK_PID, number_cameras, number_pids
from batnet_jax.retrieval.mapped_rows import read_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The identities and cameras of n images."""

    pids: Int64[np.ndarray, " n"]
    cameras: Int64[np.ndarray, " n"] | None  # None: not known

    def __len__(self) -> int:
        return len(self.pids)

    def take(self, rows: np.ndarray) -> "Labels":
        """Return the labels of some images."""
        return Labels(self.pids[rows], None if self.cameras is None else self.cameras[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """The features, identities and cameras of the n images of a query or gallery set."""

    features: np.ndarray  # [n, d] real numbers; may be a mapped file
    pids: Int64[np.ndarray, " n"]
    cameras: Int64[np.ndarray, " n"] | None  # None: not known

    def __len__(self) -> int:
        return len(self.pids)

    @property
    def labels(self) -> Labels:
        """The identities and cameras."""
        return Labels(self.pids, self.cameras)

    def take(self, rows: np.ndarray) -> "ImageSet":
        """Return some images; their features are copied, as float32."""
        labels = self.labels.take(rows)
        return ImageSet(read_rows(self.features, rows), labels.pids, labels.cameras)

    def replace_features(self, features: np.ndarray) -> "ImageSet":
        """Return the same images with other features."""
        return dataclasses.replace(self, features=features)

    def mark_junk(self, junk: np.ndarray) -> "ImageSet":
        """Return the same images, with the identity `JUNK_PID` where `junk`, [n] bool, is True."""
        return dataclasses.replace(self, pids=np.where(junk, JUNK_PID, self.pids))

    @property
    def not_junk(self) -> Int64[np.ndarray, " m"]:
        """The indices of the images whose identity is not `JUNK_PID`."""
        return np.flatnonzero(self.pids != JUNK_PID)

    def drop_junk(self) -> "ImageSet":
        """Return the images whose identity is not `JUNK_PID`; their features are copied."""
        return self.take(self.not_junk)


def check_images(
    which: str, features: Any, pids: Any, cameras: Any, metric: str = "cosine"
) -> ImageSet:
    """Check a user's arrays of one set and return them as an `ImageSet`.

    Args:
      which: "query" or "gallery": messages name the arrays after it.
      features: [n, d] finite floats, not necessarily normalised.
      pids: [n] int.
      cameras: [n] int, or None if unknown.
      metric: "cosine" or "euclidean". The latter limits the features' lengths.

    Raises: UserError if an array is not as described.
    """
    checks.choice("metric", metric, checks.METRICS)
    array = checks.features(f"{which}_features", features, metric)
    labels = check_labels(which, pids, cameras, len(array))
    return ImageSet(array, labels.pids, labels.cameras)


def check_streamed_images(
    which: str, features: Any, pids: Any, cameras: Any, metric: str = "cosine"
) -> ImageSet:
    """Check a set as `check_images` does, but leave the features' values to the caller.

    The caller checks the values in chunks. Values whose type does not permit this are checked here.
    """
    checks.choice("metric", metric, checks.METRICS)
    array = checks.streamed_features(f"{which}_features", features, metric)
    labels = check_labels(which, pids, cameras, len(array))
    return ImageSet(array, labels.pids, labels.cameras)


def check_labels(which: str, pids: Any, cameras: Any, length: int) -> Labels:
    """Check a user's identities and cameras of `length` images; see `check_images`."""
    return Labels(
        checks.ids(f"{which}_pids", pids, length),
        None if cameras is None else checks.ids(f"{which}_cameras", cameras, length),
    )


def check_pair(
    query: tuple[Any, Any, Any], gallery: tuple[Any, Any, Any], metric: str
) -> tuple[ImageSet, ImageSet]:
    """Check the features, pids and cameras of a query set and of a gallery to be searched.

    Raises: UserError as `check_images`, and if the features differ in length.
    """
    if gallery[0] is None:
        raise UserError("no gallery_features are given: give query and gallery")
    query, gallery = number_pair(query, gallery)
    sets = check_images("query", *query, metric), check_images("gallery", *gallery, metric)
    checks.same_dimension(sets[0].features.shape[1], sets[1].features.shape[1])
    return sets


def number_pair(
    query: tuple[Any, Any, Any], gallery: tuple[Any, Any, Any]
) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
    """Number the names of identities and cameras in (features, pids, cameras) of both sets."""
    pids = number_pids(query[1], gallery[1])
    cameras = number_cameras(query[2], gallery[2])
    return (query[0], pids[0], cameras[0]), (gallery[0], pids[1], cameras[1])


def no_match(num_query: int, num_gallery: int) -> UserError:
    """Return the error to raise where no query has a relevant gallery item."""
    return UserError(
        f"none of the {num_query} queries has a match among the {num_gallery} gallery items: at"
        " least one needs its identity seen by another camera; check the pids and cameras (None:"
        " not known), or use same_camera='keep'"
    )


def all_junk(num_gallery: int) -> UserError:
    """Return the error to raise where no gallery item is left."""
    return UserError(
        f"all {num_gallery} gallery items are junk, by gallery_pids of {JUNK_PID} or by the mask:"
        " give a gallery with identities"
    )
