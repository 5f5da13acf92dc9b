"""Runs with a stub in place of the network, for tests of faults of disk, clock, memory and data.

Everything else is real: data set, loader, loop, checkpoints, metrics log, evaluation.
"""

import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batnet_jax.config import default_config
from batnet_jax.data.run_data import open_run_data
from batnet_jax.step.packing import pack_state, unpack_state
from batnet_jax.step.train_step import TrainState
from batnet_jax.training import loop as training
from batnet_jax.training import start
from batnet_jax.workdir import checkpoints
from support import needs

STEPS = 8


def tiny_config(folder, **fields):
    """Return the settings of a run of 8 steps on `pedestrians:tiny`, each saved and logged."""
    c = default_config()
    c.data.dataset, c.data.variant, c.data.dir = "pedestrians", "tiny", str(folder / "data")
    c.data.image_size = (64, 32)
    c.batch.identities, c.batch.images_per_identity = 4, 2
    c.steps = STEPS
    c.log.every_steps = 1
    c.checkpoint.keep = 20
    c.update_from_flattened_dict(fields)
    return c


def fake_state(recipe, image_size):
    """Return a state of three small arrays."""
    del recipe, image_size
    value = np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32)
    zeros = {"momentum": np.zeros((30, 40), np.float32)}
    return TrainState(np.zeros((), np.int32), np.zeros((), np.int32), {"w": value}, {}, zeros)  # type: ignore


def fake_step(state, batch, *, recipe):
    """Take a step that depends on the state, the images and the labels."""
    del recipe
    state = unpack_state(state)
    pixels = batch["image"].astype(jnp.float32).mean() / 255
    loss = pixels + jnp.mean(batch["label"]) + jnp.abs(state.params["w"]).mean()
    momentum = 0.9 * state.opt_state["momentum"] + loss
    parts = {"loss": loss, "loss_ce": loss / 2, "loss_triplet": loss / 2, "lr": jnp.float32(0.1)}
    after = TrainState(
        state.step + 1, state.seed, {"w": state.params["w"] * 0.9 + momentum}, {},
        {"momentum": momentum},
    )  # fmt: skip
    return pack_state(after), parts


def fake_embed(model, variables):
    """Embed as mean colours of the upper and the lower half, times a number of the state."""
    del model
    scale = np.float32(variables["params"]["w"].mean())

    def embed(images):
        halves = images.reshape(len(images), 2, -1, 3).mean(2, dtype=np.float32)
        features = (halves * scale).reshape(len(images), 6)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    return embed


class Runs:
    """Runs in one folder, with one prepared data set."""

    def __init__(self, folder, data, monkeypatch):
        self.folder, self.data, self.monkeypatch = folder, data, monkeypatch
        monkeypatch.setattr(start, "init_state", fake_state)
        monkeypatch.setattr(training, "train_step", fake_step)
        monkeypatch.setattr(training, "make_embed", fake_embed)

    def config(self, **fields):
        return tiny_config(self.data, **fields)

    def train(self, name="run", **fields):
        """Train or resume; return the workdir."""
        config = self.config(**{"checkpoint.every_epochs": 1, **fields})
        self.every_step_is_an_epoch()
        training.train(config, open_run_data(config), self.folder / name)
        return self.folder / name

    def every_step_is_an_epoch(self):
        plan = training.plan_run
        if plan.__name__ == "plan_run":
            self.monkeypatch.setattr(
                training, "plan_run", lambda *a: plan(*a)._replace(steps_per_epoch=1)
            )
            batches = training.batches
            self.monkeypatch.setattr(
                training, "batches",
                lambda config, labels, first, length: batches(
                    config, labels, first, plan(config, labels)
                ),
            )  # fmt: skip

    def fail_at(self, step, break_it):
        """Let `break_it(state, parts)` change the results of a step."""

        def broken(state, batch, *, recipe):
            new, parts = fake_step(state, batch, recipe=recipe)
            bad, bad_parts = break_it(new, parts)
            at = new.step == step
            choose = lambda a, b: jax.tree.map(lambda x, y: jnp.where(at, x, y), a, b)  # noqa: E731
            return choose(bad, new), choose(bad_parts, parts)

        self.monkeypatch.setattr(training, "train_step", broken)


def steps_saved(workdir):
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def arrays(workdir, step=STEPS):
    """Return all arrays of a checkpoint by name."""
    state = checkpoints.restore_state(workdir, step, fake_state(None, None))
    named = jax.tree.leaves_with_path(vars(state))
    return {jax.tree_util.keystr(name): np.asarray(value) for name, value in named}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a folder whose data/ holds the prepared data set."""
    folder = tmp_path_factory.mktemp("faults")
    open_run_data(tiny_config(folder))
    return folder


@pytest.fixture
def runs(tmp_path, prepared, monkeypatch):
    return Runs(tmp_path, prepared, monkeypatch)


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on its own disk of 4 MB."""
    needs.program("mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave=0):
    """Fill the disk of a folder, except for `leave` bytes."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    os.truncate(path, max(0, path.stat().st_size - leave))
