"""Blocks compared with the oracle, counts, shapes, wiring; test_parity.py has whole networks.

Comparisons run in float64, where only the order of sums differs: 1e-10 through a block.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import network_oracle
from support.fast_jit import jit
from support.networks import apply, shapes_of
from support.variants import few

from batnet_jax.errors import UserError
from batnet_jax.models import BATNet, BiAttention, googlenet
from batnet_jax.models.bi_attention import bilinear
from batnet_jax.models.heads import Head
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.layers import ConvBN
from batnet_jax.models.part_streams import PartStreams, part_sampling_matrix

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)


# Counts and shapes; nothing is computed.

VARIANTS = [
    ({}, 37_237_296),  # measured on the published PyTorch network
    ({"attention": "plain"}, 33_751_056),
    ({"attention": "none"}, 30_206_856),
    ({"num_parts": 0}, 13_631_726),
    ({"num_parts": 0, "attention": "none"}, 6_601_286),
    ({"reduction": 8}, 31_995_516),
    ({"position": "p1"}, 30_668_952),
    ({"position": "p3"}, 66_554_232),
    ({"position": "p4"}, 97_846_920),
    ({"width": 0.25}, 2_567_637),
]


@pytest.mark.parametrize(("variant", "expected"), few(VARIANTS, keep=[0, 3, 4, 8]), ids=str)
def test_parameter_counts(variant, expected):
    params = shapes_of(BATNet(50, **variant), (2, 256, 128, 3))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
    paper = {"attention": "aia", "position": "p2", "reduction": 4, "num_parts": 4, "width": 1}
    by_hand = network_oracle.count_parameters(identities=50, embedding=512, **(paper | variant))
    assert by_hand == expected


def test_the_embedding_keeps_a_channel_when_r_exceeds_the_channels():
    params = shapes_of(BiAttention(reduction=16), (2, 4, 4, 8))["params"]
    assert params["embed"]["conv"]["kernel"].shape == (1, 1, 8, 1)


def test_shapes_at_every_position():
    model = BATNet(50)
    variables = shapes_of(model, (2, 256, 128, 3))
    images = jax.ShapeDtypeStruct((2, 256, 128, 3), jnp.float32)
    run = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    outputs, updates = jax.eval_shape(run, variables, images)
    captured = updates["intermediates"]

    def shape(*path):
        node = captured
        for name in path:
            node = node[name]
        (out,) = node["__call__"]
        return out.shape

    assert shape("blk1") == (2, 32, 16, 192)
    assert shape("blk2") == (2, 16, 8, 480)
    assert shape("blk3") == (2, 8, 4, 832)
    assert shape("blk4") == (2, 8, 4, 1024)
    assert shape("part_streams") == (2, 8, 4, 4096)
    inceptions = {
        name: shape(block, name)[-1]
        for block in ("blk2", "blk3", "blk4")
        for name in captured[block]
        if name.startswith("inception")
    }
    assert inceptions == {
        "inception_3a": 256, "inception_3b": 480, "inception_4a": 508, "inception_4b": 512,
        "inception_4c": 512, "inception_4d": 528, "inception_4e": 832, "inception_5a": 832,
        "inception_5b": 1024,
    }  # fmt: skip
    for stream in ("appearance", "part"):
        assert outputs["features"][stream].shape == (2, 512)
        assert outputs["scores"][stream].shape == (2, 50)
    for name in ("input", "mask", "output"):
        assert outputs["attention"]["p2"][name].shape == (2, 16, 8, 480)


@pytest.mark.usefixtures("short_backbone")
def test_without_parts_the_appearance_extractor_stands_alone():
    model = BATNet(50, num_parts=0, width=1 / 16)
    variables = shapes_of(model, (2, 64, 32, 3))
    images = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    outputs = jax.eval_shape(model.apply, variables, images)
    assert set(outputs["features"]) == set(outputs["scores"]) == {"appearance"}
    assert not [name for name in variables["params"] if "part" in name]


@pytest.mark.usefixtures("short_backbone")
def test_without_attention_there_is_none():
    model = BATNet(50, attention="none", width=1 / 16)
    variables = shapes_of(model, (2, 64, 32, 3))
    images = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    assert jax.eval_shape(model.apply, variables, images)["attention"] == {}
    assert "bi_attention" not in variables["params"]


# The Bi-attention alone, as in another network.


def test_bilinear_by_hand():
    got = bilinear(jnp.array([2.0, 3.0, 5.0]))
    np.testing.assert_array_equal(got, [4, 6, 10, 9, 15, 25])


def test_bilinear_is_the_upper_triangle_row_by_row():
    x = np.random.default_rng(0).integers(-9, 10, (2, 3, 2, 7)).astype(np.float32)
    np.testing.assert_array_equal(bilinear(x), network_oracle.bilinear(x))  # small integers: exact


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("aia", [True, False], ids=["aia", "plain"])
def test_bi_attention_equals_the_oracle(aia, train):
    x = np.random.default_rng(0).normal(size=(5, 4, 3, 12))  # signed, unlike our maps
    block = BiAttention(reduction=3, attention_in_attention=aia, dtype=jnp.float64)
    variables = network_oracle.random_values(shapes_of(block, x.shape, jnp.float64), 1)
    params, stats = variables["params"], variables["batch_stats"]
    assert ("global" in params) == aia
    got, new_stats = apply(block, variables, x, train=train)
    expected, mask, expected_stats = network_oracle.bi_attention(x, params, stats, train, aia)
    close(got, expected)
    jax.tree.map(close, new_stats, expected_stats)
    got_mask = block.apply(variables, x, train=False, method="mask")
    assert got_mask.min() >= 0.5
    assert got_mask.max() <= 1
    if not train:
        close(got_mask, mask)


# The backbone and the part streams.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("train", [True, False])
def test_inception_equals_the_oracle(train):
    x = np.abs(np.random.default_rng(0).normal(size=(3, 5, 4, 6)))
    module = googlenet.Inception(googlenet.InceptionWidths(3, 2, 5, 4, 2, 3), dtype=jnp.float64)
    variables = network_oracle.random_values(shapes_of(module, x.shape, jnp.float64), 1)
    got, stats = apply(module, variables, x, train=train)
    expected, new = network_oracle.inception(
        x, variables["params"], variables["batch_stats"], train
    )
    assert got.shape == (3, 5, 4, 3 + 5 + 2 + 3)
    close(got, expected)
    jax.tree.map(close, stats, new)


@pytest.mark.parametrize("sampling", ["paper", "published"])
@pytest.mark.parametrize("num_parts", [1, 2, 3, 4])
@pytest.mark.parametrize("height", [12, 24])
def test_part_sampling_equals_the_oracle(sampling, num_parts, height):
    x = np.random.default_rng(0).normal(size=(2, height, 3, 2))
    matrix = part_sampling_matrix(num_parts, height, sampling)
    assert matrix.shape == (num_parts, height, height)
    close(matrix.sum(2), np.ones((num_parts, height)))
    for t in range(num_parts):
        expected = network_oracle.SAMPLERS[sampling](x, t, num_parts)
        close(np.einsum("ij,bjwc->biwc", matrix[t], x), expected)


def test_part_sampling_by_hand():
    # 4 rows, 2 parts. Half-pixel: positions -1/4, 1/4, 3/4, 5/4 of a crop of 2 rows, clamped.
    paper = part_sampling_matrix(2, 4, "paper")
    half = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(paper[0], np.hstack([half, np.zeros((4, 2))]), atol=1e-15)
    np.testing.assert_allclose(paper[1], np.hstack([np.zeros((4, 2)), half]), atol=1e-15)
    # Corners aligned: part 0 spans the rows 0 to 1.5, beyond its own rows 0 and 1.
    published = part_sampling_matrix(2, 4, "published")
    np.testing.assert_allclose(published @ np.arange(4), [[0, 0.5, 1, 1.5], [1.5, 2, 2.5, 3]])


def test_part_sampling_keeps_to_the_region_in_the_paper_only():
    assert not part_sampling_matrix(4, 16, "paper")[0, :, 4:].any()
    assert part_sampling_matrix(4, 16, "published")[1, :, :4].any()


@pytest.mark.parametrize("sampling", ["paper", "published"])
def test_one_part_is_the_map_itself(sampling):
    close(part_sampling_matrix(1, 8, sampling)[0], np.eye(8))


def test_parts_must_divide_the_height():
    with pytest.raises(UserError, match=r"^model\.num_parts=3 does not divide the 16 rows"):
        part_sampling_matrix(3, 16, "paper")


@pytest.mark.usefixtures("float64", "short_backbone")
def test_streams_share_no_weights():
    x = np.abs(np.random.default_rng(0).normal(size=(2, 4, 2, 6)))
    module = PartStreams(2, width=1 / 16, dtype=jnp.float64)
    variables = network_oracle.random_values(shapes_of(module, x.shape, jnp.float64), 1)
    params = variables["params"]
    assert set(params) == {"stream0_blk3", "stream1_blk3"}
    run = jit(partial(module.apply, train=False))
    before = run(variables, x)
    channels = before.shape[-1] // 2
    other = jax.tree.map(lambda a: a + 0.1, params["stream1_blk3"])
    after = run({**variables, "params": params | {"stream1_blk3": other}}, x)
    np.testing.assert_array_equal(after[..., :channels], before[..., :channels])
    assert (after[..., channels:] != before[..., channels:]).any()
    # Stream 0 sees the upper half only.
    x[:, 2:] = 7
    lower = run(variables, x)
    np.testing.assert_array_equal(lower[..., :channels], before[..., :channels])
    assert (lower[..., channels:] != before[..., channels:]).any()


# Whole networks.


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize("position", few(["p1", "p2", "p3", "p4"], keep=[1, 2]))
def test_the_part_streams_see_the_attention_at_p1_and_p2_only(position):
    model = BATNet(5, position=position, num_parts=1, width=1 / 16, embedding_dim=8)
    variables = network_oracle.random_values(shapes_of(model, (2, 64, 32, 3)), 1)
    images = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    run = jit(partial(model.apply, train=False))
    before = run(variables, images)
    moved = jax.tree.map(lambda a: a + 0.5, variables["params"]["bi_attention"])
    after = run({**variables, "params": variables["params"] | {"bi_attention": moved}}, images)
    attention = after["attention"][position]
    np.testing.assert_allclose(
        attention["output"], attention["input"] * attention["mask"], rtol=1e-6
    )
    changed = {
        stream: bool((after["features"][stream] != before["features"][stream]).any())
        for stream in ("appearance", "part")
    }
    assert changed == {"appearance": True, "part": position in ("p1", "p2")}


@pytest.mark.usefixtures("short_backbone")
def test_dropout_acts_in_training_only():
    images = np.random.default_rng(0).normal(size=(4, 64, 32, 3)).astype(np.float32)
    model = BATNet(5, num_parts=0, attention="none", width=1 / 16, embedding_dim=8, dropout=0.5)
    variables = draw_variables(model, (64, 32), seed=0)

    def scores(key, train):
        rngs = {"dropout": jax.random.key(key)}
        run = partial(model.apply, train=train, rngs=rngs, mutable=["batch_stats"])
        return run(variables, images)[0]["scores"]["appearance"]

    training = jit(partial(scores, train=True))
    np.testing.assert_array_equal(training(1), training(1))
    assert (training(1) != training(2)).any()
    evaluating = jit(partial(scores, train=False))
    np.testing.assert_array_equal(evaluating(1), evaluating(2))


# Initial values.


@pytest.mark.usefixtures("short_backbone")
def test_initial_values_depend_on_the_seed_and_the_path_only():
    model = BATNet(7, width=1 / 8, num_parts=2)
    first, again, other = (draw_variables(model, (64, 32), seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert jax.tree.structure(first) == jax.tree.structure(shapes_of(model, (2, 64, 32, 3)))
    kernels = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(first["params"])
        if path[-1].key == "kernel"
    }
    others = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(other["params"])
    }
    assert all((leaf != others[path]).all() for path, leaf in kernels.items())
    values = [leaf.ravel()[0] for leaf in kernels.values()]
    assert len(set(values)) == len(values)  # no two layers or streams start with equal values
    without = draw_variables(BATNet(7, width=1 / 8, num_parts=0), (64, 32), 3)["params"]
    jax.tree.map(np.testing.assert_array_equal, without["blk3"], first["params"]["blk3"])


def standardised(tree, gains):
    """Return all kernels divided by their standard deviation, by rank; check the constants."""
    values = {4: [], 2: []}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = path[-1].key
        if name == "kernel":
            deviation = np.sqrt(gains[leaf.ndim] / np.prod(leaf.shape[:-1]))
            values[leaf.ndim].append(np.ravel(leaf) / deviation)
        else:
            assert np.all(leaf == {"bias": 0, "mean": 0, "scale": 1, "var": 1}[name])
    return {kind: np.concatenate(v) for kind, v in values.items() if v}


def assert_standard_normal(values):
    # n >= 2e4 draws: five standard deviations of each estimate.
    n = len(values)
    assert n > 20_000
    assert abs(values.mean()) < 5 / np.sqrt(n)
    assert abs(values.std() - 1) < 5 / np.sqrt(2 * n)
    outside = np.mean(np.abs(values) > 2.5)  # 1.24 %; a normal truncated at 2.28 would have none
    assert abs(outside - 0.01242) < 5 * np.sqrt(0.01242 / n)


GAINS = {4: 2.0, 2: 1.0}  # He et al. before a ReLU; LeCun's for the dense layers


@pytest.mark.usefixtures("short_backbone")
def test_initial_values_have_the_distribution_of_the_modules_own():
    drawn = standardised(draw_variables(BATNet(7, width=1 / 4), (64, 32), 0), GAINS)
    for values in drawn.values():
        assert_standard_normal(values)

    def initialise(module, shape):
        return module.init(jax.random.key(0), np.ones(shape, np.float32), train=False)

    pointwise = standardised(initialise(ConvBN(150, 1), (1, 1, 1, 160)), GAINS)
    assert_standard_normal(pointwise[4])
    square = standardised(initialise(ConvBN(50, 3), (1, 3, 3, 60)), GAINS)
    assert_standard_normal(square[4])
    dense = standardised(initialise(Head(150, 100), (1, 1, 1, 150)), GAINS)
    assert_standard_normal(dense[2])
