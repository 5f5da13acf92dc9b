"""Lowers the programs of a run for devices that this machine need not have.

`lower_step(...).compile()` for devices of `runtime.tpu_chips.describe_devices` shows what a step
needs on a TPU.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from batnet_jax.evaluation.embed import embed_on_devices
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import variable_shapes
from batnet_jax.runtime.devices import AXIS
from batnet_jax.step.packing import pack_state
from batnet_jax.step.train_step import make_recipe, state_shapes
from batnet_jax.training.loop import step_on_devices
from batnet_jax.training.run_length import batch_size


def lower_step(
    config: ml_collections.ConfigDict,
    devices: Sequence[Any],
    *,
    num_identities: int,
    steps_per_epoch: int,
) -> Any:
    """Lower the training step of a config, as `training.loop` runs it.

    Args:
      config: of the run.
      devices: to run on; the batch must divide among them.
      num_identities: people in training.
      steps_per_epoch: the learning rate depends on it.
    Returns: a `jax.stages.Lowered`.
    """
    recipe = make_recipe(
        config,
        num_identities=num_identities,
        steps_per_epoch=steps_per_epoch,
        axis_name=AXIS if len(devices) > 1 else None,
    )
    size, count = tuple(config.data.image_size), len(devices)
    state = jax.eval_shape(partial(pack_state, kernels=False), state_shapes(recipe, size))
    images = batch_size(config) // count
    batch = {
        "image": jax.ShapeDtypeStruct((count, images, *size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count, images), jnp.int32),
    }
    return step_on_devices(recipe, devices).lower(state, batch)


def lower_embedding(
    config: ml_collections.ConfigDict, devices: Sequence[Any], *, num_identities: int
) -> Any:
    """Lower the embedding of a batch of `config.eval.batch` images, rounded up to the devices.

    Args: see `lower_step`.
    """
    model: Any = make_model(config, num_identities, axis_name=None)
    size, count = tuple(config.data.image_size), len(devices)
    images = -(-config.eval.batch // count)
    batch = jax.ShapeDtypeStruct((count, images, *size, 3), jnp.uint8)
    return embed_on_devices(model, tuple(devices)).lower(variable_shapes(model, size), batch)
