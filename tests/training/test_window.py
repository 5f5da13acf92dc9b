"""The figures of a few steps, and what a user sees of them."""

import time

import numpy as np
import pytest

from batnet_jax.training.non_finite import NonFiniteReport
from batnet_jax.training.progress import TrainingProgress
from batnet_jax.training.run_length import RunLength
from batnet_jax.training.window import Window

LENGTH = RunLength(steps_per_epoch=4, total=10)


@pytest.fixture
def now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def add(window, loss):
    window.add({"loss": np.float32(loss), "lr": np.float32(0.5)}, np.arange(8))


def test_the_step_that_compiles_is_left_out_of_the_rate(now, tmp_path):
    window = Window(LENGTH, 8, NonFiniteReport(tmp_path, [], np.zeros(0)))
    add(window, 1)
    now[0] += 60
    window.leave_out(60, wait_seconds=5)
    for loss in (2, 3):
        add(window, loss)
        now[0] += 2
    figures = window.close(3, wait_seconds=6)
    assert figures["loss"] == 2  # of all three steps
    assert figures["images_per_second"] == 16 / 4
    assert figures["data_wait"] == 1 / 4
    add(window, 1)
    now[0] += 4
    assert window.close(4, wait_seconds=6)["images_per_second"] == 2


def test_a_window_of_this_step_alone_has_its_rate(now, tmp_path):
    window = Window(LENGTH, 8, NonFiniteReport(tmp_path, [], np.zeros(0)))
    add(window, 1)
    now[0] += 60
    window.leave_out(60, wait_seconds=5)
    figures = window.close(1, wait_seconds=5)
    assert figures["images_per_second"] == 8 / 60
    assert figures["data_wait"] == 0


def test_what_stands_behind_the_bar():
    progress = TrainingProgress(LENGTH)
    assert progress.note(1) == "epoch 1/3"
    progress.after_step(1, {"lr": 3e-3, "loss": 2.25})
    assert progress.note(4) == "epoch 1/3, lr 0.003, loss 2.250"
    progress.evaluated(0.5678)
    progress.after_step(5, {"lr": 1e-5, "loss": 1, "images_per_second": 1234.4})
    progress.after_step(6)
    assert progress.note(10) == "epoch 3/3, lr 1e-05, loss 1.000, 1,234 images/s, mAP 56.8%"
    progress.close()
    assert TrainingProgress(LENGTH, mean_ap=0.25).note(5) == "epoch 2/3, mAP 25.0%"
