"""Adam with L2 in the gradient and the piecewise schedule (section 4.4)."""

from collections.abc import Sequence

import optax


def learning_rate_schedule(
    learning_rate: float, *, decay_epochs: Sequence[int], decay_factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """Step to learning rate: multiplied by `decay_factor` from the first step of each decay epoch.

    Section 4.4: x 0.1 at epochs 150, 200 and 250, epochs counted from 0.
    """
    return optax.piecewise_constant_schedule(
        learning_rate, {epoch * steps_per_epoch: decay_factor for epoch in decay_epochs}
    )


def adam_l2(
    schedule: optax.Schedule, *, beta1: float, beta2: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's Adam with `weight_decay`: L2 added to the gradient of all parameters, not AdamW."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=1e-8),
        optax.scale_by_learning_rate(schedule),
    )
