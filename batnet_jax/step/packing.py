"""Packing: many arrays of a training state concatenated to one, so that a step starts faster.

A state has about 3,250 arrays. Four fifths of them are vectors: biases, the scale, offset, mean and
variance of batch normalisations, and Adam's moments of all these. Each array costs the host some
microseconds in each call, and Adam launches a kernel for each, so a fast accelerator would wait for
its host. The training loop therefore packs its state. Elementwise functions such as Adam work on
the packed arrays. On the host and in checkpoints the state is unpacked.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class Packed:
    """A tree of arrays, some of them concatenated.

    Attributes:
      joined: [n], the concatenated arrays in the tree's order.
      others: the other arrays.
      structure: of the tree.
      shapes: for each leaf the shape of a concatenated array; None for another array.
    """

    joined: Any
    others: list[Any]
    structure: Any = struct.field(pytree_node=False)
    shapes: tuple[tuple[int, ...] | None, ...] = struct.field(pytree_node=False)


def pack(tree: Any, *, kernels: bool) -> Packed:
    """Pack a tree of NumPy arrays to NumPy arrays, or of JAX arrays to JAX arrays.

    Args:
      tree: arrays; the concatenated ones have one type.
      kernels: concatenate all arrays, otherwise only vectors.

    Raises: TypeError if the concatenated arrays have several types.
    """
    return _join(tree, [kernels or leaf.ndim == 1 for leaf in jax.tree.leaves(tree)])


def pack_like(tree: Any, like: Any) -> Any:
    """Pack a tree in the way of `like`, which has the same structure and may be unpacked."""
    if not isinstance(like, Packed):
        return tree
    return _join(tree, [shape is not None for shape in like.shapes])


def _join(tree: Any, which: list[bool]) -> Packed:
    """Concatenate the leaves marked in `which`."""
    leaves, structure = jax.tree.flatten(tree)
    numpy = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
    joined = [leaf.ravel() for leaf, one in zip(leaves, which, strict=True) if one]
    others = [leaf for leaf, one in zip(leaves, which, strict=True) if not one]
    shapes = tuple(leaf.shape if one else None for leaf, one in zip(leaves, which, strict=True))
    types = {leaf.dtype for leaf in joined}
    if len(types) > 1:
        raise TypeError(
            f"arrays of {len(types)} types cannot be concatenated: {sorted(map(str, types))}"
        )
    together = numpy.concatenate(joined) if joined else numpy.zeros(0, np.float32)
    return Packed(together, others, structure, shapes)


def unpack(tree: Any) -> Any:
    """Unpack a tree; return a tree that is not packed unchanged."""
    if not isinstance(tree, Packed):
        return tree
    leaves, others, start = [], iter(tree.others), 0
    for shape in tree.shapes:
        if shape is not None:
            end = start + math.prod(shape)
            leaves.append(tree.joined[start:end].reshape(shape))
            start = end
        else:
            leaves.append(next(others))
    return jax.tree.unflatten(tree.structure, leaves)


def pack_state(state: Any, *, kernels: bool | None = None) -> Any:
    """Pack each dict of arrays in a state: parameters, statistics, Adam's moments.

    Args:
      state: a TrainState, or a part of one.
      kernels: pack kernels besides vectors. By default only on a GPU, where Adam's update of each
        kernel takes two or three launches. Elsewhere the cost prevails: packed arrays are copied
        twice a step.
    """
    if kernels is None:
        kernels = jax.default_backend() == "gpu"
    return jax.tree.map(
        lambda node: pack(node, kernels=kernels) if isinstance(node, dict) else node,
        state,
        is_leaf=lambda node: isinstance(node, dict),
    )


def unpack_state(state: Any) -> Any:
    """Unpack a state; return a state that is not packed unchanged."""
    return jax.tree.map(unpack, state, is_leaf=lambda node: isinstance(node, Packed))
