"""Backbones, heads and kernels of a user's own within BAT-net."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from mypkg.nets import Block, CosineHead, signed_square

from batnet_jax.errors import UserError
from batnet_jax.models import BATNet, feature_sizes
from batnet_jax.models.init_variables import draw_variables

SIZE = (64, 32)
SMALL = {"num_parts": 1, "width": 0.0625, "embedding_dim": 8}


def draw(seed=0, **fields):
    return draw_variables(BATNet(3, **SMALL | fields), SIZE, seed)


def test_a_path_and_its_object_make_the_same_network():
    named = {"backbone": "mypkg.nets:Block", "neck": "mypkg.nets:CosineHead"}
    objects = {"backbone": Block, "neck": CosineHead}
    images = jax.random.uniform(jax.random.key(0), (2, *SIZE, 3))
    kernels = ("mypkg.nets:signed_square", signed_square)
    features = []
    for fields, kernel in zip((named, objects), kernels, strict=True):
        variables = draw(**fields, kernel=kernel)
        network = BATNet(3, **SMALL, **fields, kernel=kernel)
        features.append(network.apply(variables, images)["features"])
        lengths = [np.linalg.norm(f, axis=1) for f in features[-1].values()]
        np.testing.assert_allclose(lengths, 1, rtol=1e-3)  # by the head's 1e-6 beside the square
    np.testing.assert_array_equal(features[0]["part"], features[1]["part"])


def test_own_modules_start_at_their_own_values_and_ours_at_ours():
    ours, mixed, other = draw(backbone="toy"), draw(backbone=Block), draw(1, backbone=Block)
    np.testing.assert_array_equal(mixed["params"]["blk2"]["gain"], 0.5)
    np.testing.assert_array_equal(mixed["params"]["part_streams"]["stream0_blk3"]["gain"], 0.5)
    kernel = mixed["params"]["blk2"]["conv"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(1 / (9 * 16)), rel=0.1)  # Flax: LeCun
    assert not np.array_equal(kernel, other["params"]["blk2"]["conv"]["kernel"])
    head = ours["params"]["appearance_head"], mixed["params"]["appearance_head"]
    jax.tree.map(np.testing.assert_array_equal, *head)


def test_a_network_without_batch_normalisation():
    variables = draw(backbone=Block, neck=CosineHead, attention="none")
    assert variables["batch_stats"] == {}
    assert feature_sizes(variables["params"]) == {"appearance": 8, "part": 8}


class Odd(nn.Module):
    """A head with one of several mistakes."""

    num_identities: int
    embedding_dim: int
    mistake: str = ""
    dropout: float = 0.0
    batch_norm_axis: str | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        feature = x.mean((1, 2))
        name = "scores" if self.mistake == "name" else "classifier"
        if self.mistake == "param":
            kernel = self.param(name, nn.initializers.ones, (feature.shape[-1], 3))
            return feature, feature @ kernel
        scores = nn.Dense(self.num_identities, name=name)(feature)
        if self.mistake == "kind":
            self.variable("cache", "n", jnp.zeros, ())
        if self.mistake == "type":
            self.variable("batch_stats", "n", lambda: jnp.zeros((), jnp.int32))
        if self.mistake == "size":
            feature = feature[:, 1:]
        return feature, scores[:, 1:] if self.mistake == "scores" else scores


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("name", r"the appearance head has no layer `classifier` with a kernel \[d, identities\]"),
        ("param", "the appearance head has no layer `classifier`"),
        ("kind", "the network has variables of the kind 'cache': only params and batch_stats"),
        ("type", "the network's variable batch_stats/appearance_head/n is int32: make it float32"),
        ("size", r"features \(2, 15\) and scores \(2, 3\) .* they are \(2, 16\) and \(2, 3\)"),
        ("scores", r"features \(2, 16\) and scores \(2, 2\) of two images"),
    ],
)
def test_what_a_head_must_not_do(mistake, message):
    def head(*arguments, **options):
        return Odd(*arguments, mistake, **options)

    with pytest.raises(UserError, match=message):
        draw(backbone="toy", neck=head, num_parts=0)


def test_a_head_without_parameters_is_refused():
    class Mean(nn.Module):
        def __call__(self, x, *, train):
            return x.mean((1, 2)), x[:, 0, 0, :3]

    with pytest.raises(UserError, match="the appearance head has no layer `classifier`"):
        draw(backbone="toy", neck=lambda *_, name, **__: Mean(name=name), num_parts=0)
