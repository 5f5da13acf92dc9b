"""The whole network, its gradients and its training, compared with an oracle.

The oracle, `support/network_oracle.py`, is written from the paper in NumPy float64, without any of
our code. In float64 the two differ only by the order of sums: 2e-16, which each batch normalisation
may amplify by 1 / sqrt(eps) = 300. About 1e-12 was measured, of outputs and of gradients; the
tolerances leave a factor of 1000 and more for other machines. Networks have 1/16 or 1/8 of the
paper's width, and images 64 x 32 pixels, as most of the time goes to XLA's compiler.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import network_oracle, training_oracle
from support.fast_jit import jit

from batnet_jax.config import default_config
from batnet_jax.models import BATNet, googlenet
from batnet_jax.models.heads import Head
from batnet_jax.step import augment
from batnet_jax.step.losses import multi_task_loss
from batnet_jax.step.train_step import TrainState, make_recipe, train_step

IDENTITIES, EMBEDDING, SIZE = 5, 16, (64, 32)
LABELS = np.array([3, 0, 1, 1, 4, 0, 3, 4], np.int32)
LOSS = {"margin": 1.0, "num_negatives": 5}
SMOOTHING = 0.1
ORACLE_LOSS = {**LOSS, "smoothing": SMOOTHING}


@pytest.fixture
def short_backbone(monkeypatch):
    """Both networks have one inception in Blk2 and one in Blk3: a third of the compile time."""
    for table in (googlenet.BLOCK_INCEPTIONS, network_oracle.BLOCKS):
        for number, names in {2: ("3b",), 3: ("4a",), 4: ()}.items():
            monkeypatch.setitem(table, number, names)


def close(got, expected, tolerance):
    """Compare trees leaf by leaf, relative to the leaf's largest value."""

    def compare(path, got, expected):
        got, expected = np.asarray(got, np.float64), np.asarray(expected)
        assert got.shape == expected.shape, path
        error = np.abs(got - expected).max() / np.abs(expected).max()
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error}"

    jax.tree_util.tree_map_with_path(compare, got, expected)


def draw_variables(model, shape, dtype):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    images = jax.ShapeDtypeStruct(shape, dtype)
    shapes = jax.eval_shape(partial(model.init, train=True), keys, images)
    return network_oracle.random_values(shapes, seed=1)


# Forward and gradients.


def run_training(model, variables, images):
    outputs, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return {"train": outputs, "stats": updates["batch_stats"]}


def run_both(model, variables, images):
    evaluated = {"eval": model.apply(variables, images, train=False)}
    return run_training(model, variables, images) | evaluated


def run_gradients(model, variables, images):
    """Compute everything to be compared in one function, which is compiled once."""

    def loss_fn(params):
        results = run_both(model, {**variables, "params": params}, images)
        loss, _ = multi_task_loss(results["train"], LABELS, **LOSS, label_smoothing=SMOOTHING)
        return loss, results

    loss_and_gradients = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, results), gradients = loss_and_gradients(variables["params"])
    return results | {"loss": loss, "gradients": gradients}


def compare_gradients(got, expected):
    """Compare gradients leaf by leaf, relative to the leaf's largest value.

    The gradient of a shift that a batch normalisation removes is 0 except for rounding: hence a
    tolerance relative to the largest gradient, too. It is 1e-6 of a leaf with 1e-7 of the largest
    gradient; nearly all leaves have more than 1e-5.
    """
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    seen = 0

    def compare(path, got, expected):
        nonlocal seen
        size = np.abs(expected).max()
        error = np.abs(np.asarray(got) - expected).max()
        assert error < 1e-8 * size + 1e-13 * largest, f"{jax.tree_util.keystr(path)}: {error}"
        seen += size > 1e-7 * largest

    jax.tree_util.tree_map_with_path(compare, got, expected)
    assert seen > 0.7 * len(jax.tree.leaves(expected))  # a quarter: biases before a BN


