"""The losses of section 4.3: ranking (Eq. 7) and identity classification."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from batnet_jax.models.heads import unit_length
from batnet_jax.runtime.own_code import choose
from batnet_jax.step.class_margins import with_margin

CIRCLE_SCALE = 128.0
"""Gamma of the circle loss, for the re-identification of people (Sun et al., 4.1)."""


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
    gaps = _hardest_gaps(features, pids, num_negatives, axis_name)
    return jax.nn.relu(gaps + margin).mean()


def soft_triplet_loss(
    features: Float[Array, "b d"],
    pids: Int[Array, " b"],
    *,
    margin: float,
    num_negatives: int,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the mean softplus over the triplets of `triplet_loss`.

    The softplus, log(1 + exp(x)), takes the place of the hinge: a triplet in the right order still
    pulls a little, and no margin has to be chosen.

    Args:
      features: as in `triplet_loss`.
      pids: as in `triplet_loss`.
      margin: not used.
      num_negatives: as in `triplet_loss`; 1 is batch-hard, as in the paper.
      axis_name: pmap's axis; None outside pmap.
    Returns: scalar of the features' type.
    Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, 2
    ("soft-margin").
    """
    del margin
    return jax.nn.softplus(_hardest_gaps(features, pids, num_negatives, axis_name)).mean()


def _hardest_gaps(
    features: jax.Array, pids: jax.Array, num_negatives: int, axis_name: str | None
) -> jax.Array:
    """Return the farthest positive's distance minus the nearest negatives' distances, [b, n]."""
    all_features, all_pids = _gather(features, pids, axis_name)
    distances = pairwise_distances(features, all_features)
    same = pids[:, None] == all_pids[None, :]
    hardest_positive = jnp.where(same, distances, -jnp.inf).max(1)
    negated, _ = lax.top_k(jnp.where(same, -jnp.inf, -distances), num_negatives)
    return hardest_positive[:, None] + negated


def _gather(features: jax.Array, pids: jax.Array, axis_name: str | None) -> Any:
    """Return the features and identities of all devices."""
    return (
        lax.all_gather((features, pids), axis_name, tiled=True) if axis_name else (features, pids)
    )


def circle_loss(
    features: Float[Array, "b d"],
    pids: Int[Array, " b"],
    *,
    margin: float,
    num_negatives: int,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Return the mean circle loss over the anchors, each with all its positives and negatives.

    A pair's weight grows with the distance of its cosine from the best one, so that hard pairs pull
    more. The weights are constants for the gradient. Under pmap anchors and candidates are as in
    `triplet_loss`.

    Args:
      features: [b, d] float, not normalised.
      pids: [b] int. The global batch must hold each identity at least twice.
      margin: m, of the cosines; the paper: 0.25.
      num_negatives: not used: all negatives count.
      axis_name: pmap's axis; None outside pmap.
    Returns: scalar of the features' type.
    Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020,
    Eq. 6 with Eq. 5 and 8.
    """
    del num_negatives
    unit = unit_length(features)
    everyone, all_pids = _gather(unit, pids, axis_name)
    cosines = jnp.matmul(unit, everyone.T, precision=lax.Precision.HIGHEST)
    same = pids[:, None] == all_pids[None, :]
    first = lax.axis_index(axis_name) * len(pids) if axis_name else 0
    itself = first + jnp.arange(len(pids))[:, None] == jnp.arange(len(all_pids))[None, :]
    weights = lax.stop_gradient(
        jax.nn.relu(jnp.where(same, 1 + margin - cosines, cosines + margin))
    )
    logits = CIRCLE_SCALE * weights * jnp.where(same, 1 - margin - cosines, cosines - margin)
    positives = jax.nn.logsumexp(jnp.where(same & ~itself, logits, -jnp.inf), axis=1)
    negatives = jax.nn.logsumexp(jnp.where(same, -jnp.inf, logits), axis=1)
    return jax.nn.softplus(positives + negatives).mean()


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
    ranking: Callable[..., jax.Array] = triplet_loss,
    name: str = "loss_triplet",
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
      ranking: a ranking loss with the arguments of `triplet_loss`.
      name: of the ranking loss among the summands.
    Returns: the loss, and its two summands, `loss_ce` and `name`.
    """
    ce, ranked = [], []
    for stream, features in outputs["features"].items():
        ce.append(cross_entropy(outputs["scores"][stream], labels, smoothing=label_smoothing))
        ranked.append(
            ranking(
                features, labels, margin=margin, num_negatives=num_negatives, axis_name=axis_name
            )
        )
    parts = {"loss_ce": jnp.stack(ce).mean(), name: jnp.stack(ranked).mean()}
    return parts["loss_ce"] + parts[name], parts


LOSSES: Mapping[str, Callable[..., tuple[Any, dict[str, Any]]]] = {
    "multi_task": multi_task_loss,
    "soft_triplet": partial(multi_task_loss, ranking=soft_triplet_loss),
    "circle": partial(multi_task_loss, ranking=circle_loss, name="loss_circle"),
}
"""The losses by `config.loss.function`. A loss of the user's own takes the same arguments, and its
parts are the figures that metrics.jsonl shows beside `loss`."""


def make_loss(config: ml_collections.ConfigDict) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return the loss of a config.

    Returns: a function of (outputs of `BATNet`, labels [b], axis_name=) that returns the loss and
      its parts, see `multi_task_loss`.
    """

    def loss(outputs: dict, labels: jax.Array, *, axis_name: str | None) -> tuple[Any, dict]:
        scores = with_margin(
            outputs["scores"],
            labels,
            classifier=config.model.classifier,
            margin=config.loss.class_margin,
        )
        return choose(LOSSES, config.loss.function)(  # restoring must not import it
            outputs | {"scores": scores},
            labels,
            margin=config.loss.margin,
            num_negatives=config.loss.num_negatives,
            label_smoothing=config.loss.label_smoothing,
            axis_name=axis_name,
        )

    return loss
