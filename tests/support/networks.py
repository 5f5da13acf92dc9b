"""TODO."""

from functools import partial

import jax
import jax.numpy as jnp

from support.fast_jit import jit


def shapes_of(model, shape, dtype=jnp.float32):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(partial(model.init, train=True), keys, jax.ShapeDtypeStruct(shape, dtype))


def apply(model, variables, x, *, train):
    """Runs compiled; returns outputs and the new statistics."""
    run = jit(partial(model.apply, train=train, mutable=["batch_stats"]))
    outputs, updates = run(variables, x)
    return outputs, updates["batch_stats"]


OPTIONS = {"rff_factor": 2, "rff_bandwidth": 0.8}
