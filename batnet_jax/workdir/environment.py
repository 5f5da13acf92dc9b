"""The environment of a run: `environment.jsonl` has a line for each start."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from batnet_jax.runtime.paths import exists
from batnet_jax.runtime.read_files import read_bytes, reason
from batnet_jax.workdir.gcs import write_whole
from batnet_jax.workdir.results import tell_left_out

ENVIRONMENT = "environment.jsonl"
ROOT = Path(__file__).resolve().parents[2]


def record(workdir: Path, *, seed: int, step: int) -> None:
    """Add a line for this start.

    Args:
      workdir: of the run; exists.
      seed: of the config.
      step: steps taken before this start.
    """
    path, line = workdir / ENVIRONMENT, json.dumps(describe() | {"seed": seed, "step": step}) + "\n"
    try:
        before = read_bytes(path) if exists(path) else b""
    except OSError as error:
        tell_left_out([f"'{path}' cannot be read ({reason(error)})"])
        before = b""
    if before and not before.endswith(b"\n"):  # cut off by a kill
        before += b"\n"
    write_whole(path, before + line.encode())


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `environment.jsonl`, except damaged ones; none without a file."""
    try:
        text = read_bytes(workdir / ENVIRONMENT).decode(errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            start = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(start, dict) and isinstance(start.get("time"), str):
            found.append(start)
    return found


def describe() -> dict[str, Any]:
    """Return code, versions, machine and devices of this process, as JSON."""
    devices = jax.devices()
    kinds = [device.device_kind for device in devices]
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git": git_state(ROOT),
        "python": platform.python_version(),
        "packages": versions(),
        "host": platform.node(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "platform": devices[0].platform,
        "devices": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of this package and of its requirements."""
    try:
        required = importlib.metadata.requires("batnet-jax") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source folder
        required = []
    names = {"batnet-jax", "jax", "jaxlib", "flax", "optax", "numpy"}
    names |= {_name(line) for line in required if "extra ==" not in line}
    found = {}
    for name in sorted(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _name(requirement: str) -> str:
    """Return the package's name in a requirement such as "jax<0.12,>=0.10"."""
    end = next((i for i, c in enumerate(requirement) if not (c.isalnum() or c in "-_.")), None)
    return requirement[:end]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a git checkout and the files changed since; None for other folders."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        if Path(_git(folder, "rev-parse", "--show-toplevel")).resolve() != folder:
            return None  # an installed package within another project's checkout
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": [line[3:] for line in changed.splitlines()]}


def _git(folder: Path, *arguments: str) -> str:
    # Without optional locks git writes nothing to the checkout, which others may be using.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.rstrip("\n")
