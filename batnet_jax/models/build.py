"""TODO."""

import jax.numpy as jnp
import ml_collections

from batnet_jax.models import BATNet
from batnet_jax.runtime.devices import AXIS


def make_model(
    config: ml_collections.ConfigDict, num_identities: int, *, axis_name: str | None = AXIS
) -> BATNet:
    """The network of `config.model`, whose keys are `BATNet`'s attributes."""
    fields = dict(config.model)
    dtype = jnp.dtype(fields.pop("dtype"))
    return BATNet(num_identities, dtype=dtype, axis_name=axis_name, **fields)
