"""Arrays and functions on all devices of this host."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, Int32

_AXIS = "devices"


def replicate(tree: Any) -> Any:
    """A copy on every device."""
    return jax.device_put(tree, _sharding(PartitionSpec()))


def split(tree: Any) -> Any:
    """Arrays of [devices, ...]: a row on each device."""
    return jax.device_put(tree, _sharding(PartitionSpec(_AXIS)))


@functools.cache
def on_devices(function: Callable, in_axes: tuple, donate: tuple = ()) -> Callable:
    """The function on every device: arguments with a 0 in `in_axes` are split, others the same."""
    return jax.pmap(
        function, _AXIS, in_axes=in_axes, donate_argnums=donate, devices=jax.local_devices()
    )


def nothing_known(shape: tuple[int, int, int]) -> tuple[Float32[Array, "..."], Int32[Array, "..."]]:
    """Limits that nothing exceeds and counts of 0, of [devices, b, page], split; made there."""
    return _fresh(shape, tuple(jax.local_devices()))()


@functools.cache
def _fresh(shape: tuple[int, int, int], devices: tuple) -> Callable:
    mesh = Mesh(np.array(devices), (_AXIS,))
    return jax.jit(
        lambda: (jnp.full(shape, jnp.inf, jnp.float32), jnp.zeros(shape, jnp.int32)),
        out_shardings=NamedSharding(mesh, PartitionSpec(_AXIS)),
    )


def _sharding(spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.local_devices()), (_AXIS,)), spec)
