"""The exhibit of the features: images of some identities on maps of two dimensions."""

import warnings
from importlib.util import find_spec

import ml_collections
import numpy as np
from jaxtyping import Float

from batnet_jax.data import Split
from batnet_jax.evaluation.evaluate import camera_of
from batnet_jax.evaluation.ranked_test import RankedTest
from batnet_jax.report.feature_map import MOST, Mark, map_section
from batnet_jax.report.page import Section
from batnet_jax.retrieval.scores import unit_length

IMAGES = 400
"""Images on a map: more would hide each other."""
_FEWEST = 12
"""Images below which t-SNE has no neighbours to keep."""
MISSING = "A second map, by t-SNE, needs scikit-learn: pip install 'batnet-jax[map]'."


def features_section(
    config: ml_collections.ConfigDict, ranked: RankedTest, *, key: str, title: str
) -> Section:
    """Make the section of the maps of a test's features, by PCA, and by t-SNE if it is installed.

    Args:
      config: its `seed` is read.
      ranked: the test.
      key: the section's.
      title: the section's.
    """
    test = ranked.test
    people = np.unique(test.query.pids)
    chosen = people[np.unique(np.linspace(0, len(people) - 1, MOST).astype(int))]
    marks, rows = [], []
    for split, images in ((test.query, ranked.query), (test.gallery, ranked.gallery)):
        items = _choose(split, chosen, IMAGES // 2)
        rows.append(images.features[items])
        marks += [
            Mark(
                test.name_of(int(split.pids[i])) or str(split.pids[i]),
                camera_of(split, i),
                split is test.query,
            )
            for i in items.tolist()
        ]
    features = unit_length(np.concatenate(rows))
    places, shares = project(features)
    maps, missing = {"PCA": places}, ""
    if find_spec("sklearn") is None:
        missing = MISSING
    elif len(features) >= _FEWEST and sum(shares):
        maps["t-SNE"] = neighbour_map(features, config.seed)
    return map_section(
        marks,
        maps,
        shares=shares,
        num_identities=len(people),
        missing=missing,
        key=key,
        title=title,
    )


def _choose(split: Split, pids: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` images of some identities, evenly spaced over them."""
    own = np.flatnonzero(np.isin(split.pids, pids))
    own = own[np.argsort(split.pids[own], kind="stable")]
    if len(own) <= count:
        return own
    return own[np.unique(np.linspace(0, len(own) - 1, count).astype(int))]


def project(
    features: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], list[float]]:
    """Project features on the two directions of most variance (PCA).

    Returns: the places, and the shares of the variance along them; zeros where there is none.
    """
    centred = np.asarray(features, np.float64) - features.mean(0, dtype=np.float64)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    total = float((lengths**2).sum())
    places = np.zeros((len(features), 2))
    count = min(2, len(lengths))
    places[:, :count] = left[:, :count] * lengths[:count]
    return places, [float(own) for own in lengths[:count] ** 2 / total] if total else [0.0, 0.0]


def neighbour_map(features: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Place features by t-SNE of cosines, from their PCA (van der Maaten and Hinton, 2008).

    Args:
      features: of unit length, n >= 12.
      seed: of the method's random numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about its own packages
        from sklearn.manifold import TSNE

        start = project(features)[0]
        method = TSNE(
            perplexity=min(30, (len(features) - 1) / 3),
            init=(1e-4 * start / start[:, 0].std()).astype(np.float32),
            random_state=seed,
        )
        return np.asarray(method.fit_transform(np.asarray(features, np.float32)), np.float64)
