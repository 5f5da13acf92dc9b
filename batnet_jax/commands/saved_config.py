"""A config file for `--config=saved_config.py:WORKDIR`: the settings that a workdir has saved.

A file of weights can take the place of the workdir.
"""

import ml_collections

from batnet_jax.inference.saved_settings import read_config
from batnet_jax.workdir import gcs


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Return the settings of a run, from its last checkpoint.

    Raises: UserError if the workdir holds no settings.
    """
    return read_config(gcs.path_of(workdir))