def compare_case(attention, position, reduction, num_parts, sampling, *, width, run):
    net = {"attention": attention, "position": position, "num_parts": num_parts}
    model = BATNet(
        IDENTITIES,
        **net,
        reduction=reduction,
        part_sampling=sampling,
        embedding_dim=EMBEDDING,
        dropout=0.0,
        width=width,
        dtype=jnp.float64,
    )
    net["sampling"] = sampling
    images = np.random.default_rng(0).normal(size=(len(LABELS), *SIZE, 3))
    variables = draw_variables(model, images.shape, jnp.float64)
    params, stats = variables["params"], variables["batch_stats"]
    if attention != "none":
        *_, channels, embedded = params["bi_attention"]["embed"]["conv"]["kernel"].shape
        assert embedded == max(1, channels // reduction)

    results = run(model, variables, images)
    for mode in ("train", "eval"):
        if mode in results:
            features, scores, new_stats = network_oracle.network(
                images, params, stats, mode == "train", **net
            )
            close(results[mode]["features"], features, 1e-9)
            close(results[mode]["scores"], scores, 1e-9)
            if mode == "train":
                close(results["stats"], new_stats, 1e-9)
    if "gradients" in results:
        loss, gradients, _ = training_oracle.loss_and_gradients(
            params, stats, images, LABELS, loss=ORACLE_LOSS, net=net
        )
        close(results["loss"], loss, 1e-9)
        compare_gradients(results["gradients"], gradients)


@pytest.mark.usefixtures("float64", "short_backbone")
@pytest.mark.parametrize(
    ("case", "run"),
    [
        (("aia", "p2", 4, 4, "paper"), run_gradients),
        (("plain", "p2", 8, 2, "published"), run_gradients),
        pytest.param(("none", "p2", 4, 0, "paper"), run_gradients, marks=pytest.mark.slow),
        pytest.param(("aia", "p1", 2, 2, "published"), run_gradients, marks=pytest.mark.slow),
        (("plain", "p3", 16, 0, "paper"), run_both),
        (("aia", "p4", 32, 0, "paper"), run_both),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_short_network(case, run):
    compare_case(*case, width=1 / 16, run=jit(run, static_argnums=0))


@pytest.mark.usefixtures("float64")
def test_every_inception():
    case = ("aia", "p2", 4, 2, "published")
    compare_case(*case, width=1 / 16, run=jit(run_training, static_argnums=0))


KINDS = [("none", "p2")] + [(a, p) for a in ("aia", "plain") for p in ("p1", "p2", "p3", "p4")]
GRID = [(*kind, 4, *parts) for kind in KINDS for parts in ((0, "paper"), (4, "published"))]
GRID += [(*kind, r, 0, "paper") for kind in KINDS[1:] for r in (2, 8, 16, 32)]


# These networks are not compiled: run op by op, all cases share the compiled ops.


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", GRID, ids=str)
def test_forward_of_all(case):
    # Wider if r is large: otherwise the embedding would have one channel.
    compare_case(*case, width=1 / 2 if case[2] >= 16 else 1 / 8, run=run_both)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_of_all(kind):
    compare_case(*kind, 4, 4, "paper", width=1 / 8, run=run_gradients)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("reduction", [2, 8, 16, 32])
def test_gradients_of_all_reductions(reduction):
    width = 1 / 2 if reduction >= 16 else 1 / 8
    compare_case("aia", "p2", reduction, 0, "paper", width=width, run=run_gradients)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_float32_features_at_the_papers_size(train):
    model = BATNet(50, dropout=0.0)
    images = np.random.default_rng(0).normal(size=(8, 256, 128, 3))
    variables = draw_variables(model, images.shape, jnp.float32)
    net = {"attention": "aia", "num_parts": 4, "sampling": "paper"}
    expected, _, _ = network_oracle.network(
        images, variables["params"], variables["batch_stats"], train, **net
    )
    apply = jit(partial(model.apply, train=train, mutable=["batch_stats"]))
    outputs, _ = apply(jax.tree.map(np.float32, variables), images.astype(np.float32))
    for stream, feature in outputs["features"].items():
        assert feature.dtype == np.float32
        # Measured: 1.4e-6; in training 3.5e-5, as statistics of few images amplify rounding.
        error = np.linalg.norm(np.asarray(expected[stream]) - feature)
        assert error < 1e-4 * np.linalg.norm(expected[stream])


# Running statistics, without the oracle.


@pytest.mark.usefixtures("float64")
def test_running_statistics_by_hand():
    # `bn` sees only 8 values a channel: the biased variance, which Flax keeps, is 1/8 smaller.
    x = np.random.default_rng(0).normal(size=(8, 2, 1, 6)) + 1
    module = Head(IDENTITIES, EMBEDDING, relu=False, dropout=0.0, dtype=jnp.float64)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = network_oracle.random_values(
        jax.eval_shape(partial(module.init, train=True), keys, jnp.asarray(x)), seed=1
    )
    params, stats = variables["params"], variables["batch_stats"]
    _, updates = module.apply(variables, x, train=True, mutable=["batch_stats"])

    flat = x.reshape(16, 6)
    normal = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    pooled = (normal * params["map_bn"]["scale"] + params["map_bn"]["bias"]).mean((1, 2))
    embedded = pooled @ params["embedding"]["kernel"] + params["embedding"]["bias"]
    for name, values in (("map_bn", flat), ("bn", embedded)):
        expected = {
            "mean": 0.9 * stats[name]["mean"] + 0.1 * values.mean(0),
            "var": 0.9 * stats[name]["var"] + 0.1 * values.var(0, ddof=1),
        }
        close(updates["batch_stats"][name], expected, 1e-12)


# Training.

RATE, STEPS, DECAY = 1e-3, 20, 12


def training_recipe(dtype):
    config = default_config()
    config.learning_rate = RATE
    config.decay_epochs = (1,)
    config.augment.enlarge_probability = 0.0  # erasing starts later than the test ends
    config.model.update(
        reduction=2, num_parts=2, embedding_dim=EMBEDDING, dropout=0.0, width=1 / 16, dtype=dtype
    )
    return make_recipe(config, num_identities=IDENTITIES, steps_per_epoch=DECAY, axis_name=None)


def draw_batches():
    """Yield batches of symmetric images, which a horizontal flip does not change."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (IDENTITIES, 1, 1, 3))
    for _ in range(STEPS):
        half = rng.integers(0, 256, (len(LABELS), SIZE[0], SIZE[1] // 2, 3))
        labels = rng.permutation(LABELS)
        half = (half + colours[labels]) // 2  # so that there is something to learn
        yield np.concatenate([half, half[:, :, ::-1]], 2).astype(np.uint8), labels


def train(recipe, variables):
    """Train with our code; return the losses and the last state."""
    params, stats = variables["params"], variables["batch_stats"]
    state = TrainState(jnp.int32(0), jnp.int32(0), params, stats, recipe.tx.init(params))
    step = jit(partial(train_step, recipe=recipe))
    losses = []
    for images, labels in draw_batches():
        state, metrics = step(state, {"image": images, "label": labels})
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.mark.usefixtures("short_backbone")
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_twenty_steps_of_training(dtype, monkeypatch):
    monkeypatch.setattr(augment, "augment", partial(augment.augment, dtype=jnp.dtype(dtype)))
    with jax.enable_x64(dtype == "float64"):
        recipe = training_recipe(dtype)
        variables = draw_variables(recipe.model, (len(LABELS), *SIZE, 3), jnp.dtype(dtype))
        losses, state = train(recipe, jax.tree.map(jnp.dtype(dtype).type, variables))

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected, params, stats = training_oracle.train(
        variables["params"],
        variables["batch_stats"],
        [((images / 255 - mean) / std, labels) for images, labels in draw_batches()],
        [RATE] * DECAY + [RATE / 10] * (STEPS - DECAY),
        loss=ORACLE_LOSS,
        net={"attention": "aia", "num_parts": 2, "sampling": "paper"},
        adam={"beta1": 0.9, "beta2": 0.999, "weight_decay": 1e-4},
    )
    assert np.mean(expected[-5:]) < np.mean(expected[:5])
    if dtype == "float32":  # 1e-5 measured; at a rate of 5e-3 training is chaotic: 4e-2
        np.testing.assert_allclose(losses, expected, rtol=1e-3)
        return
    np.testing.assert_allclose(losses, expected, rtol=1e-8)
    # Adam amplifies the rounding in the gradients of biases before a BN: 1e-11 measured.
    close(state.params, params, 1e-8)
    close(state.batch_stats, stats, 1e-8)
