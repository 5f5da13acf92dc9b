"""An oracle of k-reciprocal re-ranking: dense, slow, float64, one item at a time."""

import numpy as np


def final_distances(query, gallery, *, k1, k2, weight, metric):
    """Return final distances [q, g], float64. An item is the first in its own list."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    if metric == "cosine":
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.where(lengths == 0, 1, lengths)
    n = len(features)
    distance = np.array([[np.sum((a - b) ** 2) for b in features] for a in features])
    # As in the published code: divide columns by their largest distance, then transpose.
    largest = distance.max(axis=0)
    distance = (distance / np.where(largest == 0, 1, largest)).T
    lists = []
    for i in range(n):
        others = [j for j in np.argsort(distance[i], kind="stable") if j != i]
        lists.append([i, *others])

    def reciprocal(i, k):
        return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}

    half = int(np.around(k1 / 2))
    vectors = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        expanded = set(own)
        for j in own:
            candidates = reciprocal(j, half)
            if len(candidates & own) > 2 / 3 * len(candidates):
                expanded |= candidates
        for j in expanded:
            vectors[i, j] = np.exp(-distance[i, j])
        vectors[i] /= vectors[i].sum()
    if k2 != 1:
        vectors = np.array([vectors[lists[i][:k2]].mean(axis=0) for i in range(n)])

    final = np.zeros((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            other = vectors[len(query) + j]
            smaller, larger = np.minimum(vectors[i], other), np.maximum(vectors[i], other)
            jaccard = 1 - smaller.sum() / larger.sum()
            final[i, j] = weight * distance[i, len(query) + j] + (1 - weight) * jaccard
    return final
