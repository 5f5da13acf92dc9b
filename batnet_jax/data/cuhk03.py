"""CUHK03 (Li et al., CVPR 2014), new protocol (Zhong et al., CVPR 2017), from its folders of PNGs.

The release CUHK03-NP holds `labeled` (boxes drawn by hand) and `detected`, each in Market's layout
with names like Market's (`0001_c1_12.png`); the camera is the view, 1 or 2, of a pair of cameras.
"""

import tensorflow_datasets as tfds

from batnet_jax.data.builder import ReIDBuilder, SplitSource
from batnet_jax.data.market import FOLDERS, market_sources


class Cuhk03(ReIDBuilder):
    """CUHK03-NP: 767 people to train on, query 1,400 images of 700 people.

    Labeled: 7,368 training and 5,328 gallery images; detected: 7,365 and 5,332.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 - as TFDS wants it
        tfds.core.BuilderConfig(name="labeled", description="boxes drawn by hand"),
        tfds.core.BuilderConfig(name="detected", description="boxes of a pedestrian detector"),
    ]
    TITLE = "CUHK03-NP"
    WANTED = "cuhk03-np/ with labeled/ and detected/ (cuhk-03.mat is not read)"

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        markers = tuple(f"{self.variant}/{folder}" for folder in FOLDERS.values())
        return market_sources(self.find(self.manual_path, markers, "cuhk").below(self.variant))
