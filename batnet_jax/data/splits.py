"""Who is tested and who asks: pure functions of the labels, the same on every machine.

The paper's test sets come divided. A user's own folders do not, and neither do the identities that
are held out of training to select on.
"""

import numpy as np

SEED = 0
"""Not the run's: runs with different seeds must be compared on the same identities."""


def hold_out(pids: np.ndarray, share: float) -> np.ndarray:
    """Draws identities.

    Args:
      pids: [n] int.
      share: of the identities, in (0, 1).

    Returns: [n] bool, whether an image's identity is among those drawn: at least one, and at most
      all but one.
    """
    people = np.unique(pids)
    number = int(np.clip(round(share * len(people)), 1, max(len(people) - 1, 1)))
    drawn = np.random.default_rng(SEED).permutation(people)[:number]
    return np.isin(pids, drawn)


def query_and_gallery(pids: np.ndarray, cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divides images into queries and gallery, as Market-1501 is divided.

    Of each identity, an image of each camera becomes a query, but not more than half of its images,
    and never so that a query is left without an image from another camera in the gallery. Where no
    cameras are known, every image counts as from a camera of its own.

    Args:
      pids: [n] int.
      cameras: [n] int; negative = not known.

    Returns: rows of the queries and rows of the gallery, sorted; an identity that cannot be asked
      for (a single image, or a single camera) is in the gallery only.
    """
    rng = np.random.default_rng(SEED)
    views = np.where(cameras < 0, -1 - np.arange(len(cameras)), cameras)
    is_query = np.zeros(len(pids), bool)
    order = np.argsort(pids, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(pids[order])) + 1):
        asked: list[int] = []
        for row in rng.permutation(rows):
            if views[row] in asked or 2 * len(asked) + 2 > len(rows):
                continue
            stay = views[rows[~is_query[rows] & (rows != row)]]
            if all((stay != view).any() for view in (*asked, views[row])):
                is_query[row] = True
                asked.append(int(views[row]))
    return np.flatnonzero(is_query), np.flatnonzero(~is_query)
