"""The margins of cosine classifiers against angles, in float64, and the step that uses them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fast_jit import jit
from support.tiny_run import small_config

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models.heads import CLASSIFIERS
from batnet_jax.step.class_margins import MARGINS, SCALE, with_margin
from batnet_jax.step.losses import cross_entropy
from batnet_jax.step.train_step import init_state, make_recipe, train_step
from batnet_jax.validation import validate

close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)


def scores_by_angles(cosines, labels, classifier, margin):
    """Both papers' formulas, image by image, by the angles themselves."""
    scores = SCALE * cosines
    for row, label in enumerate(labels):
        angle = np.arccos(cosines[row, label])
        if classifier == "am_softmax":
            own = np.cos(angle) - margin
        elif angle < np.pi - margin:
            own = np.cos(angle + margin)
        else:
            own = np.cos(angle) - margin * np.sin(margin)
        scores[row, label] = SCALE * own
    return scores


def loss_by_angles(cosines, labels, classifier, margin):
    scores = scores_by_angles(cosines, labels, classifier, margin)
    right = scores[np.arange(len(labels)), labels]
    return np.mean(np.log(np.exp(scores - right[:, None]).sum(1)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("classifier", MARGINS)
@pytest.mark.parametrize("margin", [0.0, 0.35, 0.5, 1.5])
def test_scores_and_gradient_are_those_of_the_angles(classifier, margin):
    rng = np.random.default_rng(0)
    cosines, labels = rng.uniform(-0.99, 0.99, (40, 5)), rng.integers(0, 5, 40)
    given = {"classifier": classifier, "margin": margin}
    far = np.arccos(cosines[np.arange(40), labels]) > np.pi - margin
    assert far.any() == (margin > 0.3)  # both sides of ArcFace's seam

    def loss(cosines):
        return cross_entropy(with_margin({"one": cosines}, labels, **given)["one"], labels)

    got = with_margin({"one": cosines}, labels, **given)["one"]
    close(got, scores_by_angles(cosines, labels, **given))
    close(loss(cosines), loss_by_angles(cosines, labels, **given))
    gradient, expected = jax.grad(loss)(cosines), np.zeros_like(cosines)
    for index in np.ndindex(*cosines.shape):
        high, low = cosines.copy(), cosines.copy()
        high[index] += 1e-6
        low[index] -= 1e-6
        change = [loss_by_angles(moved, labels, **given) for moved in (high, low)]
        expected[index] = (change[0] - change[1]) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_the_margin_makes_the_own_identity_harder_and_no_other():
    cosines, labels = np.full((3, 4), 0.5, np.float32), np.array([0, 2, 3])
    for classifier in MARGINS:
        scores = with_margin({"one": cosines}, labels, classifier=classifier, margin=0.3)["one"]
        own = np.eye(4, dtype=bool)[labels]
        np.testing.assert_array_equal(scores[~own], 15)
        assert (scores[own] < 15 - 30 * 0.2).all()
        free = with_margin({"one": cosines}, labels, classifier=classifier, margin=0.0)["one"]
        np.testing.assert_allclose(free, 15, rtol=1e-6)


def test_linear_scores_are_the_networks():
    scores = {"appearance": np.ones((2, 3))}
    assert with_margin(scores, np.array([0, 1]), classifier="linear", margin=0.3) is scores
    assert set(CLASSIFIERS) == {"linear", *MARGINS}


@pytest.mark.parametrize("classifier", MARGINS)
@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0000001])
def test_the_gradient_is_finite_at_the_ends(classifier, cosine):
    """Rounding may even give a cosine above 1."""
    cosines = jnp.full((2, 3), cosine, jnp.float32)

    def loss(cosines):
        scores = with_margin({"one": cosines}, jnp.arange(2), classifier=classifier, margin=0.5)
        return cross_entropy(scores["one"], jnp.arange(2))

    value, gradient = jax.value_and_grad(loss)(cosines)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_step_takes_the_loss_of_its_classifier(classifier, tmp_path):
    """The loss is that of the network's scores with the margin, also in bfloat16."""
    config = small_config(tmp_path)
    config.model.update(classifier=classifier, dtype="bfloat16", dropout=0.0, neck="bnneck")
    config.loss.update(class_margin=0.4, label_smoothing=0.0)
    config.augment.enlarge_probability = 0.0
    recipe = make_recipe(config, num_identities=3, steps_per_epoch=1, axis_name=None)
    image = np.random.default_rng(0).integers(0, 256, (12, 64, 16, 3), np.uint8)
    images = np.concatenate([image, image[:, :, ::-1]], 2)  # a flip changes nothing
    labels = np.repeat(np.arange(3), 4)
    state = init_state(recipe, (64, 32))
    seen = []

    class Watched:
        def apply(self, *args, **kwargs):
            outputs, new = recipe.model.apply(*args, **kwargs)
            jax.debug.callback(lambda scores: seen.append(scores), outputs["scores"])
            return outputs, new

    step = jit(partial(train_step, recipe=recipe._replace(model=Watched())))
    _, metrics = step(state, {"image": images, "label": labels})
    jax.effects_barrier()
    expected = []
    for own in seen[0].values():
        scores = np.asarray(own, np.float64)
        if classifier != "linear":
            assert np.abs(scores).max() <= 1.00001
            scores = scores_by_angles(scores, labels, classifier, 0.4)
        right = scores[np.arange(12), labels]
        expected.append(np.mean(np.log(np.exp(scores - right[:, None]).sum(1))))
    assert float(metrics["loss_ce"]) == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_head_of_ones_own_has_its_own_classifier():
    config = default_config()
    config.model.update(classifier="arcface", neck="mypkg.nets:CosineHead")
    with pytest.raises(UserError, match=r"classifier=arcface is not for a head of your own") as one:
        validate(config)
    assert "\n" not in str(one.value)
    config.model.classifier = "linear"
    validate(config)
    config.model.classifier = "cosine"
    with pytest.raises(UserError, match="'cosine' is not one of linear, am_softmax, arcface"):
        validate(config)
