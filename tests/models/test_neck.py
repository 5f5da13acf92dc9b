"""The BNNeck: features before and behind it, dropout, the paper's backbone, older checkpoints."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import network_oracle
from support.paths import ROOT
from support.tiny_resnet import WIDTH, close, shapes_of
from support.variants import few

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.models import BATNet, feature_sizes
from batnet_jax.models.heads import BNNeckHead
from batnet_jax.workdir.same_run import check_architecture


def plain_head(x, params, stats, train):
    """Return the features before and behind the neck, and the scores, by the plainest code."""
    before = x.mean((1, 2))
    if "embedding" in params:
        before = before @ params["embedding"]["kernel"]
    mean, var = (before.mean(0), before.var(0)) if train else stats["neck"].values()
    behind = (before - mean) / jnp.sqrt(var + 1e-5) * params["neck"]["scale"]
    return before, behind, behind @ params["classifier"]["kernel"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("embedding_dim", few([0, 6], keep=[1]))
def test_the_feature_in_training_is_before_the_neck_and_in_evaluation_behind_it(embedding_dim):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 4, 3, 8))
    head = BNNeckHead(3, embedding_dim, dtype=jnp.float64)
    shapes = jax.eval_shape(partial(head.init, train=True), jax.random.key(0), x)
    variables = network_oracle.random_values(shapes, 1)
    params, stats = variables["params"], variables["batch_stats"]
    names = {"neck": {"scale"}, "classifier": {"kernel"}}  # neither has a shift
    names |= {"embedding": {"kernel"}} if embedding_dim else {}
    assert {name: set(layer) for name, layer in params.items()} == names

    (feature, scores), new = head.apply(variables, x, train=True, mutable=["batch_stats"])
    before, _, expected = plain_head(x, params, stats, train=True)
    close(feature, before)
    close(scores, expected)
    close(new["batch_stats"]["neck"]["mean"], 0.9 * stats["neck"]["mean"] + 0.1 * before.mean(0))
    feature, scores = head.apply(variables, x, train=False)
    _, behind, expected = plain_head(x, params, stats, train=False)
    close(feature, behind)
    close(scores, expected)

    weights = rng.standard_normal(scores.shape), rng.standard_normal(feature.shape)

    def loss(params, run):
        feature, scores = run(params)
        return (scores * weights[0]).sum() + (feature * weights[1]).sum()

    def ours(params):
        own = {**variables, "params": params}
        return head.apply(own, x, train=True, mutable=["batch_stats"])[0]

    def plain(params):
        before, _, scores = plain_head(x, params, stats, train=True)
        return before, scores

    got, expected = (jax.grad(partial(loss, run=run))(params) for run in (ours, plain))
    jax.tree.map(close, got, expected)


def test_the_bnnecks_dropout_is_before_the_classifier_and_in_training_only():
    x = np.random.default_rng(0).standard_normal((4, 2, 1, 64)).astype(np.float32)
    head = BNNeckHead(3, dropout=0.5)
    variables = head.init(jax.random.key(0), x, train=False)

    def scores(key, train):
        rngs = {"dropout": jax.random.key(key)}
        run = head.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"])
        return np.asarray(run[0][0]), np.asarray(run[0][1])

    np.testing.assert_array_equal(scores(1, True)[0], scores(2, True)[0])
    assert (scores(1, True)[1] != scores(2, True)[1]).any()
    np.testing.assert_array_equal(scores(1, False)[1], scores(2, False)[1])


@pytest.mark.usefixtures("short_backbone")
def test_the_papers_backbone_can_have_the_neck():
    model = BATNet(5, neck="bnneck", embedding_dim=0, num_parts=2, width=WIDTH, attention="none")
    variables = shapes_of(model, (64, 32))
    outputs = jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((2, 64, 32, 3), "f4"))
    sizes = feature_sizes(variables["params"])
    assert sizes["part"] == 2 * sizes["appearance"] > 2
    assert {name: f.shape[1] for name, f in outputs["features"].items()} == sizes


def test_a_checkpoint_older_than_the_neck_has_none():
    config = default_config()
    saved = {name: value for name, value in config.model.to_dict().items() if name != "neck"}
    check_architecture(config, {"model": saved}, ROOT)
    config.model.neck = "bnneck"
    with pytest.raises(UserError, match=r"model.neck='none', and the config says 'bnneck'"):
        check_architecture(config, {"model": saved}, ROOT)
