"""Many arrays as one, for what a step is called with.

A state has some 3,250 arrays, four fifths of them vectors: biases, and of each batch normalisation
scale, offset, mean and variance, with Adam's moments. A call takes some microseconds of the host
for each, and Adam a kernel for each, so that a fast accelerator waits for its host. So the training
loop's state has them end to end; what is elementwise, as Adam is, works on that. On the host, and
in checkpoints, all have their names.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class Packed:
    """A tree of arrays, some of them end to end.

    Attributes:
      joined: [n] those, in the tree's order.
      others: the other arrays.
      structure: the tree's.
      shapes: of those that are joined, in the places of all leaves; None where there is another.
    """

    joined: Any
    others: list[Any]
    structure: Any = struct.field(pytree_node=False)
    shapes: tuple[tuple[int, ...] | None, ...] = struct.field(pytree_node=False)


def pack(tree: Any, *, kernels: bool) -> Packed:
    """Arrays on the host to arrays on the host, or traced ones to traced ones.

    Args:
      tree: arrays, of one type as far as they are joined.
      kernels: all are joined, else vectors only.

    Raises: TypeError for several types.
    """
    return _join(tree, [kernels or leaf.ndim == 1 for leaf in jax.tree.leaves(tree)])


def pack_like(tree: Any, like: Any) -> Any:
    """The tree packed as the other is, which is of the same structure; or as it is."""
    if not isinstance(like, Packed):
        return tree
    return _join(tree, [shape is not None for shape in like.shapes])


def _join(tree: Any, which: list[bool]) -> Packed:
    leaves, structure = jax.tree.flatten(tree)
    numpy = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
    joined = [leaf.ravel() for leaf, one in zip(leaves, which, strict=True) if one]
    others = [leaf for leaf, one in zip(leaves, which, strict=True) if not one]
    shapes = tuple(leaf.shape if one else None for leaf, one in zip(leaves, which, strict=True))
    types = {leaf.dtype for leaf in joined}
    if len(types) > 1:
        raise TypeError(
            f"arrays of {len(types)} types do not go into one: {sorted(map(str, types))}"
        )
    together = numpy.concatenate(joined) if joined else numpy.zeros(0, np.float32)
    return Packed(together, others, structure, shapes)


def unpack(tree: Any) -> Any:
    """The tree that was packed; any other as it is."""
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
    """A state, each dict of arrays in it packed: parameters, statistics, Adam's moments.

    By default kernels too on a GPU, where Adam's update of one takes two or three launches;
    elsewhere vectors only, as what is joined is copied twice a step.
    """
    if kernels is None:
        kernels = jax.default_backend() == "gpu"
    return jax.tree.map(
        lambda node: pack(node, kernels=kernels) if isinstance(node, dict) else node,
        state,
        is_leaf=lambda node: isinstance(node, dict),
    )


def unpack_state(state: Any) -> Any:
    """The inverse of `pack_state`; a state that is not packed as it is."""
    return jax.tree.map(unpack, state, is_leaf=lambda node: isinstance(node, Packed))
