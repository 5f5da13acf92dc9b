"""A loss of one's own."""

import jax.numpy as jnp

from batnet_jax.step.losses import cross_entropy


def classify(outputs, labels, *, margin, num_negatives, label_smoothing, axis_name):
    """Return the cross-entropy plus the mean length of the features, and both of them."""
    scores, features = outputs["scores"], outputs["features"]
    ce = sum(cross_entropy(s, labels, smoothing=label_smoothing) for s in scores.values())
    length = sum(jnp.sqrt(jnp.square(f).sum(-1) + 1e-6).mean() for f in features.values())
    return ce + length, {"loss_ce": ce, "loss_length": length}
