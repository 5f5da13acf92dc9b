"""Bi-attention at several positions.

The composition runs in float64, where only the order of sums differs: 1e-9 through a network.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import network_oracle
from support.fast_jit import jit
from support.networks import OPTIONS, shapes_of

from batnet_jax.errors import UserError
from batnet_jax.models import BATNet, BiAttention, parse_positions
from batnet_jax.models.googlenet import Block, Stem
from batnet_jax.models.heads import Head
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.part_streams import PartStreams

close_network = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("p2", ("p2",)),
        ("p3,p2", ("p2", "p3")),
        (" p1, p4 ", ("p1", "p4")),
        (("p4", "p2"), ("p2", "p4")),
        (["p1"], ("p1",)),
        ('("p2", "p3")', ("p2", "p3")),  # as the command line passes it
        ("p1,p2,p3,p4", ("p1", "p2", "p3", "p4")),
    ],
)
def test_positions(given, expected):
    assert parse_positions(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("p5", r"position='p5' has the unknown position 'p5': give one of p1, p2, p3, p4, or sev"),
        ("", r"position='' has the unknown position ''"),
        ("p2,", r"position='p2,' has the unknown position ''"),
        ("p2;p3", r"the unknown position 'p2;p3'"),
        ("p2,p3,p2", r"position='p2,p3,p2' has p2 twice: give one of p1"),
        ((), r"position=\(\) has the unknown position ''"),
        (("p2", "p2"), r"has p2 twice"),
        ((2,), r"the unknown position '2'"),
    ],
)
def test_wrong_positions(given, message):
    with pytest.raises(UserError, match=message):
        parse_positions(given)


def blocks_of(variables):
    return {name for name in variables["params"] if name.startswith("bi_attention")}


@pytest.mark.usefixtures("short_backbone")
def test_a_single_positions_parameters_keep_their_path():
    options = {"num_parts": 0, "width": 1 / 16}
    single, one = (
        draw_variables(BATNet(5, position=position, **options), (64, 32), 0)
        for position in ("p3", ("p3",))
    )
    assert blocks_of(single) == {"bi_attention"}
    jax.tree.map(np.testing.assert_array_equal, single, one)
    several = BATNet(5, position="p3,p2", **options)
    assert blocks_of(shapes_of(several, (2, 64, 32, 3))) == {"bi_attention_p2", "bi_attention_p3"}
    none = BATNet(5, attention="none", position="p2,p3", **options)
    assert not blocks_of(shapes_of(none, (2, 64, 32, 3)))


@pytest.mark.usefixtures("float64", "short_backbone")
def test_several_positions_are_the_single_ones_composed():
    images = np.random.default_rng(0).normal(size=(6, 64, 32, 3))
    options = {"width": 1 / 16, "dtype": jnp.float64}
    model = BATNet(
        5, kernel="rff", position=("p1", "p2", "p3", "p4"), num_parts=2, embedding_dim=8,
        dropout=0.0, **OPTIONS, **options,
    )  # fmt: skip
    variables = network_oracle.random_values(shapes_of(model, images.shape), 1)

    def by_hand(variables, images):
        def run(module, name, x, **kwargs):
            own = {kind: tree.get(name, {}) for kind, tree in variables.items()}
            return module.apply(own, x, train=True, mutable=["batch_stats"], **kwargs)[0]

        attention = {}

        def attend(x, position):
            block = BiAttention(kernel="rff", **OPTIONS, dtype=jnp.float64)
            output = run(block, f"bi_attention_{position}", x)
            mask = run(block, f"bi_attention_{position}", x, method="mask")
            attention[position] = {"input": x, "mask": mask, "output": output}
            return output

        x = attend(run(Stem(**options), "blk1", images), "p1")
        x = attend(run(Block(2, **options), "blk2", x), "p2")
        y = attend(run(Block(3, **options), "blk3", x), "p3")
        y = attend(run(Block(4, **options), "blk4", y), "p4")
        maps = {"appearance": y, "part": run(PartStreams(2, **options), "part_streams", x)}
        results = {}
        for name, feature_map in maps.items():
            head = Head(5, 8, relu=name == "appearance", dropout=0.0, dtype=jnp.float64)
            results[name] = run(head, f"{name}_head", feature_map)
        return {
            "features": {name: feature for name, (feature, _) in results.items()},
            "scores": {name: scores for name, (_, scores) in results.items()},
            "attention": attention,
        }

    outputs, _ = jit(partial(model.apply, train=True, mutable=["batch_stats"]))(variables, images)
    jax.tree.map(close_network, outputs, jit(by_hand)(variables, images))
    assert set(outputs["attention"]) == {"p1", "p2", "p3", "p4"}
    for position in outputs["attention"].values():
        assert np.ptp(position["mask"]) > 0.01


@pytest.mark.usefixtures("short_backbone")
def test_the_streams_see_the_attention_before_their_branch_only():
    model = BATNet(5, position="p2,p3", kernel="linear", num_parts=1, width=1 / 16, dropout=0.0)
    variables = network_oracle.random_values(shapes_of(model, (2, 64, 32, 3)), 1)
    images = np.random.default_rng(0).normal(size=(2, 64, 32, 3)).astype(np.float32)
    run = jit(partial(model.apply, train=False))
    before = run(variables, images)["features"]
    changed = {}
    for position in ("p2", "p3"):
        name = f"bi_attention_{position}"
        params = variables["params"]
        moved = params | {name: jax.tree.map(lambda a: a + 0.5, params[name])}
        after = run({**variables, "params": moved}, images)["features"]
        changed[position] = {s for s in before if (before[s] != after[s]).any()}
    assert changed == {"p2": {"appearance", "part"}, "p3": {"appearance"}}
