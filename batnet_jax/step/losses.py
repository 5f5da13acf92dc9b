"""The losses of section 4.3: ranking (Eq. 7) and identity classification."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int


def pairwise_distances(a: Float[Array, "m d"], b: Float[Array, "n d"]) -> Float[Array, "m n"]:
    """Return Euclidean distances, at full precision on every backend.

    Where two features coincide, as in an anchor's distance to itself, the gradient is 0, not
    infinite.
    """
    product = jnp.matmul(a, b.T, precision=lax.Precision.HIGHEST)
    squared = jnp.square(a).sum(1)[:, None] + jnp.square(b).sum(1)[None, :] - 2 * product
    apart = squared > 1e-12
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)


def triplet_loss(
    features: Float[Array, "b d"],
    pids: Int[Array, " b"],
    *,
    margin: float,
    num_negatives: int,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the mean hinge over each anchor's hardest positive and hardest negatives.

    Each anchor forms `num_negatives` triplets: its farthest positive with each of its nearest
    negatives; `num_negatives=1` is batch-hard. Under pmap the anchors are the images of this
    device and the candidates are the images of all devices. The mean over devices is then the loss
    of the global batch.

    Args:
      features: [b, d] float, not normalised.
      pids: [b] int. The global batch must hold each identity at least twice, and at least
        `num_negatives` negatives of each anchor.
      margin: in units of Euclidean distance.
      num_negatives: hardest negatives per anchor (section 4.3: 5).
      axis_name: pmap's axis; None outside pmap.
    Returns: scalar of the features' type.
    Fang et al., ICCV 2019, Eq. 7.
    """
    all_features, all_pids = features, pids
    if axis_name:
        all_features, all_pids = lax.all_gather((features, pids), axis_name, tiled=True)
    distances = pairwise_distances(features, all_features)
    same = pids[:, None] == all_pids[None, :]
    hardest_positive = jnp.where(same, distances, -jnp.inf).max(1)
    negated, _ = lax.top_k(jnp.where(same, -jnp.inf, -distances), num_negatives)
    return jax.nn.relu(hardest_positive[:, None] + negated + margin).mean()


def cross_entropy(
    scores: Float[Array, "b n"], labels: Int[Array, " b"], *, smoothing: float = 0.0
) -> Float[Array, ""]:
    """Return the mean cross-entropy of the identity scores.

    Args:
      scores: [b, n] float, before the softmax.
      labels: [b] int in [0, n).
      smoothing: label smoothing (Szegedy et al. 2016), the weight spread evenly over all n classes
        (published code: 0.1; 0 = none).
    Returns: scalar of the scores' type.
    """
    targets = optax.smooth_labels(
        jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype), smoothing
    )
    return optax.softmax_cross_entropy(scores, targets).mean()


def multi_task_loss(
    outputs: dict,
    labels: Int[Array, " b"],
    *,
    margin: float,
    num_negatives: int,
    label_smoothing: float,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Return the sum of ranking and classification loss, averaged over the streams.

    Section 4.3 applies both losses to f_a and f_p separately. Equal weights and the average are
    from the published code.

    Args:
      outputs: of `BATNet`: `features` and `scores`, each with a [b, ...] array per stream.
      labels: [b] int in [0, num_identities).
      margin: see `triplet_loss`.
      num_negatives: see `triplet_loss`.
      label_smoothing: see `cross_entropy`.
      axis_name: see `triplet_loss`.
    Returns: the loss, and its two summands `loss_ce` and `loss_triplet`.
    """
    ce, triplet = [], []
    for stream, features in outputs["features"].items():
        ce.append(cross_entropy(outputs["scores"][stream], labels, smoothing=label_smoothing))
        triplet.append(
            triplet_loss(
                features, labels, margin=margin, num_negatives=num_negatives, axis_name=axis_name
            )
        )
    parts = {"loss_ce": jnp.stack(ce).mean(), "loss_triplet": jnp.stack(triplet).mean()}
    return parts["loss_ce"] + parts["loss_triplet"], parts


LOSSES: Mapping[str, Callable[..., tuple[Any, dict[str, Any]]]] = {"multi_task": multi_task_loss}
"""The losses by `config.loss.function`. A loss of the user's own takes the same arguments, and its
parts are the figures that metrics.jsonl shows beside `loss`."""
