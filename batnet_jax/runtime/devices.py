"""The devices of all processes, and how arrays lie on them under `jax.pmap`.

A pmap spans the devices of all processes, and each process gives and gets the part of its own.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"  # the name of pmap's axis, here and in step/train_step.py


def replicate(tree: Any) -> Any:
    """Puts a copy of host arrays on every device of this process, laid out as pmap returns them.

    (So the second step sees what the first saw, and is not compiled again.)
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def own_rows(batch: int) -> np.ndarray:
    """The places of this process's images in a global batch, [batch / processes] int.

    They follow the order of the devices, as `lax.axis_index` does: the batch is the same on any
    number of processes.
    """
    places = np.arange(batch).reshape(jax.device_count(), -1)
    here = [device.process_index == jax.process_index() for device in jax.devices()]
    return places[here].ravel()


def split(array: np.ndarray) -> np.ndarray:
    """The images of this process, [b, ...], to [its devices, b / its devices, ...]."""
    count = jax.local_device_count()
    return array.reshape(count, len(array) // count, *array.shape[1:])


def gather(own: np.ndarray, batch: int) -> np.ndarray:
    """The rows of all processes, in the order of the global batches.

    Args:
      own: [n, batch / processes, ...], of n batches the rows that `own_rows` names.
      batch: images of a global batch.
    Returns: [n * batch, ...] on the host.
    """
    whole = np.empty((len(own), batch, *own.shape[2:]), own.dtype)
    if jax.process_count() == 1:
        whole[:, own_rows(batch)] = own
    else:
        parts = multihost_utils.process_allgather((own, own_rows(batch)))
        for rows, places in zip(*map(np.asarray, parts), strict=True):
            whole[:, places] = rows
    return whole.reshape(-1, *own.shape[2:])


def round_up(batch: int) -> int:
    """The next multiple of the number of devices of all processes."""
    count = jax.device_count()
    return -(-batch // count) * count
