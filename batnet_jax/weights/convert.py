"""Sources of weights: tensors by name, and their conversion to our variables and back."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from batnet_jax.weights.clip_names import IDENTITY
from batnet_jax.weights.names import (
    CLIP,
    FASTREID,
    NAMES,
    OSNET,
    OSNET_AIN,
    OSNET_IBN,
    Path,
    bilinear_order,
    is_bilinear,
)

WORKDIR = "batnet_jax workdir"  # a checkpoint of this package as a source
_OSNET_HEAD = re.compile(r"(fc|classifier)\..*")
HEADS: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys((OSNET, OSNET_IBN, OSNET_AIN), _OSNET_HEAD),
    FASTREID: re.compile(r"heads\..*"),
    CLIP: re.compile(r"(proj|neck)\..*"),
}
"""The canonical names of the tensors of a head that not every network for the weights has."""
HEAD_ATTRIBUTES = ("neck", "embedding_dim")
"""`BATNet`'s attributes that describe its heads."""


class Source(NamedTuple):
    """The tensors of a file or of a workdir, and their network.

    Attributes:
      label: the path, for messages.
      format: one of `names.FORMATS`, or `WORKDIR`.
      tensors: canonical name to the source's own name and the tensor.
      model: the attributes of `BATNet` that can be read off the tensors.
      identities: the classifiers' classes, as in a checkpoint's metadata; None if unknown.
      prefix: shared by the names of the tensors, after `module.`, and left out of the canonical
        names; "" = none.
      left_out: (the source's own name, the reason) of the tensors that are not in `tensors`.
    """

    label: str
    format: str
    tensors: Mapping[str, tuple[str, np.ndarray]]
    model: Mapping[str, Any]
    identities: list[list] | None = None
    prefix: str = ""
    left_out: Sequence[tuple[str, str]] = ()

    def name(self, path: Path) -> str | None:
        """Return a variable's canonical name; None if the format cannot hold the variable."""
        if self.format == WORKDIR:
            return "/".join(path)
        return NAMES[self.format](path)

    def shape(self, path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a variable's tensor in this format."""
        return shape if self.format == WORKDIR else torch_shape(shape)

    def convert(self, path: Path, tensor: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Return a tensor as our variable, float32, and the list of its conversions."""
        done = [] if tensor.dtype == np.float32 else [f"{tensor.dtype} to float32"]
        tensor = tensor.astype(np.float32)
        if self.format == WORKDIR:
            return tensor, done
        done += {4: ["oihw to hwio"], 2: ["transposed"]}.get(tensor.ndim, [])
        done += ["Bi() permuted"] if is_bilinear(path) else []
        return from_torch(path, tensor), done


def without_head(source: Source, why: str) -> Source:
    """Return a source without its head, whose tensors are left out for the reason `why`."""
    pattern = HEADS.get(source.format)
    head = {name for name in source.tensors if pattern and pattern.fullmatch(name)}
    named = sorted({source.tensors[name][0] for name in head} - {IDENTITY})
    return source._replace(
        tensors={name: tensor for name, tensor in source.tensors.items() if name not in head},
        model={name: value for name, value in source.model.items() if name not in HEAD_ATTRIBUTES},
        left_out=(*source.left_out, *((name, why) for name in named)),
    )


def flatten(variables: dict[str, Any]) -> dict[Path, np.ndarray]:
    """Return variables by path, as NumPy arrays."""
    leaves: dict[Path, Any] = flatten_dict(variables)  # type: ignore[assignment]
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return PyTorch's shape of a variable: [h, w, i, o] is [o, i, h, w], [i, o] is [o, i]."""
    if len(shape) == 4:
        return shape[3], shape[2], *shape[:2]
    return shape[::-1] if len(shape) == 2 else shape


def from_torch(path: Path, tensor: np.ndarray) -> np.ndarray:
    """Return a PyTorch tensor with its axes, and Bi()'s channels, in our order."""
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    if is_bilinear(path):
        tensor = tensor[:, :, bilinear_order(_count_channels(tensor.shape[2])), :]
    return np.ascontiguousarray(tensor)


def to_torch(path: Path, value: np.ndarray) -> np.ndarray:
    """Return a variable as a PyTorch tensor, the inverse of `from_torch`."""
    if is_bilinear(path):
        value = value[:, :, np.argsort(bilinear_order(_count_channels(value.shape[2]))), :]
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
        value = value.T
    return np.ascontiguousarray(value)


def _count_channels(pairs: int) -> int:
    """Return the number of channels c that have `pairs` = c (c + 1) / 2 pairs."""
    return (math.isqrt(8 * pairs + 1) - 1) // 2
