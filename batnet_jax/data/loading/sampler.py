"""Which images form which batch: index plans, a pure function of (labels, seed, epoch).

Fang et al., ICCV 2019, 4.3 samples P identities x K images a batch and leaves the rest open; as in
the published code, an epoch takes every full group of K images of every identity.
"""

import numpy as np

from batnet_jax.errors import ArgumentError


def steps_per_epoch(pids: np.ndarray, *, identities: int, images_per_identity: int) -> int:
    """The number of batches in an epoch.

    Enough for all groups at P a batch, and for the identity that has the most of them, as a batch
    holds an identity at most once.

    Args:
      pids: [n] int, 0 or more.
      identities: P, of a batch.
      images_per_identity: K.

    Raises: UserError if there are fewer than P identities, or negative ones.
    """
    _, counts = _identities(pids, identities, images_per_identity)
    return _steps(_groups(counts, images_per_identity), identities)


def epoch_plan(
    pids: np.ndarray, *, identities: int, images_per_identity: int, seed: int, epoch: int
) -> np.ndarray:
    """Draws the batches of one epoch.

    Each identity's images are shuffled and cut into groups of K; the remainder sits out this
    epoch. An identity with fewer than K images has one group: each of its images at least once,
    then repeats drawn at random. Every group is used exactly once. A step's batch must hold an
    identity whose groups left equal the steps left; the other places go at random to identities
    with groups left, and once there are fewer than P of these, to other identities, each with K of
    its images drawn anew.

    This always ends in `steps` steps, by induction over the steps left s: let no identity have more
    than s of the R <= sP groups left. The f forced identities have s each, so f s <= R <= s P
    and they fit. Afterwards nobody has more than s - 1 groups; and either P groups were taken,
    leaving R - P <= (s - 1) P, or every identity that had groups gave one, and these fewer than P
    identities have at most s - 1 each. At s = 0 nothing is left.

    Args:
      pids: [n] int, 0 or more, in any order. Cameras play no part.
      identities: P, of a batch.
      images_per_identity: K.
      seed: of the run, 0 or more.
      epoch: counted from 0.

    Returns: [steps, P*K] int64 indices into `pids`, the K images of an identity side by side.

    Raises: UserError if there are fewer than P identities, or negative ones.
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
        # In [-1, 0) what must be taken, in [0, 1) what may be, in [1, 2) what merely fills up.
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
    """Checks the labels; returns the images [n] sorted by identity and each identity's count."""
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
    """The number of groups of each identity, at least one."""
    return np.maximum(counts // k, 1)


def _steps(groups: np.ndarray, identities: int) -> int:
    return int(max(-(-groups.sum() // identities), groups.max()))


def _draw(rng: np.random.Generator, images: np.ndarray, k: int) -> np.ndarray:
    """Shuffles an identity's images into its full groups, [groups, k]."""
    images = rng.permutation(images)
    if len(images) < k:
        images = np.concatenate([images, rng.choice(images, k - len(images))])
    return images[: len(images) // k * k].reshape(-1, k)
