"""The memory of a training step, estimated without compiling the step."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from batnet_jax.models.init_variables import variable_shapes
from batnet_jax.step.train_step import Recipe


class StepMemory(NamedTuple):
    """The memory of a training step on a device, in bytes."""

    parameters: int
    """The number of parameters."""
    state: int
    """The parameters, the statistics, and Adam's moments."""
    activations: int
    """The arrays that the gradient of a batch needs, and the gradient. The compiled step frees and
    shares some of them: it takes a third less for the demo, and up to half less for the paper's
    network on a CPU."""


def estimate_memory(recipe: Recipe, image_size: tuple[int, int], images: int) -> StepMemory:
    """Estimate the memory of a training step from the shapes of its arrays.

    Args:
      recipe: of the step.
      image_size: (height, width) in pixels.
      images: of a device's batch.
    """
    model: Any = recipe.model.clone(axis_name=None)
    variables = variable_shapes(model, image_size)
    batch = jax.ShapeDtypeStruct((images // recipe.accumulate, *image_size, 3), jnp.float32)

    def kept(params: Any, batch_stats: Any, rows: jax.Array) -> Any:
        """Return the arrays that the forward pass keeps for the gradient."""

        def forward(params: Any) -> Any:
            outputs, _ = model.apply(
                {"params": params, "batch_stats": batch_stats},
                rows,
                train=True,
                rngs={"dropout": jax.random.key(0)},
                mutable=["batch_stats"],
            )
            return {kind: outputs[kind] for kind in ("features", "scores")}

        return jax.vjp(forward, params)[1]

    residuals = jax.eval_shape(kept, variables["params"], variables["batch_stats"], batch)
    moments = jax.eval_shape(recipe.tx.init, variables["params"])
    # The residuals contain the parameters; the gradients take as much.
    return StepMemory(
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])),
        state=_bytes(variables) * (2 if recipe.ema_decay else 1) + _bytes(moments),
        activations=_bytes(residuals),
    )


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
