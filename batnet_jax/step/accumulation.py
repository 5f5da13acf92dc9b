"""Gradient accumulation whose losses see the whole batch.

The ranking loss compares all images of a batch, so it is no mean over parts of it. But it needs of
each image only what the network makes of it, and that is small. So: the network runs on a part of
the batch at a time, and keeps features and scores alone; the loss and its gradient by these are of
the whole batch; then the network runs on each part once more, and carries the part's share of that
gradient back to the parameters (Gao et al., "Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup", 2021). Beside the sum of gradients, memory is that of one part; time is that
of a second forward pass.

Part m of n has the images m, m + n, m + 2 n, ... of this device: they are those of the global batch
whose position is m modulo n, on any number of devices, and of as many identities as there can be.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from batnet_jax.models.layers import Dropout


def split(tree: Any, parts: int) -> Any:
    """Arrays [b, ...] to [parts, b / parts, ...]; see above which row goes where."""
    return jax.tree.map(
        lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), tree
    )


def join(tree: Any) -> Any:
    """The inverse of `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


def dropout_in_place(part: jax.Array, parts: int):
    """A context in which `Dropout` gives a part of the batch the masks it has in the whole.

    Dropout draws for the whole batch, and takes rows by their place. So the part is put in its
    place among zeros, and taken out again; behind pooling that costs nothing.

    Args:
      part: its number.
      parts: how many there are.
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
    """The loss of the whole batch and its gradient, the network running on a part at a time.

    Args:
      forward: (params, stats, rows of the batch) to (outputs, arrays [rows, ...], and new stats).
        Run twice on each part, with another `stats`: these must not change its outputs.
      loss: of the outputs of the whole batch, in its order, to (scalar, more).
      params: what the gradient is by.
      stats: go through the parts one after the other, and are updated by each.
      batch: arrays [b, ...].
      parts: how many, a divisor of b; 1 runs the network once.
    Returns: (loss, more, new stats), and the gradient, like `params`.
    """
    if parts == 1:

        def whole(params):
            outputs, new_stats = forward(params, stats, batch)
            value, more = loss(outputs)
            return value, (more, new_stats)

        (value, (more, stats)), gradients = jax.value_and_grad(whole, has_aux=True)(params)
        return (value, more, stats), gradients

    numbers, rows = jnp.arange(parts), split(batch, parts)

    def run(params, stats, number, rows):
        with dropout_in_place(number, parts):
            return forward(params, stats, rows)

    def look(stats, part):
        outputs, stats = run(params, stats, *part)
        return stats, outputs

    new_stats, outputs = lax.scan(look, stats, (numbers, rows))
    (value, more), by_outputs = jax.value_and_grad(loss, has_aux=True)(join(outputs))

    def pull(total, part):
        number, rows, cotangents = part
        _, back, _ = jax.vjp(lambda p: run(p, stats, number, rows), params, has_aux=True)
        (gradients,) = back(cotangents)
        return jax.tree.map(jnp.add, total, gradients), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    gradients, _ = lax.scan(pull, zeros, (numbers, rows, split(by_outputs, parts)))
    return (value, more, new_stats), gradients
