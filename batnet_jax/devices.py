"""The devices of this process and how arrays lie on them under `jax.pmap`."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from batnet_jax.models.layers import AXIS


def replicate(tree: Any) -> Any:
    """Puts a copy of host arrays on every device, laid out as pmap returns them.

    (So the second step sees what the first saw, and is not compiled again.)
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split(array: np.ndarray) -> np.ndarray:
    """[b, ...] to [devices, b / devices, ...]."""
    count = jax.local_device_count()
    return array.reshape(count, len(array) // count, *array.shape[1:])


def round_up(batch: int) -> int:
    """The next multiple of the number of devices."""
    count = jax.local_device_count()
    return -(-batch // count) * count
