"""Loads a file of weights as a trained model: settings that its tensors show, and its variables.

A file does not contain the image size, the normalisation of pixels or the training images. The
settings are those of the programs that publish such files, and a warning names them.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from batnet_jax.config import default_config
from batnet_jax.errors import UserError, printable
from batnet_jax.models import vit
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.preprocess import IMAGENET
from batnet_jax.validation import validate
from batnet_jax.weights.convert import Source
from batnet_jax.weights.fill import REMADE, fill
from batnet_jax.weights.names import BATNET, CLIP, FASTREID, VIT
from batnet_jax.weights.sources import OtherNetworkError, check_agrees, open_source
from batnet_jax.weights.vit_names import POSITIONS

POOLED = {"neck": "bnneck", "embedding_dim": 0}
"""The head for weights without one: an untrained neck returns the pooled map."""

TALL_SIZE = (384, 128)
"""The images of FastReID's stronger baselines, which have GeM, and of transformers whose positions
fit so many patches; others have 256 x 128."""
TALL_GRIDS = ((24, 8), (31, 10))
"""The patches of such an image, at the strides 16 and 12."""


class GivenModel(NamedTuple):
    """A network and its variables, from a file of weights.

    Attributes:
      network: a `BATNet`.
      variables: `params` and `batch_stats`, NumPy float32.
    """

    network: Any
    variables: dict[str, Any]


def given_config(path: Path) -> ml_collections.ConfigDict:
    """Return the settings of a file of weights: its network, and an image size.

    Args:
      path: a .pth, .pth.tar or .safetensors file.

    Raises: UserError if the file cannot be read, or its network is unknown.
    """
    config = default_config()
    source = open_source(config, path)
    if source.format != BATNET:
        config.model.update({"attention": "none", "num_parts": 0, "dropout": 0.0, **POOLED})
    config.model.update(source.model)
    if _is_tall(source):
        config.data.image_size = TALL_SIZE
    validate(config)
    return config


def _is_tall(source: Source) -> bool:
    """Return whether a file is likely to have been trained on images of `TALL_SIZE`."""
    if source.format in (VIT, CLIP) and POSITIONS in source.tensors:
        return source.tensors[POSITIONS][1].shape[:2] in TALL_GRIDS
    return source.format == FASTREID and source.model.get("neck") == "bnneck_gem"


def load_given(config: ml_collections.ConfigDict, path: Path) -> GivenModel:
    """Load a file of weights as a trained model; warn of the settings that it does not contain.

    Args:
      config: validated; see `given_config`. The image size may be another.
      path: the file.

    Raises: UserError if the file is of another network than the config's, or has no values for a
      part of the config's network.
    """
    source = open_source(config, path)
    try:
        check_agrees(source, config.model, whole=True)
    except OtherNetworkError as error:
        raise UserError(
            f"{error}: leave the network to the file, and change other settings"
        ) from error
    network = make_model(config, 1)
    fresh = draw_variables(network, tuple(config.data.image_size), config.seed)
    variables, report = fill(fresh, source, keep_classifiers=False)
    untrained = {name.split("/")[1] for name, why in report.initial if why != REMADE}
    headless = _is_headless(source, config)
    if others := sorted(untrained - ({"appearance_head"} if headless else set())):
        raise UserError(
            f"'{path}', {source.format}, has no values for {', '.join(others)} of the network: "
            "train it from these weights, or leave the part out"
        )
    print(printable(f"warning: {describe_unknown(source, config)}"), file=sys.stderr)
    return GivenModel(network, variables)


def describe_unknown(source: Source, config: ml_collections.ConfigDict) -> str:
    """Return a line about the settings that a file does not contain, and the values taken."""
    height, width = config.data.image_size
    backbone = vit.BACKBONES.get(config.model.backbone)
    pixels = backbone.pixels if backbone else IMAGENET
    line = (
        f"'{source.label}', {source.format}, does not say which images it was trained on, nor how "
        f"they were prepared: images of {height} x {width} and {pixels} are assumed, unless you "
        "give another image size"
    )
    if _is_headless(source, config):
        taken = "the mean of the last map"
        if backbone and not backbone.mean:
            taken = "the class token"
        line += (
            f"; it has no head: features are {taken}, which may separate ImageNet's classes better "
            "than people"
        )
    return line


def _is_headless(source: Source, config: ml_collections.ConfigDict) -> bool:
    """Return whether features are the pooled map of weights without a head."""
    pooled = all(config.model[name] == value for name, value in POOLED.items())
    return pooled and "neck" not in source.model
