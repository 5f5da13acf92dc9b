"""Arrays and functions on all devices of this host."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32

from batnet_jax.runtime.devices import AXIS, parallel


def replicate(tree: Any) -> Any:
    """Copy arrays to every device."""
    return jax.device_put(tree, _sharding(PartitionSpec()))


def split(tree: Any) -> Any:
    """Put row i of each array [devices, ...] on device i."""
    return jax.device_put(tree, _sharding(PartitionSpec(AXIS)))


@functools.cache
def on_devices(function: Callable, in_axes: tuple, donate: tuple = ()) -> Callable:
    """Return the function that runs `function` on every device.

    Args:
      function: to be compiled.
      in_axes: for each argument 0 if each device receives a row, None if all receive the whole.
      donate: the arguments whose memory the result may use.
    """
    return parallel(function, in_axes=in_axes, donate=donate, devices=jax.local_devices())


def new_thresholds_and_counts(
    shape: tuple[int, int, int],
) -> tuple[Float32[Array, "..."], Int32[Array, "..."]]:
    """Return infinite thresholds and counts of 0, [devices, b, page], made on the devices."""
    return _fill_on_devices(shape, tuple(jax.local_devices()))()


@functools.cache
def _fill_on_devices(shape: tuple[int, int, int], devices: tuple) -> Callable:
    mesh = Mesh(np.array(devices), (AXIS,))
    return jax.jit(
        lambda: (jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)),
        out_shardings=NamedSharding(mesh, PartitionSpec(AXIS)),
    )


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)
