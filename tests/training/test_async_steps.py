"""The loop waits for the device only where it writes a line of figures."""

import contextlib
from typing import Any

import jax
import numpy as np
import pytest

from batnet_jax.config import default_config
from batnet_jax.data.run_data import RunData, TrainingSet
from batnet_jax.runtime.signals import Signals
from batnet_jax.training import loop
from batnet_jax.training.non_finite import NonFiniteReport
from batnet_jax.training.profiling import StepTrace
from batnet_jax.training.progress import TrainingProgress
from batnet_jax.training.run_length import RunLength, batch_size
from batnet_jax.training.window import Window
from batnet_jax.workdir.checkpoints import NoManager

EVERY, STEPS = 4, 10
LABELS = np.repeat(np.arange(6), 4)


class Pending:
    """A scalar that is still being computed; every request for its value is noted."""

    def __init__(self, asked: list[str]):
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        # item(), block_until_ready(), copy_to_host_async(), ... ; NumPy probes for some
        if name.startswith("__array_"):
            raise AttributeError(name)
        self._asked.append(name)
        return lambda *_: 1.0

    def __array__(self, *_, **__):
        self._asked.append("__array__")
        return np.ones(())

    def __float__(self):
        self._asked.append("__float__")
        return 1.0

    def __bool__(self):
        self._asked.append("__bool__")
        return True


class Store:
    """Yields images of one pixel."""

    def batch(self, indices):
        return np.zeros((len(indices), 1, 1, 3), np.uint8)


class Lines:
    def __init__(self):
        self.steps = []

    def write(self, figures):
        self.steps.append(figures["step"])


def test_only_the_lines_of_figures_fetch_values(tmp_path, monkeypatch):
    asked, fetched, shown = [], [], []
    config = default_config()
    config.batch.identities = 2
    config.log.every_steps = EVERY
    config.eval.every_epochs = config.checkpoint.every_epochs = 1  # an epoch has one step here

    def step(state, batch):
        names = ("loss", "loss_ce", "loss_triplet", "lr")
        return state, {name: Pending(asked) for name in names}

    def device_get(tree):  # the only way to wait that is allowed
        fetched.append(len(jax.tree.leaves(tree)))
        return jax.tree.map(lambda _: np.float32(1), tree)

    class NothingSaved(loop.Run):
        def save(self):
            shown.append((self.step, len(fetched)))

        def evaluate(self):
            return {}

    monkeypatch.setattr(loop, "open_store", lambda *_: contextlib.nullcontext(Store()))
    monkeypatch.setattr(jax, "device_get", device_get)
    length, metrics_log = RunLength(1, STEPS), Lines()
    images: Any = None
    run = NothingSaved(
        config=config,
        data=RunData(TrainingSet(images, LABELS, []), [], []),
        length=length,
        workdir=tmp_path,
        metadata={},
        recipe=images,
        step_function=step,
        state=images,
        step=0,
        metrics_log=metrics_log,  # type: ignore[arg-type]
        manager=NoManager(),
        trace=StepTrace(tmp_path, 0, enabled=False),
        window=Window(length, batch_size(config), NonFiniteReport(tmp_path, [], LABELS)),
        progress=TrainingProgress(length),
        is_compiled=True,  # the first step of a process is waited for
    )
    loop.take_steps(run, Signals())
    assert asked == []
    assert metrics_log.steps == [4, 8, 10]
    assert fetched == [4 * EVERY, 4 * EVERY, 4 * 2]  # four figures a step, all at once
    # The figures are fetched for steps 4, 8 and 10 and never before.
    assert shown == [(n, n // EVERY + (n == STEPS)) for n in range(1, STEPS + 1)]


@pytest.mark.parametrize("look", [float, bool, np.asarray, lambda x: x.block_until_ready()])
def test_a_request_for_a_pending_value_is_noted(look):
    asked = []
    look(Pending(asked))
    assert asked
