"""Keeps the time that programs took to compile on this machine, beside the compiled programs."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from batnet_jax.runtime import processes
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.progress import format_seconds, waiting
from batnet_jax.runtime.read_files import is_number, read_json

MOST_KEPT = 200
"""Programs whose time is kept; the programs that were compiled longest ago are dropped."""


WORDS = ("compiling", "compiled")


@contextlib.contextmanager
def compiling(
    program: str, *parts: Any, delay: float = 0, words: tuple[str, str] = WORDS
) -> Iterator[None]:
    """Show that the context compiles a program, and how long it took the last time.

    Args:
      program: its name.
      parts: everything that the program depends on; their `repr` identifies the program.
      delay: seconds that may pass before anything is shown.
      words: the verb in progress and the verb when done, such as "compiling" and "compiled".
    """
    key = program_key(program, *parts)
    last = read_seconds().get(key)
    known = "the first time" if last is None else f"{format_seconds(last)} the last time"
    what, done = words
    line = f"{what}, once; {known} on this machine"
    with waiting(line, done, delay=delay) as seconds:
        yield
    if processes.is_lead():
        keep_seconds(key, seconds())


def program_key(program: str, *parts: Any) -> str:
    """Return the name under which the time of a program is kept."""
    devices = jax.devices()
    text = repr((jax.__version__, devices[0].device_kind, len(devices), parts))
    return f"{program} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def seconds_file() -> Path | None:
    """Return the file of the times, beside JAX's cache; None if the cache is not in a folder."""
    config: Any = jax.config
    folder = config.jax_compilation_cache_dir
    if not folder or "://" in folder or not config.jax_enable_compilation_cache:
        return None
    path = Path(folder)
    return path.with_name(f"{path.name}-seconds.json")


def read_seconds() -> dict[str, float]:
    """Return the seconds that programs took, the last one last; none if the file is damaged."""
    path = seconds_file()
    try:
        found = {} if path is None else read_json(path)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: float(value) for name, value in found.items() if is_number(value)}


def keep_seconds(key: str, seconds: float) -> None:
    """Keep the time of a program; do nothing if it cannot be written."""
    path = seconds_file()
    if path is None:
        return
    found = read_seconds()
    found.pop(key, None)
    kept = dict([*found.items(), (key, round(seconds, 1))][-MOST_KEPT:])
    with contextlib.suppress(OSError):
        write_atomically(path, json.dumps(kept, indent=1) + "\n")
