"""TODO."""

from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax.errors import UserError
from batnet_jax.runtime.atomic_write import atomic_path
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.names import published_name
from batnet_jax.weights.read_tensors import SAFETENSORS, import_torch

EXPORTS = (".pth", ".pth.tar", SAFETENSORS)


def export_published(
    config: ml_collections.ConfigDict, variables: dict[str, Any], output: Path
) -> None:
    """Writes a trained network under the published code's names.

    Args:
      config: its `model` section describes the network.
      variables: `params` and `batch_stats`.
      output: a .pth, .pth.tar (a plain state dict) or .safetensors file.

    Raises: UserError if the published code has no such network, or the file cannot be written.
    """
    for name, wanted in (("backbone", "published"), ("kernel", "bilinear"), ("neck", "none")):
        own = config.model.get(name, wanted)
        if own != wanted:
            raise UserError(
                f"config.model.{name}={own!r} has no published names, only {wanted!r} has: "
                "cannot export it"
            )
    count = export_torch(variables, output)
    if config.model.num_parts and config.model.part_sampling != "published":
        print(
            "note: this was trained with model.part_sampling=paper; the published code, and "
            "--mode=import, resize the parts in another way, so their features will differ"
        )
    print(f"written: {output}, {count} tensors under the published code's names")


def export_torch(variables: dict[str, Any], path: Path) -> int:
    """Writes variables under the published code's names, Bi()'s channels in its order.

    Importing the file gives the same variables, to the last bit. The part predictors, which the
    published code has and does not use, are written at their initial values, so that it can load
    the file as it is.

    Args:
      variables: `params` and `batch_stats`, of the published backbone.
      path: a .pth, .pth.tar or .safetensors file.
    Returns: how many tensors.

    Raises: UserError if the suffix is another, if the published code has no such network, or if
      the file cannot be written.
    """
    if not path.name.endswith(EXPORTS):
        raise UserError(f"--output={path} does not end in one of {', '.join(EXPORTS)}: choose one")
    tensors = {}
    for key, value in flatten(variables).items():
        name = published_name(key)
        if name is None:
            raise UserError(f"the published code has no '{'/'.join(key[1:-1])}': cannot export it")
        tensors[name] = to_torch(key, value)
    _check_attention(tensors)
    tensors |= _part_predictors(tensors)
    try:
        with atomic_path(path) as temporary:
            if path.suffix == SAFETENSORS:
                from safetensors.numpy import save_file

                save_file(tensors, temporary)
            else:
                torch = import_torch("writing .pth")
                torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, temporary)
    except OSError as error:
        raise UserError(f"cannot write --output={path} ({error.strerror})") from error
    return len(tensors)


def _check_attention(tensors: dict[str, np.ndarray]) -> None:
    """The published names have one Bi-attention, at p2, with Bi() for its kernel.

    Raises: UserError if this is another.
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
    """The published code's part predictors as it makes them: centres of T stripes; no weights."""
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
