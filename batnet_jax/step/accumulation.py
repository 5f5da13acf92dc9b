"""Gradient accumulation with losses over the whole batch.

The ranking loss compares all images of a batch, so it is not a mean over parts of the batch. But
the loss needs only the features and scores of each image, which are small. The step therefore runs
in three stages (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup", 2021):

1. The network runs on one part of the batch at a time and keeps only features and scores.
2. The loss and its gradient with respect to features and scores are computed for the whole batch.
3. The network runs on each part again and propagates this gradient back to the parameters.

This takes the memory of one part, plus the sum of gradients, and the time of a second forward pass.

Part m of n holds the images m, m + n, m + 2 n, ... of this device. These are the images whose
position in the global batch is m modulo n, on any number of devices, so a part has as many
identities as possible.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from batnet_jax.models.layers import Dropout


def split(tree: Any, parts: int) -> Any:
    """Split arrays [b, ...] into [parts, b / parts, ...], in the order given above."""
    return jax.tree.map(
        lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree
    )


def join(tree: Any) -> Any:
    """Invert `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def dropout_in_place(part: jax.Array, parts: int):
    """Return a context in which `Dropout` masks a part of the batch as within the whole batch.

    Dropout draws a mask for the whole batch. Within the context the part is written to its rows of
    a batch of zeros, masked, and read again. After pooling the arrays are small, so this is cheap.

    Args:
      part: number of the part.
      parts: number of all parts.
    """

    def intercept(call, args, kwargs, context):
        if not isinstance(context.module, Dropout) or context.method_name != "__call__":
            return call(*args, **kwargs)
        (x,) = args
        whole = jnp.zeros((len(x), parts, *x.shape[1:]), x.dtype).at[:, part].set(x)
        y = call(whole.reshape(-1, *x.shape[1:]), **kwargs)
        return y.reshape(whole.shape)[:, part]

    return nn.intercept_methods(intercept)


def value_and_gradients(
    forward: Callable[..., tuple[Any, Any]],
    loss: Callable[[Any], tuple[jax.Array, Any]],
    params: Any,
    stats: Any,
    batch: Any,
    parts: int,
) -> tuple[tuple[jax.Array, Any, Any], Any]:
    """Compute the loss of the whole batch and its gradient, running the network part by part.

    Args:
      forward: a function of (params, stats, rows of the batch) that returns (outputs, new stats).
        Outputs are arrays [rows, ...] and must not depend on `stats`, as the function runs twice
        on each part, with different `stats`.
      loss: a function of the whole batch's outputs that returns (scalar, auxiliary values).
      params: the parameters to differentiate by.
      stats: updated by one part after the other.
      batch: arrays [b, ...].
      parts: a divisor of b; 1 runs the network once.
    Returns: (loss, auxiliary values, new stats), and the gradient, like `params`.
    """
    if parts == 1:

        def whole(params):
            outputs, new_stats = forward(params, stats, batch)
            value, auxiliary = loss(outputs)
            return value, (auxiliary, new_stats)

        (value, (auxiliary, stats)), gradients = jax.value_and_grad(whole, has_aux=True)(params)
        return (value, auxiliary, stats), gradients

    numbers, rows = jnp.arange(parts), split(batch, parts)

    def run(params, stats, number, rows):
        with dropout_in_place(number, parts):
            return forward(params, stats, rows)

    def run_forward(stats, part):
        outputs, stats = run(params, stats, *part)
        return stats, outputs

    new_stats, outputs = lax.scan(run_forward, stats, (numbers, rows))
    (value, auxiliary), output_gradients = jax.value_and_grad(loss, has_aux=True)(join(outputs))

    def run_backward(total, part):
        number, rows, cotangents = part
        _, pull_back, _ = jax.vjp(lambda p: run(p, stats, number, rows), params, has_aux=True)
        (gradients,) = pull_back(cotangents)
        return jax.tree.map(jnp.add, total, gradients), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, _ = lax.scan(run_backward, zeros, (numbers, rows, split(output_gradients, parts)))
    return (value, auxiliary, new_stats), gradients
