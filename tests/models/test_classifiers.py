"""The classifier of cosines: its numbers, its gradient, its heads and its checkpoints."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BATNet, feature_sizes
from batnet_jax.models.heads import HEADS, Cosines, unit_length
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.workdir.same_run import check_architecture

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def cosines(x, kernel):
    """Of each row and column, by loops."""
    return np.array(
        [[a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for b in kernel.T] for a in np.asarray(x)]
    )


@pytest.mark.usefixtures("float64")
def test_cosines_and_their_gradient():
    rng = np.random.default_rng(0)
    x, kernel, weights = (rng.standard_normal(shape) for shape in ((4, 5), (5, 3), (4, 3)))
    layer = Cosines(3, dtype=jnp.float64)

    def total(x, kernel):
        return (layer.apply({"params": {"kernel": kernel}}, x) * weights).sum()

    close(layer.apply({"params": {"kernel": kernel}}, x), cosines(x, kernel))
    gradients = jax.grad(total, (0, 1))(x, kernel)
    for which, got in enumerate(gradients):
        expected = np.zeros_like(got)
        for index in np.ndindex(*expected.shape):
            change = []
            for step in (1e-6, -1e-6):
                moved = [x.copy(), kernel.copy()]
                moved[which][index] += step
                change.append((cosines(*moved) * weights).sum())
            expected[index] = (change[0] - change[1]) / 2e-6
        np.testing.assert_allclose(got, expected, atol=1e-8)


def test_a_feature_of_zeros_has_cosines_of_zero_and_no_gradient():
    x = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(unit_length(x), np.array([[0, 0], [0.6, 0.8]], np.float32))
    layer = Cosines(2)
    kernel = {"params": {"kernel": np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)}}
    gradient = jax.grad(lambda x: layer.apply(kernel, x).sum())(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(layer.apply(kernel, x)[0], [0, 0])


@pytest.mark.parametrize("neck", HEADS)
@pytest.mark.parametrize("classifier", ["am_softmax", "arcface"])
@pytest.mark.usefixtures("short_backbone")
def test_every_head_has_it(neck, classifier):
    """Its scores are cosines of what the last layer sees; nothing else of the network changes."""
    options = {"neck": neck, "embedding_dim": 8, "dropout": 0.0, "num_parts": 1, "width": 1 / 16}
    images = np.random.default_rng(0).standard_normal((3, 32, 16, 3)).astype(np.float32)
    outputs, trees = {}, {}
    for kind in ("linear", classifier):
        model = BATNet(5, backbone="toy", classifier=kind, **options)
        trees[kind] = draw_variables(model, (32, 16), 0)
        outputs[kind] = model.apply(trees[kind], images)
        assert feature_sizes(trees[kind]["params"]) == {"appearance": 8, "part": 8}
    for name in ("appearance", "part"):
        feature = outputs[classifier]["features"][name]
        np.testing.assert_array_equal(feature, outputs["linear"]["features"][name])
        layer = trees[classifier]["params"][f"{name}_head"]["classifier"]
        assert set(layer) == {"kernel"}
        np.testing.assert_array_equal(
            layer["kernel"], trees["linear"]["params"][f"{name}_head"]["classifier"]["kernel"]
        )
        expected = cosines(np.float64(feature), np.float64(layer["kernel"]))
        np.testing.assert_allclose(outputs[classifier]["scores"][name], expected, atol=1e-6)


def test_a_checkpoint_older_than_the_classifier_has_an_fc(tmp_path):
    config = default_config()
    saved = {name: v for name, v in config.model.to_dict().items() if name != "classifier"}
    check_architecture(config, {"model": saved}, tmp_path)
    config.model.classifier = "arcface"
    with pytest.raises(UserError, match=r"model.classifier='linear', and the config says 'arcface"):
        check_architecture(config, {"model": saved}, tmp_path)
