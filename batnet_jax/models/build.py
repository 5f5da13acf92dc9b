"""The network that a config describes."""

import jax.numpy as jnp
import ml_collections

from batnet_jax.models.batnet import BATNet, parse_frozen
from batnet_jax.runtime.devices import AXIS


def make_model(
    config: ml_collections.ConfigDict, num_identities: int, *, axis_name: str | None = AXIS
) -> BATNet:
    """Return the network of `config.model`, whose fields are `BATNet`'s attributes.

    The parts of `config.train.freeze` are frozen.

    Args:
      config: validated.
      num_identities: classes of the classifiers.
      axis_name: pmap's axis, None outside pmap.
    """
    fields = dict(config.model)
    dtype = jnp.dtype(fields.pop("dtype"))
    frozen = parse_frozen(config.train.freeze)
    return BATNet(num_identities, dtype=dtype, axis_name=axis_name, frozen=frozen, **fields)
