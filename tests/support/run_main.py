"""Run command lines of the package, in this process or in another, and compare the runs' files."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
import warnings
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags

from batnet_jax import main
from batnet_jax.commands.words import to_flags
from support import fast_jit
from support.paths import ROOT

SMALL = (
    "--config.data.variant=tiny",
    "--config.data.image_size=(64, 32)",
    "--config.model.width=0.0625",
    "--config.model.num_parts=1",
    "--config.model.embedding_dim=32",
    "--config.batch.identities=4",
    "--config.batch.images_per_identity=2",
    "--config.log.every_steps=1",
)
"""Flags of a run on few and small images. One part stream instead of four compiles faster."""

STEPS = 24
PLAN = (
    "--config.model.backbone=toy",
    f"--config.steps={STEPS}",
    "--config.seed=3",
    "--config.checkpoint.every_epochs=1",
    "--config.eval.every_epochs=1",
)
"""Flags of the run that tests interrupt: STEPS steps, saved and evaluated after every epoch."""

MAIN = ("-m", "batnet_jax.main")
"""Python's arguments for the package's own entry point."""

CUT = (str(ROOT / "tests" / "support" / "subprocess_main.py"),)
"""The same entry point with a shortened backbone, which compiles faster."""

TOY = (str(ROOT / "tests" / "support" / "toy_main.py"),)
"""The same entry point with `model.backbone="toy"` as a choice, see support/toy_backbone.py."""


def run_main(*arguments, devices=1, entry=MAIN):
    """Run a command line in a process of its own and return the finished process."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {fast_jit.FLAGS}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, *entry, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


def parse_again(*arguments):
    """Set sys.argv to a command line, and the flags of this process to their defaults.

    Tests that call it restore sys.argv.
    """
    forget_flags()
    sys.argv = to_flags(["main", *map(str, arguments)])


def forget_flags():
    """Set the flags of this process to their defaults."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    flags.FLAGS.unparse_flags()


def call_main(*arguments):
    """Run a command line in this process, which is faster than starting another.

    Returns: the exit status and the text on stderr.
    """
    stderr = io.StringIO()
    silent = warnings.catch_warnings()
    with mock.patch.object(sys, "argv"), contextlib.redirect_stderr(stderr), silent:
        warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)  # config_flags'
        forget_flags()
        return main.run(["main", *map(str, arguments)]), stderr.getvalue()


def run_small(folder, workdir, *arguments, devices=1, entry=CUT):
    """Run the demo with the flags SMALL on the data in folder/data; return the finished process."""
    data = f"--config.data.dir={folder / 'data'}"
    words = ("--config=configs/demo.py", data, f"--workdir={workdir}", *SMALL, *arguments)
    return run_main(*words, devices=devices, entry=entry)


def start_small(folder, workdir, *arguments, entry=CUT):
    """Start the run of `run_small` and return its process at once."""
    command = [sys.executable, *entry, "--config=configs/demo.py", *SMALL]
    command += [f"--config.data.dir={folder / 'data'}", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_steps(process, workdir, steps):
    """Wait until metrics.jsonl has `steps` lines or the process has ended, 300 s at most."""
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_text().count("\n") >= steps:
            return
        time.sleep(0.005)


def lines(workdir, without=("images_per_second", "data_wait")):
    """Return the records of metrics.jsonl without the fields that depend on the clock."""
    text = (workdir / "metrics.jsonl").read_text().splitlines()
    figures = [json.loads(line) for line in text]
    return [{k: v for k, v in f.items() if k not in without} for f in figures]


def steps_saved(workdir):
    """Return the steps of a run's checkpoints in ascending order."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())


def arrays(workdir, step=STEPS):
    """Return all arrays of a checkpoint by name: parameters, statistics, optimizer state."""
    path = (workdir / "checkpoints" / str(step) / "state").absolute()
    with ocp.PyTreeCheckpointer() as reader:
        return {
            jax.tree_util.keystr(name): np.asarray(value)
            for name, value in jax.tree.leaves_with_path(reader.restore(path))
        }


def assert_same_run(workdir, whole):
    """Check that two runs have equal metrics, arrays and evaluations, and no unfinished files."""
    assert lines(workdir) == lines(whole)
    mine, theirs = arrays(workdir), arrays(whole)
    assert mine.keys() == theirs.keys()
    assert len(mine) > 50
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    ours, theirs = (
        {p.name: json.loads(p.read_text()) for p in (folder / "eval").glob("*.json")}
        for folder in (workdir, whole)
    )
    assert ours == theirs
    assert ours
    assert not [p for p in (workdir / "checkpoints").iterdir() if not p.name.isdecimal()]
