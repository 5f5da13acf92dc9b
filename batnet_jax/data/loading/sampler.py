"""Plans the batches of an epoch as image indices: a pure function of (labels, seed, epoch).

Fang et al., ICCV 2019, 4.3 samples P identities x K images a batch and leaves the rest open. As in
the published code, an epoch takes every full group of K images of each identity.
"""

import numpy as np

from batnet_jax.errors import ArgumentError


def steps_per_epoch(pids: np.ndarray, *, identities: int, images_per_identity: int) -> int:
    """Count the batches of an epoch.

    There is room for all groups at P a batch, and for all groups of each identity at one a batch,
    because a batch holds an identity at most once.

    Args:
      pids: [n] int, 0 or more.
      identities: P, identities in a batch.
      images_per_identity: K.

    Raises: ArgumentError if there are fewer than P identities; ValueError if an argument is out of
      range.
    """
    _, counts = _identities(pids, identities, images_per_identity)
    return _steps(_groups(counts, images_per_identity), identities)


def epoch_plan(
    pids: np.ndarray, *, identities: int, images_per_identity: int, seed: int, epoch: int
) -> np.ndarray:
    """Draw the batches of one epoch.

    Each identity's images are shuffled and cut into groups of K; the remainder is not used in this
    epoch. An identity with fewer than K images has one group: each image once, then random repeats.
    Every group is used exactly once. An identity is forced into a batch if its remaining groups
    equal the remaining steps. The other places go at random to identities with groups left. If
    fewer than P identities have groups left, random other identities fill the batch, each with K
    newly drawn images.

    Proof that `steps` steps use every group, by induction over the remaining steps s. Let R <= s P
    groups be left, at most s of each identity. The f forced identities have s groups each, so
    f s <= R <= s P and they fit into the batch. After the step each identity has at most s - 1
    groups. Either P groups were used, and R - P <= (s - 1) P are left. Or fewer than P identities
    had groups, and each has at most s - 1 left. At s = 0 no group is left.

    Args:
      pids: [n] int, 0 or more, in any order.
      identities: P, identities in a batch.
      images_per_identity: K.
      seed: the run's seed, 0 or more.
      epoch: counted from 0.

    Returns: [steps, P*K] int64 indices into `pids`; the K images of an identity are adjacent.

    Raises: see `steps_per_epoch`.
    """
    order, counts = _identities(pids, identities, images_per_identity)
    k = images_per_identity
    rng = np.random.default_rng([seed, epoch])
    members = np.split(order, np.cumsum(counts)[:-1])
    groups = [_draw(rng, images, k) for images in members]
    left = _groups(counts, k)
    steps = _steps(left, identities)
    plan = np.empty((steps, identities, k), np.int64)
    for step in range(steps):
        # In [-1, 0): forced identities. In [0, 1): other groups. In [1, 2): identities to fill up.
        priority = rng.random(len(left)) - (left == steps - step) + (left == 0)
        chosen = np.argpartition(priority, identities - 1)[:identities]
        for place, identity in enumerate(rng.permutation(chosen)):
            left[identity] -= 1
            if left[identity] >= 0:
                plan[step, place] = groups[identity][left[identity]]
            else:
                left[identity] = 0
                plan[step, place] = _draw(rng, members[identity], k)[0]
    return plan.reshape(steps, -1)


def _identities(
    pids: np.ndarray, identities: int, images_per_identity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Check the arguments; return the image indices [n] sorted by identity, and the counts."""
    for name, value in (
        ("identities", identities),
        ("images_per_identity", images_per_identity),
    ):
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")
    pids = np.asarray(pids)
    if pids.ndim != 1 or (pids < 0).any():
        raise ValueError(
            f"the training labels (shape {pids.shape}, smallest {pids.min(initial=0)}) must be one "
            "list of identities >= 0: leave junk images (-1) out of the training split"
        )
    _, counts = np.unique(pids, return_counts=True)
    if len(counts) < identities:
        raise ArgumentError(
            "identities",
            f"a batch of {identities} identities, but the training split has only {len(counts)} "
            f"identities: choose {len(counts)} or fewer",
        )
    return np.argsort(pids, kind="stable"), counts


def _groups(counts: np.ndarray, k: int) -> np.ndarray:
    """Return the number of groups of each identity, at least one."""
    return np.maximum(counts // k, 1)


def _steps(groups: np.ndarray, identities: int) -> int:
    return int(max(-(-groups.sum() // identities), groups.max()))


def _draw(rng: np.random.Generator, images: np.ndarray, k: int) -> np.ndarray:
    """Shuffle an identity's images into full groups, [groups, k]."""
    images = rng.permutation(images)
    if len(images) < k:
        images = np.concatenate([images, rng.choice(images, k - len(images))])
    return images[: len(images) // k * k].reshape(-1, k)
