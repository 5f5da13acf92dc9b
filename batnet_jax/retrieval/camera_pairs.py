"""Figures of each pair of cameras: one camera's queries in the gallery of another."""

from collections.abc import Callable
from typing import Any

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.retrieval.evaluator import Options, evaluate_sets
from batnet_jax.retrieval.image_set import JUNK_PID, ImageSet
from batnet_jax.retrieval.matches import ItemLists, keep_items


def camera_pairs(
    query: ImageSet,
    gallery: ImageSet,
    *,
    ap: str = "precision",
    same_camera: str = "remove",
    left_out: ItemLists | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Evaluate within the gallery of each camera alone, and average by the query's camera.

    A figure says how well people seen by one camera are found among the images of another; images
    of third cameras do not disturb it. The galleries are parts of the whole, so together they cost
    as much as one evaluation.

    Args:
      query: q images of known cameras.
      gallery: g images of known cameras.
      ap: see `evaluate`.
      same_camera: see `evaluate`; with "remove" a camera has no pair with itself.
      left_out: gallery items that do not count, for each query; None for none.
      progress: called as progress(gallery cameras done, gallery cameras) after each camera.

    Returns: for each pair with a match query_camera, gallery_camera, num_valid_query, mAP and
      rank1, fractions; ascending by cameras.

    Raises: UserError if cameras are not known.
    """
    if query.cameras is None or gallery.cameras is None:
        raise UserError("camera_pairs needs the cameras of query and gallery: give both")
    options = Options(ap=ap, same_camera=same_camera, cmc_ranks=(1,), breakdown=True)
    pairs = []
    cameras = np.unique(gallery.cameras[gallery.pids != JUNK_PID])
    for done, camera in enumerate(cameras.tolist(), start=1):
        items = np.flatnonzero(gallery.cameras == camera)
        own = gallery.take(items)
        own_left_out = None if left_out is None else keep_items(left_out, items, len(gallery))
        try:
            figures = evaluate_sets(query, own, options, left_out=own_left_out)["per_camera"]
        except UserError:  # no query has a match in this camera
            figures = {}
        pairs += [
            {
                "query_camera": int(query_camera),
                "gallery_camera": camera,
                "num_valid_query": row["num_valid_query"],
                "mAP": row["mAP"],
                "rank1": row["cmc"]["1"],
            }
            for query_camera, row in figures.items()
            if row["num_valid_query"]
        ]
        if progress is not None:
            progress(done, len(cameras))
    return sorted(pairs, key=lambda pair: (pair["query_camera"], pair["gallery_camera"]))
