"""A user's own images in Market's layout, see `market.py`."""

import tensorflow_datasets as tfds

from batnet_jax.data.builder import ReIDBuilder, SplitSource
from batnet_jax.data.market import FOLDERS, market_sources


class Folder(ReIDBuilder):
    """Images of one's own.

    The config's name is a fingerprint of the files, so that images that were added, removed or
    replaced since lead to a fresh copy; older copies stay until the user deletes them.
    """

    TITLE = "a data set of your own"
    WANTED = "/, ".join(FOLDERS.values()) + "/"

    @classmethod
    def choose_config(cls, variant: str, manual_dir: str) -> tfds.core.BuilderConfig:
        """A config named by the state of the files in `manual_dir`.

        Raises: UserError if there are none.
        """
        super().choose_config(variant, manual_dir)
        tree = cls.find(manual_dir, tuple(FOLDERS.values()))
        parts = (tree.below(folder).fingerprint() for folder in FOLDERS.values())
        return tfds.core.BuilderConfig(name="-".join(part[:8] for part in parts))

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        return market_sources(self.find(self.manual_path, tuple(FOLDERS.values())))
