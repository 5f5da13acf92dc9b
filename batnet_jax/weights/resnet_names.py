"""The names of ResNet-50's modules: torchvision's, IBN-Net's and FastReID's, and FastReID's checks.

FastReID (He et al., "FastReID: A Pytorch Toolbox for General Instance Re-identification", ACM MM
2023) keeps the backbone under `backbone.`, the head under `heads.`, and the mean and the deviation
of pixels, by which its network prepares images, as tensors.
"""

from collections.abc import Mapping

import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD

BACKBONE, HEAD = "backbone.", "heads."
_LAYERS = {"conv": "0", "bn": "1"}
_HALVES = {"instance": "IN", "batch": "BN"}
_NON_LOCAL = {"theta": "theta", "phi": "phi", "g": "g", "out": "W.0", "zero_bn": "W.1"}
_HEAD = {"neck": "bottleneck.0", "pool": "pool_layer", "classifier": ""}
OLD_NAMES = {"heads.classifier.weight": "heads.weight"}
"""Names of older versions of FastReID."""
SHIFT = "heads.bottleneck.0.bias"
SAME = 1e-3
"""The largest difference of a mean or a deviation of pixels, in units of 1/255."""


def resnet_module(module: tuple[str, ...]) -> str | None:
    """Return the name of a module of the backbone; None if it is not of the backbone.

    Args:
      module: a variable's path without its kind and its leaf, as in ("blk2", "unit0", "conv1",
        "bn").
    """
    match module:
        case "blk1", "conv1", layer:
            return f"{layer}1"
        case ("blk1" | "blk2" | "blk3" | "blk4") as block, unit, *layers:
            number = block.removeprefix("blk")
            if unit.startswith("non_local"):
                return f"NL_{number}.{unit.removeprefix('non_local')}.{_NON_LOCAL[layers[0]]}"
            return f"layer{number}.{unit.removeprefix('unit')}.{_bottleneck_module(*layers)}"
    return None


def _bottleneck_module(conv: str, layer: str = "conv") -> str:
    """Return the name of a module within a bottleneck."""
    if conv == "downsample":
        return f"downsample.{_LAYERS[layer]}"
    if conv == "norm1":
        return f"bn1.{_HALVES[layer]}"
    return f"{layer}{conv.removeprefix('conv')}"


def fastreid_module(module: tuple[str, ...]) -> str | None:
    """Return the name of a module in FastReID; None if FastReID does not have it."""
    if name := resnet_module(module):
        return f"{BACKBONE}{name}"
    match module:
        case "appearance_head", layer if layer in _HEAD:
            return f"{HEAD}{_HEAD[layer]}".rstrip(".")
    return None


def fastreid_backbone(names: Mapping[str, object]) -> str:
    """Return the backbone of FastReID that has these names."""
    ibn = "_ibn" if f"{BACKBONE}layer1.0.bn1.IN.weight" in names else ""
    non_local = "_nl" if f"{BACKBONE}NL_2.0.g.weight" in names else ""
    return f"fastreid_r50{ibn}{non_local}"


def check_fastreid(path: object, tensors: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Check the tensors of FastReID that no network of ours has, but that change features.

    Args:
      path: of the file, for messages.
      tensors: canonical name to the file's own name and the tensor.

    Raises: UserError if the shift of the neck is not 0, or if pixels are prepared in another way
      than by ImageNet's mean and deviation.
    """
    wanted = {SHIFT: 0.0}
    for name, values in (("pixel_mean", IMAGENET_MEAN), ("pixel_std", IMAGENET_STD)):
        wanted[name] = 255 * np.array(values)  # type: ignore[assignment]
    for name, values in wanted.items():
        if name not in tensors:
            continue
        own, tensor = tensors[name]
        found = tensor.astype(np.float64).ravel()
        same = np.size(values) in (1, found.size)
        if not (same and np.all(np.abs(found - values) <= SAME)):
            told = "0" if name == SHIFT else ", ".join(f"{v:.3f}" for v in np.atleast_1d(values))
            raise UserError(
                f"'{path}' has a tensor {own} that is not {told}, which our network takes: train "
                "from its backbone alone, with the prefix 'backbone'"
            )
