"""The command lines and images with which tests/kept/make.py and tests/house/test_kept.py work."""

import os
import subprocess
import sys

import numpy as np

from support.fast_jit import FLAGS as FAST_FLAGS
from support.paths import ROOT

TIME = 1_700_000_000 * 10**9
"""Modification time of the photos, which is part of the name of their prepared copy."""
RUN = (
    f"--config={ROOT / 'configs' / 'demo.py'}",
    "--workdir=run",
    "--config.decay_epochs=(6,)",  # as the demo had it
    "--config.warmup_epochs=0",
    "--config.data.train='pedestrians:tiny','folder:photos'",
    "--config.data.image_size=(64, 32)",
    "--config.model.width=0.03125",
    "--config.model.num_parts=1",
    "--config.model.embedding_dim=16",
    "--config.model.part_sampling=published",
    "--config.batch.identities=4",
    "--config.batch.images_per_identity=2",
    "--config.log.every_steps=1",
    "--config.eval.batch=8",
)
EVALUATE = (
    "--mode=eval",
    "--config.eval.step=3",
    "--config.eval.breakdown=True",
    "--config.eval.datasets='pedestrians:tiny','folder:photos','market1501'",
)
# The whole network is compiled here, in a third of the time: see fast_jit.py.
FLAGS = f"--xla_force_host_platform_device_count=1 {FAST_FLAGS}"


def run_python(folder, *arguments):
    """Run Python in a folder; return the finished process."""
    environment = os.environ | {
        "XLA_FLAGS": FLAGS,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def run_main(folder, *arguments):
    """Run a command line of the package in a folder; return the finished process."""
    return run_python(folder, "-m", "batnet_jax.main", *arguments)


def fixed_images():
    """Draw waves of different lengths and directions: [6, 48, 24, 3] uint8."""
    y, x = np.mgrid[:48, :24]
    waves = [
        np.stack([np.sin(0.1 * (i + 1) * y + 0.3 * c * x + i * c) for c in range(3)], -1)
        for i in range(6)
    ]
    return np.round(127.5 + 120 * np.stack(waves)).astype(np.uint8)
