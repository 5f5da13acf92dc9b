"""Adam with L2 in the gradient and the piecewise schedule (section 4.4); others' schedules."""

from collections.abc import Sequence

import optax

SCHEDULES = ("piecewise", "cosine")


def learning_rate_schedule(
    learning_rate: float, *, decay_epochs: Sequence[int], decay_factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """Step to learning rate: multiplied by `decay_factor` from the first step of each decay epoch.

    Section 4.4: x 0.1 at epochs 150, 200 and 250, epochs counted from 0.
    """
    return optax.piecewise_constant_schedule(
        learning_rate, {epoch * steps_per_epoch: decay_factor for epoch in decay_epochs}
    )


def cosine_schedule(learning_rate: float, *, warmup_steps: int, steps: int) -> optax.Schedule:
    """Step to learning rate: whole up to the warm-up's end, then half a cosine down to 0.

    Loshchilov & Hutter, "SGDR", ICLR 2017, Eq. 5, without restarts; with `warm_up` it is optax's
    `warmup_cosine_decay_schedule`.

    Args:
      learning_rate: the highest.
      warmup_steps: from which the cosine starts.
      steps: at which it has come to 0, where it stays; more than `warmup_steps`.
    """
    decay = optax.cosine_decay_schedule(learning_rate, steps - warmup_steps)
    return optax.join_schedules([optax.constant_schedule(learning_rate), decay], [warmup_steps])


def warm_up(schedule: optax.Schedule, *, steps: int, factor: float) -> optax.Schedule:
    """A schedule whose first steps are multiplied by a line from `factor` to 1.

    Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2.

    Args:
      schedule: step to learning rate.
      steps: at which the line arrives at 1; 0 = none, and the schedule is returned as it is.
      factor: at step 0.
    """
    if not steps:
        return schedule
    line = optax.linear_schedule(factor, 1.0, steps)
    return lambda step: line(step) * schedule(step)


def adam_l2(
    schedule: optax.Schedule, *, beta1: float, beta2: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's Adam with `weight_decay`: L2 added to the gradient of all parameters, not AdamW."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=1e-8),
        optax.scale_by_learning_rate(schedule),
    )
