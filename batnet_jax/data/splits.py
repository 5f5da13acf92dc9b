"""Splits for data without published ones: a user's own folders, and held-out validation identities.

Pure functions of the labels, with the same results on every machine.
"""

import numpy as np

SEED = 0
"""Not the run's seed: runs with different seeds are compared on the same identities."""


def hold_out(pids: np.ndarray, share: float) -> np.ndarray:
    """Draw identities to hold out.

    Args:
      pids: [n] int.
      share: fraction of the identities, in (0, 1).

    Returns: [n] bool, whether an image's identity is drawn. At least one identity is drawn and at
      least one is not.
    """
    people = np.unique(pids)
    number = int(np.clip(round(share * len(people)), 1, max(len(people) - 1, 1)))
    drawn = np.random.default_rng(SEED).permutation(people)[:number]
    return np.isin(pids, drawn)


def query_and_gallery(pids: np.ndarray, cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide images into queries and gallery in the manner of Market-1501.

    One image of each identity and camera becomes a query. At most half of an identity's images
    become queries, and each query keeps a gallery image from another camera. If cameras are
    unknown, each image counts as a camera of its own.

    Args:
      pids: [n] int.
      cameras: [n] int; negative = unknown.

    Returns: the rows of the queries and of the gallery, sorted. An identity with a single image or
      a single camera is only in the gallery.
    """
    rng = np.random.default_rng(SEED)
    views = np.where(cameras < 0, -1 - np.arange(len(cameras)), cameras)
    is_query = np.zeros(len(pids), bool)
    order = np.argsort(pids, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(pids[order])) + 1):
        query_views: list[int] = []
        for row in rng.permutation(rows):
            if views[row] in query_views or 2 * len(query_views) + 2 > len(rows):
                continue
            gallery_views = views[rows[~is_query[rows] & (rows != row)]]
            if all((gallery_views != view).any() for view in (*query_views, views[row])):
                is_query[row] = True
                query_views.append(int(views[row]))
    return np.flatnonzero(is_query), np.flatnonzero(~is_query)
