"""Which pairs of cameras are hard: each camera's queries among the images of each other one."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from batnet_jax.errors import UserError
from batnet_jax.retrieval.evaluator import JUNK_PID, evaluate


def camera_pairs(
    query_features: Float[np.ndarray, "q d"],
    query_pids: Int64[np.ndarray, " q"],
    query_cameras: Int64[np.ndarray, " q"],
    gallery_features: Float[np.ndarray, "g d"],
    gallery_pids: Int64[np.ndarray, " g"],
    gallery_cameras: Int64[np.ndarray, " g"],
    *,
    ap: str = "precision",
    same_camera: str = "remove",
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Evaluates within the gallery of each camera alone, and averages by the query's camera.

    So a figure says how well one camera's people are found again by another, undisturbed by images
    of third cameras. The galleries are parts of the whole: together they cost as one evaluation.

    Args:
      query_features: this and the other arrays, `ap` and `same_camera` as in `evaluate`.
      query_pids: [q] int.
      query_cameras: [q] int, known.
      gallery_features: [g, d].
      gallery_pids: [g] int.
      gallery_cameras: [g] int, known.
      ap: "precision" or "trapezoid".
      same_camera: with "remove" a camera has no pair with itself.
      progress: called as progress(gallery cameras done, all of them) after each.

    Returns: for each pair in which somebody can be found query_camera, gallery_camera,
      num_valid_query, mAP and rank1, fractions; ascending by cameras.
    """
    pairs = []
    cameras = np.unique(gallery_cameras[gallery_pids != JUNK_PID])
    for done, camera in enumerate(cameras.tolist(), start=1):
        own = np.flatnonzero(gallery_cameras == camera)
        try:
            figures = evaluate(
                query_features,
                query_pids,
                query_cameras,
                gallery_features[own],
                gallery_pids[own],
                gallery_cameras[own],
                ap=ap,
                same_camera=same_camera,
                cmc_ranks=(1,),
                breakdown=True,
            )["per_camera"]
        except UserError:  # nobody of the queries was seen by this camera
            figures = {}
        pairs += [
            {
                "query_camera": int(asking),
                "gallery_camera": camera,
                "num_valid_query": row["num_valid_query"],
                "mAP": row["mAP"],
                "rank1": row["cmc"]["1"],
            }
            for asking, row in figures.items()
            if row["num_valid_query"]
        ]
        if progress is not None:
            progress(done, len(cameras))
    return sorted(pairs, key=lambda pair: (pair["query_camera"], pair["gallery_camera"]))
