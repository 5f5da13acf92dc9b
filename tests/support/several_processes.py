"""Run the package in several processes on this machine, connected as on several hosts."""

import os
import socket
import subprocess
import sys
import time

from support.fast_jit import FLAGS
from support.paths import ROOT
from support.run_main import SMALL, TOY

CHILD = ROOT / "tests" / "support" / "subprocess_main.py"
"""The script of each process that checks functions."""

# Unoptimised code compiles in a third of the time.

STEPS = 24
PLAN = (
    "--config.model.backbone=toy", f"--config.steps={STEPS}", "--config.seed=3",
    "--config.checkpoint.every_epochs=1",
    "--config.eval.batch=16", "--config.model.dtype=float64", "--config.learning_rate=1e-4",
)  # fmt: skip
"""Flags of every run: STEPS steps in float64, so that sums in another order differ little."""

TINY = tuple(flag.replace("(64, 32)", "(32, 16)") for flag in SMALL)
"""The flags of a small run, with still smaller images."""

BARE = ("--config.model.attention=none", "--config.model.num_parts=0")
"""Flags that take attention and part streams out of the network, which compiles faster."""

WHOLE = ("--config.model.attention=aia", "--config.model.num_parts=1")
"""Flags that put them back when given after BARE: the last value of a flag counts."""


def start(arguments, processes=2, devices=2, **environment):
    """Start the processes of a run with `arguments`.

    `each=` gives further arguments for each process; other keywords are environment variables.
    """
    each = environment.pop("each", [()] * processes)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FLAGS}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "BATNET_HEARTBEAT": os.environ.get("BATNET_HEARTBEAT", "300"),
        **environment,
    }
    if processes > 1:
        common |= {
            "BATNET_DISTRIBUTED": "1",
            "BATNET_COORDINATOR": f"localhost:{port}",
            "BATNET_NUM_PROCESSES": str(processes),
        }
    entry = TOY if str(arguments[0]).startswith("--") else (CHILD,)
    return [
        subprocess.Popen(
            [sys.executable, *entry, *map(str, arguments), *more],
            cwd=ROOT, env=common | {"BATNET_PROCESS_ID": str(number)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number, more in zip(range(processes), each, strict=True)
    ]  # fmt: skip


def finish(processes, timeout=600):
    """Wait for the processes; return (status, stdout, stderr) of each."""
    deadline = time.monotonic() + timeout
    try:
        outputs = [p.communicate(timeout=deadline - time.monotonic()) for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, outputs, strict=True)]


def small(folder, workdir, *arguments):
    """Return the arguments of a run on the data in folder/data."""
    base = ("--config=configs/demo.py", f"--config.data.dir={folder / 'data'}", *TINY)
    return [*base, f"--workdir={workdir}", *PLAN, *BARE, *arguments]
