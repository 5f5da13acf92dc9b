"""A config file for `--config=saved_config.py:WORKDIR`: the settings that a workdir has saved.

In place of the workdir a file of weights may stand.
"""

import ml_collections

from batnet_jax.inference.saved_settings import read_config
from batnet_jax.workdir import gcs


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Return the settings of a run, from its last checkpoint.

    Raises: UserError if the workdir holds no settings.
    """
    return read_config(gcs.path_of(workdir))
