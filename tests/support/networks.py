"""Initialise and apply networks in tests."""

from functools import partial

import jax
import jax.numpy as jnp

from support.fast_jit import jit

OPTIONS = {"rff_factor": 2, "rff_bandwidth": 0.8}
"""The options of `kernel="rff"` (random Fourier features), at small sizes."""


def shapes_of(model, shape, dtype=jnp.float32):
    """Return the shapes of a model's variables for images of `shape`; nothing is computed."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return jax.eval_shape(partial(model.init, train=True), keys, jax.ShapeDtypeStruct(shape, dtype))


def apply(model, variables, x, *, train):
    """Apply the compiled model; return its outputs and its new batch statistics."""
    run = jit(partial(model.apply, train=train, mutable=["batch_stats"]))
    outputs, updates = run(variables, x)
    return outputs, updates["batch_stats"]
