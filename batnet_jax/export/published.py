"""A network's weights as a state dict that the published PyTorch code loads."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from batnet_jax.errors import UserError
from batnet_jax.models import BATNet
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import published_name
from batnet_jax.weights.read_tensors import SAFETENSORS, import_torch

SUFFIXES = (".pth", ".pth.tar", SAFETENSORS)
# Of `BATNet`'s attributes, the only values that the published code has.
PUBLISHED = {"backbone": "published", "kernel": "bilinear", "neck": "none"}


def to_published(model: BATNet, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return a network's tensors under the published code's names.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.

    Raises: UserError if the published code has no such network.
    """
    for name, only in PUBLISHED.items():
        value = getattr(model, name)
        if value != only:
            raise UserError(
                f"{name}={value!r} has no published names, only {only!r} has: cannot export it"
            )
    return published_tensors(variables)


def published_tensors(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return variables under the published code's names, Bi()'s channels in its order.

    Importing the tensors gives the same variables, to the last bit. The published code has part
    predictors and does not use them. They are added with their initial values, so that the code
    can load the tensors without changes.

    Args:
      variables: `params` and `batch_stats`, of the published backbone.

    Raises: UserError if the published code has no such network.
    """
    tensors = {}
    for path, value in flatten(variables).items():
        name = published_name(path)
        if name is None:
            raise UserError(f"the published code has no '{'/'.join(path[1:-1])}': cannot export it")
        tensors[name] = to_torch(path, value)
    _check_attention(tensors)
    return tensors | _part_predictors(tensors)


def to_bytes(tensors: Mapping[str, np.ndarray], suffix: str) -> bytes:
    """Serialise a state dict for a file with one of `SUFFIXES`.

    Raises: UserError if PyTorch is needed and not installed.
    """
    if suffix == SAFETENSORS:
        return save(dict(tensors))
    torch = import_torch("writing .pth")
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, buffer)
    return buffer.getvalue()


def _check_attention(tensors: dict[str, np.ndarray]) -> None:
    """Check that a Bi-attention is the one with published names: at p2, with the kernel Bi().

    Raises: UserError for another one.
    """
    layer = "features.bilinearatt_global.dimReduceLayer{}.conv.conv.weight"
    if layer.format(1) not in tensors:
        return
    embedded, channels = tensors[layer.format(1)].shape[:2]
    pairs = tensors[layer.format(2)].shape[1]
    after = tensors["features.inception2.inception_4a.conv1.0.weight"].shape[1]
    if channels != after or pairs != embedded * (embedded + 1) // 2:
        raise UserError(
            "the published names have one Bi-attention, at p2, of the bilinear kernel, and this "
            "network has another: cannot export it"
        )


def _part_predictors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the published code's part predictors as it initialises them.

    Their weights are 0, and their biases the centres of T stripes.
    """
    parts = sum(".".join(n.split(".")[3:]) == "inception_4a.conv1.0.bias" for n in tensors)
    if not parts:
        return {}
    inputs = (
        tensors["features.inception2.inception_4a.conv1.0.weight"].shape[1],
        tensors["features.inception3.inception_5a.conv1.0.weight"].shape[1],
        tensors["features.norm1_1.weight"].shape[0],
    )
    centres = (2 * np.arange(parts) + 1) / parts - 1
    bias = np.concatenate([np.zeros(parts), centres]).astype(np.float32)
    predictors = {}
    for number, channels in enumerate(inputs, 1):
        name = f"features.part_predictor{number}.fc"
        predictors[f"{name}.weight"] = np.zeros((2 * parts, channels), np.float32)
        predictors[f"{name}.bias"] = bias.copy()
    return predictors
