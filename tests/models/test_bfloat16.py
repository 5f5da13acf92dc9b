"""The types inside a network of dtype bfloat16: bfloat16 before Blk4, float32 after it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import apply, shapes_of
from support.variants import few

from batnet_jax.models import BATNet
from batnet_jax.models.init_variables import draw_variables


@pytest.mark.usefixtures("short_backbone")
def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    images = np.random.default_rng(0).normal(size=(8, 64, 32, 3)).astype(np.float32)
    options = {"num_parts": 1, "width": 1 / 4, "embedding_dim": 32, "dropout": 0.0}
    half, full = (BATNet(5, **options, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
    variables = draw_variables(half, (64, 32), seed=0)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    shapes = shapes_of(half, images.shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}

    outputs, stats = apply(half, variables, images, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in outputs["attention"]["p2"].values()} == {jnp.dtype("bfloat16")}
    expected, _ = apply(full, variables, images, train=True)
    for stream in ("appearance", "part"):
        for kind in ("features", "scores"):
            got, reference = outputs[kind][stream], expected[kind][stream]
            assert got.dtype == np.float32
            # 8 bits of mantissa through some 10 layers: a few per cent of the typical size.
            assert jnp.sqrt(jnp.mean((got - reference) ** 2)) < 0.1 * jnp.std(reference)

    def loss(params):
        outputs, _ = half.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return outputs["scores"]["part"].sum()

    gradients = jax.eval_shape(jax.grad(loss), variables["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {np.dtype("float32")}


@pytest.mark.parametrize("backbone", few(["published", "resnet50"], keep=[1]))
def test_from_blk4_on_bfloat16_hands_on_float32(backbone):
    model = BATNet(5, backbone=backbone, num_parts=1, width=1 / 4, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    run = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    _, updates = jax.eval_shape(run, shapes_of(model, images.shape), images)
    captured = updates["intermediates"]
    del captured["__call__"], captured["part_streams"]["__call__"]  # not layers
    convolutions, before, after = set(), set(), set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(captured):
        *blocks, layer, _ = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if layer == "conv":
            convolutions |= {leaf.dtype} if leaf.ndim == 4 else set()  # not its bias
        elif layer == "MaxPool_0":  # has the type of its input
            continue
        elif any(name.endswith(("blk4", "_head")) for name in [*blocks, layer]):
            after.add(leaf.dtype)
        else:
            before.add(leaf.dtype)
    bfloat16, float32 = np.dtype(jnp.bfloat16), np.dtype(np.float32)
    assert (convolutions, before, after) == ({bfloat16}, {bfloat16}, {float32})


@pytest.mark.parametrize(
    ("backbone", "position", "neck"),
    few(
        [("published", "p2", "none"), ("published", "p3,p4", "none"), ("resnet50", "p4", "bnneck")],
        keep=[0],
    ),
)
def test_gradients_and_features_are_float32(backbone, position, neck):
    options = {"backbone": backbone, "position": position, "neck": neck, "reduction": 16}
    model = BATNet(5, **options, num_parts=1, width=1 / 8, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)

    def loss(params, batch_stats, images):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        figures = {kind: outputs[kind] for kind in ("features", "scores")}
        return sum(leaf.sum() for leaf in jax.tree.leaves(figures)), (figures, updates)

    variables = shapes_of(model, images.shape)
    made = jax.eval_shape(
        jax.grad(loss, has_aux=True), variables["params"], variables["batch_stats"], images
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {np.dtype(np.float32)}
