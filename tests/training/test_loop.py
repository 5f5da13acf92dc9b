"""The pure parts of the loop: batches, due steps, and the figures and errors of a window."""

import json
import string

import jax.numpy as jnp
import numpy as np
import pytest

from batnet_jax.config import default_config
from batnet_jax.data.loading.sampler import epoch_plan
from batnet_jax.errors import UserError
from batnet_jax.training.non_finite import NonFiniteReport
from batnet_jax.training.run_length import RunLength, batches, plan_run, shape_of
from batnet_jax.training.window import Window

LABELS = np.repeat(np.arange(6), 4)  # 6 groups of 4: 3 steps an epoch at 2 x 4
NAMES = [f"{letter}.jpg" for letter in string.ascii_lowercase[:24]]
ROW = np.arange(4)


def small_config():
    config = default_config()
    config.batch.identities = 2
    return config


def test_batches_are_the_plans_in_order_from_any_first_step():
    config, length = small_config(), RunLength(steps_per_epoch=3, total=8)
    whole = np.stack(list(batches(config, LABELS, 0, length)))
    plans = [epoch_plan(LABELS, **shape_of(config), seed=0, epoch=e) for e in range(3)]
    np.testing.assert_array_equal(whole, np.concatenate(plans)[:8])
    for first in range(1, 9):
        rest = list(batches(config, LABELS, first, length))
        assert len(rest) == 8 - first
        for row, wanted in zip(rest, whole[first:], strict=True):
            np.testing.assert_array_equal(row, wanted)


def test_due_at_the_ends_of_epochs_and_always_at_the_end():
    length = RunLength(steps_per_epoch=3, total=14)
    assert [s for s in range(1, 15) if length.is_due(s, 2)] == [6, 12, 14]
    assert [s for s in range(1, 15) if length.is_due(s, 0)] == [14]


def test_a_run_ends_with_its_cosine():
    config = small_config()  # 3 steps an epoch
    config.num_epochs, config.steps = 2, 6
    config.schedule = "cosine"
    assert plan_run(config, LABELS) == RunLength(steps_per_epoch=3, total=6)
    config.steps = 7
    with pytest.raises(UserError, match=r"steps=7 is more than the 6 of config.num_epochs=2, af"):
        plan_run(config, LABELS)
    config.schedule = "piecewise"
    assert plan_run(config, LABELS).total == 7


def test_fewer_identities_than_a_batch_holds():
    config = small_config()
    config.batch.identities = 7
    message = (
        r"^a batch of 7 identities, but .* only 6 identities: choose 6 or fewer \(config\.batch"
    )
    with pytest.raises(UserError, match=message + r"\.identities\)$"):
        plan_run(config, LABELS)


def metrics(loss, lr=0.5):
    return {k: jnp.float32(v) for k, v in {"loss": loss, "loss_ce": 1.0, "lr": lr}.items()}


def test_a_window_reports_means_and_the_last_rate(tmp_path):
    window = Window(RunLength(3, 9), 8, NonFiniteReport(tmp_path, NAMES, LABELS))
    for loss, lr in ((1.0, 0.5), (4.0, 0.25)):
        window.add(metrics(loss, lr), ROW)
    figures = window.close(4, wait_seconds=0.0)
    assert (figures["step"], figures["epoch"]) == (4, 1)  # step 4 is the first of epoch 1
    assert (figures["loss"], figures["lr"], figures["data_wait"]) == (2.5, 0.25, 0)
    window.add(metrics(7.0), ROW)
    assert window.close(5, 0.0)["loss"] == 7  # without the steps of the window before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_its_images(bad, tmp_path):
    window = Window(RunLength(3, 9), 8, NonFiniteReport(tmp_path, NAMES, LABELS))
    for number, loss in enumerate((1.0, bad, np.nan)):
        window.add(metrics(loss), ROW + number)
    with pytest.raises(FloatingPointError) as error:
        window.close(7, 0.0)
    report = tmp_path / "not_finite.json"
    assert str(error.value) == (
        f"the loss is {bad} at step 6, on the images 'b.jpg', 'c.jpg', 'd.jpg' and 1 more "
        f"('{report}' names all): lower config.learning_rate, or look at the images; the last "
        "checkpoint is kept"
    )
    saved = json.loads(report.read_text())
    assert (saved["step"], saved["figures"]["loss"]) == (6, str(bad))
    assert saved["files"] == ["b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert saved["labels"] == [0, 0, 0, 1]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    window = Window(RunLength(3, 9), 8, NonFiniteReport(tmp_path, NAMES, LABELS))
    good = {"step": np.int32(5), "a": {"b": np.ones(3, np.float32)}}
    window.add(metrics(1.0), ROW)
    assert window.fetch_finite(5, good) == good
    with pytest.raises(FloatingPointError, match="a/b is not finite after step 5, on the images"):
        window.fetch_finite(5, good | {"a": {"b": jnp.array([1.0, np.inf])}})
    window.add(metrics(np.nan), ROW + 1)  # the loss became NaN before the state
    window.add(metrics(np.nan), ROW + 2)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 6, on the images 'b"):
        window.fetch_finite(7, good | {"a": {"b": jnp.array([1.0, np.nan])}})
