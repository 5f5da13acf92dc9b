"""What products of bfloat16 operands, a TPU's default for float32, would do to a run's figures.

    python benchmarks/rounded_products.py RUN

The operands are rounded here, and the products are summed in float32, as a TPU does by default. RUN
is the workdir of a trained network. The table shows its first test:

* exact: everything in float32;
* rounded network: inputs and kernels of convolutions and dense layers are rounded. Of the
  convolution of Bi(x) the kernel alone is;
* rounded scores: features are rounded before the evaluator multiplies them;
* both.

"other AP" is the share of queries whose average precision differs from the exact one, "other first"
the share whose first right image has another rank.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from batnet_jax import retrieval
from batnet_jax.data.run_data import open_run_data, open_store
from batnet_jax.evaluation.embed import embed_step, extract_features
from batnet_jax.evaluation.ranked_test import choose_same_camera
from batnet_jax.inference.restore import restore_network
from batnet_jax.inference.saved_settings import read_config
from batnet_jax.models.layers import Conv
from batnet_jax.workdir import checkpoints


def rounded(x: jax.Array) -> jax.Array:
    """Round to bfloat16, and keep the type."""
    return x.astype(jnp.bfloat16).astype(x.dtype)


def round_inputs(call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
    """Round the input of a convolution or dense layer; see `nn.intercept_methods`."""
    if isinstance(context.module, Conv | nn.Dense) and context.method_name == "__call__":
        args = (rounded(args[0]), *args[1:])
    return call(*args, **kwargs)


def rounded_embed_step(variables: dict[str, Any], images: jax.Array, *, model: Any) -> jax.Array:
    """Compute `embed_step` with rounded operands."""

    def round_kernel(path: tuple, leaf: jax.Array) -> jax.Array:
        return rounded(leaf) if path[-1].key == "kernel" else leaf

    params = jax.tree_util.tree_map_with_path(round_kernel, variables["params"])
    with nn.intercept_methods(round_inputs):
        return embed_step({**variables, "params": params}, images, model=model)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    workdir = parser.parse_args().run
    config = read_config(workdir)
    test = open_run_data(config).tests[0]
    step = checkpoints.latest_step(workdir)
    assert step is not None, f"{workdir} has no checkpoint"
    model, variables = restore_network(config, workdir, step)

    def measure(function: Any, dtypes: tuple[str, ...]) -> list[dict]:
        compute = jax.jit(partial(function, model=model))
        embed = lambda images: np.asarray(compute(variables, images))  # noqa: E731
        features = []
        for name, split in (("query", test.query), ("gallery", test.gallery)):
            with open_store(config, split) as store:
                features.append(extract_features(store, embed, batch=64, name=name))
        query, gallery = test.query, test.gallery
        return [
            retrieval.evaluate(
                *(features[0], query.pids, query.cameras),
                *(features[1], gallery.pids, gallery.cameras),
                ap=config.eval.ap,
                same_camera=choose_same_camera(config, test),
                dtype=dtype,
                per_query=True,
            )
            for dtype in dtypes
        ]

    both = ("float32", "bfloat16")
    results = [*measure(embed_step, both), *measure(rounded_embed_step, both)]
    names = ("exact", "rounded scores", "rounded network", "both")
    print("\n| | mAP | Rank-1 | other AP | other first |\n|---|---:|---:|---:|---:|")
    exact = results[0]["per_query"]
    for name, result in zip(names, results, strict=True):
        own = result["per_query"]
        others = [
            np.mean([a != b for a, b in zip(own[key], exact[key], strict=True)])
            for key in ("average_precision", "first_rank")
        ]
        shares = " | ".join(f"{100 * share:.0f} %" for share in others)
        print(f"| {name} | {result['mAP']:.4f} | {result['cmc']['1']:.4f} | {shares} |")


if __name__ == "__main__":
    main()
