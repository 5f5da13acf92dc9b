"""The fingerprint of a model: features can be compared only if the fingerprints are equal."""

import hashlib
import json
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax.config import FIELDS
from batnet_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD

_VERSION = 1
"""The version of decoding and resizing: raise it if a change gives the same file other features."""
_SAME_FEATURES = ("model.dropout", "model.sync_batch_norm", "model.dtype")
"""Fields of the network that features do not depend on, except for rounding."""


def fingerprint(config: ml_collections.ConfigDict, variables: dict[str, Any]) -> str:
    """Return a digest, 32 hexadecimal digits, of everything that features depend on.

    Features depend on the weights, the running statistics, the settings of the network, the image
    size and the preprocessing. Fields at their defaults are left out, so a later version with more
    fields gives the same fingerprint.

    Args:
      config: the settings of the model.
      variables: `params` and `batch_stats`, as NumPy arrays.
    """
    names = [name for name in FIELDS if name.startswith("model.") and name not in _SAME_FEATURES]
    settings = {name: config.model[name.removeprefix("model.")] for name in names}
    changed = {name: value for name, value in settings.items() if value != FIELDS[name].default}
    facts = {
        "version": _VERSION,
        "image_size": list(config.data.image_size),
        "alpha": config.data.alpha,
        "normalisation": [*IMAGENET_MEAN, *IMAGENET_STD],
        "network": changed,
    }
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    by_name = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    for name in sorted(by_name):
        array = np.ascontiguousarray(by_name[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
