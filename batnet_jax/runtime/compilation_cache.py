"""Keeps this user's compiled programs on this machine, so that the next start takes seconds."""

import contextlib
import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax

MAX_BYTES = 2 * 1024**3
"""The cache's size at which the oldest programs are deleted."""


def use_compilation_cache() -> None:
    """Keep compiled programs in `cache_folder()`, and use the programs of earlier processes.

    Changes nothing if the caller has chosen a folder (JAX_COMPILATION_CACHE_DIR or JAX's setting),
    has turned the cache off (JAX_ENABLE_COMPILATION_CACHE=false), or if the folder cannot be made.
    JAX itself names an entry by program, compiler and flags, so that no other version uses it.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        delete_oldest(folder, MAX_BYTES)
    except (OSError, RuntimeError):  # no home, or a home that is read-only
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A start compiles dozens of small programs. JAX keeps only those that take a second.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def cache_folder() -> Path:
    """Return ~/.cache/batnet_jax/xla-MACHINE, or the same below XDG_CACHE_HOME.

    MACHINE depends on the processor's instructions, because different machines may share a home.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    machine = hashlib.sha256(_instructions().encode()).hexdigest()[:12]
    return root / "batnet_jax" / f"xla-{machine}"


def _instructions() -> str:
    """Return the names of the processor's instruction sets, or the processor's name."""
    with contextlib.suppress(OSError):
        found = re.search(r"^(flags|Features)\s*:.*", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[0]
    return f"{platform.machine()} {platform.processor()}"


def delete_oldest(folder: Path, max_bytes: int) -> None:
    """Delete the files that were written first until the folder holds `max_bytes` at most."""
    files = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # another process deletes, too
            files.append((entry.stat(), entry.path))
    total = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
        if total <= max_bytes:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= status.st_size
