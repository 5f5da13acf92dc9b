"""Runs functions on all devices, and moves arrays to and from the devices.

Only this module calls `jax.pmap`. A pmap spans the devices of all processes. Each process passes
and receives the share of its own devices. A global batch is the batch of all processes together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # the name of pmap's axis


def parallel(
    function: Callable,
    *,
    in_axes: Sequence[int | None],
    out_axes: Any = 0,
    donate: Sequence[int] = (),
    devices: Sequence[Any] | None = None,
) -> Callable:
    """Return the function that runs `function` on every device, over the axis `AXIS`.

    Args:
      function: to be compiled.
      in_axes: for each argument 0 if each device receives a row, None if all receive the whole.
      out_axes: for each result 0 if the devices' results are stacked, None if all are equal.
      donate: the arguments whose memory the results may use.
      devices: to run on; None = the devices of all processes.
    """
    return jax.pmap(
        function,
        AXIS,
        in_axes=tuple(in_axes),
        out_axes=out_axes,
        donate_argnums=tuple(donate),
        devices=devices,
    )


def replicate(tree: Any) -> Any:
    """Copy host arrays to every device of this process, with the layout of pmap's results.

    With this layout the second step has the same arguments as the first and is not compiled again.
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def own_rows(batch: int) -> np.ndarray:
    """Return the positions of this process's images in a global batch.

    Positions follow the order of the devices, as `lax.axis_index` does, so a global batch does not
    depend on the number of processes.

    Args:
      batch: images of a global batch.
    Returns: [batch / processes] int.
    """
    positions = np.arange(batch).reshape(jax.device_count(), -1)
    local = [device.process_index == jax.process_index() for device in jax.devices()]
    return positions[local].ravel()


def split(array: np.ndarray) -> np.ndarray:
    """Split this process's images, [b, ...], among its n devices: [n, b / n, ...]."""
    count = jax.local_device_count()
    return array.reshape(count, len(array) // count, *array.shape[1:])


def gather(own: np.ndarray, batch: int) -> np.ndarray:
    """Gather the rows of all processes, in the order of the global batches.

    Args:
      own: [n, batch / processes, ...], this process's rows of n batches, see `own_rows`.
      batch: images of a global batch.
    Returns: [n * batch, ...] on the host.
    """
    whole = np.empty((len(own), batch, *own.shape[2:]), own.dtype)
    if jax.process_count() == 1:
        whole[:, own_rows(batch)] = own
    else:
        parts = multihost_utils.process_allgather((own, own_rows(batch)))
        for rows, positions in zip(*map(np.asarray, parts), strict=True):
            whole[:, positions] = rows
    return whole.reshape(-1, *own.shape[2:])


def own_devices() -> tuple[Any, ...] | None:
    """Return the devices of this process; None if these are all devices."""
    return None if jax.process_count() == 1 else tuple(jax.local_devices())


def round_up_own(batch: int) -> int:
    """Round a batch up to a multiple of the number of this process's devices."""
    count = jax.local_device_count()
    return -(-batch // count) * count


def round_up(batch: int) -> int:
    """Round a batch up to a multiple of the number of devices of all processes."""
    count = jax.device_count()
    return -(-batch // count) * count
