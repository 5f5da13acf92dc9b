"""An exponential moving average of the weights, for evaluation and embedding.

Averages of weights: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging",
SIAM J. Control Optim. 1992. A fixed weight of the newest value: Tarvainen & Valpola, "Mean teachers
are better role models", NeurIPS 2017.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Average(NamedTuple):
    """Moving averages.

    Attributes:
      params: of the parameters.
      batch_stats: of the running statistics.
    """

    params: Any
    batch_stats: Any


def start_average(variables: dict[str, Any], decay: float) -> Average | None:
    """Return the average before the first step, a copy of the values; None if `decay` is 0.

    Args:
      variables: `params` and `batch_stats`, arrays or their shapes.
      decay: see `move_average`.
    """
    if not decay:
        return None

    def copy(leaf: Any) -> Any:  # a step overwrites the memory of the state before it
        return leaf.copy() if isinstance(leaf, np.ndarray) else leaf

    return Average(*(jax.tree.map(copy, variables[kind]) for kind in Average._fields))


def move_average(
    average: Average, params: Any, batch_stats: Any, *, decay: float, step: Any
) -> Average:
    """Return the average after a step.

    A step's values have the weight 1 - decay. The first steps have a greater one, 9 / (10 + step),
    because the initial values would otherwise dominate for 1 / (1 - decay) steps.

    Args:
      average: before the step.
      params: after the step, packed like those of the average.
      batch_stats: likewise.
      decay: in (0, 1).
      step: int scalar, steps taken before this one.
    """
    share = jnp.maximum(1 - decay, 9 / (10 + step))

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        return old + share.astype(old.dtype) * (new - old)

    return jax.tree.map(move, average, Average(params, batch_stats))
