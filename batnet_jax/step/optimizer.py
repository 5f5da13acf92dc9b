"""Adam with L2 in the gradient and the piecewise schedule (section 4.4); a cosine and a warm-up.

A schedule is a function from step to learning rate.
"""

from collections.abc import Sequence
from typing import Any

import optax

SCHEDULES = ("piecewise", "cosine")


def learning_rate_schedule(
    learning_rate: float, *, decay_epochs: Sequence[int], decay_factor: float, steps_per_epoch: int
) -> optax.Schedule:
    """Return a schedule that is multiplied by `decay_factor` at the start of each decay epoch.

    Section 4.4: x 0.1 at epochs 150, 200 and 250, epochs counted from 0.
    """
    return optax.piecewise_constant_schedule(
        learning_rate, {epoch * steps_per_epoch: decay_factor for epoch in decay_epochs}
    )


def cosine_schedule(learning_rate: float, *, warmup_steps: int, steps: int) -> optax.Schedule:
    """Return a schedule that is constant during the warm-up, then half a cosine down to 0.

    Loshchilov & Hutter, "SGDR", ICLR 2017, Eq. 5, without restarts. Combined with `warm_up` this
    equals optax's `warmup_cosine_decay_schedule`.

    Args:
      learning_rate: the highest.
      warmup_steps: step at which the cosine starts.
      steps: step from which the learning rate is 0; more than `warmup_steps`.
    """
    decay = optax.cosine_decay_schedule(learning_rate, steps - warmup_steps)
    return optax.join_schedules([optax.constant_schedule(learning_rate), decay], [warmup_steps])


def warm_up(schedule: optax.Schedule, *, steps: int, factor: float) -> optax.Schedule:
    """Multiply the first steps of a schedule by a line from `factor` to 1.

    Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 2.2.

    Args:
      schedule: the schedule after the warm-up.
      steps: step at which the line reaches 1; 0 returns the schedule unchanged.
      factor: at step 0.
    """
    if not steps:
        return schedule
    line = optax.linear_schedule(factor, 1.0, steps)
    return lambda step: line(step) * schedule(step)


def clip(gradients: Any, norm: float) -> Any:
    """Return gradients, scaled down to a norm if theirs is larger; 0 scales none.

    The norm is the Euclidean norm over all parameters, before L2 is added. NaN and infinity stay in
    a gradient, and the run's check of its figures then ends the run. Clipping leaves no trace in
    the optimizer's state, so a checkpoint can be read with any `clip_norm`.

    Pascanu, Mikolov & Bengio, "On the difficulty of training Recurrent Neural Networks", ICML 2013,
    Algorithm 1.
    """
    if not norm:
        return gradients
    clipped, _ = optax.clip_by_global_norm(norm).update(gradients, optax.EmptyState())
    return clipped


def adam_l2(
    schedule: optax.Schedule, *, beta1: float, beta2: float, weight_decay: float
) -> optax.GradientTransformation:
    """Return PyTorch's Adam with `weight_decay`, which adds L2 to all gradients, unlike AdamW."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=1e-8),
        optax.scale_by_learning_rate(schedule),
    )
