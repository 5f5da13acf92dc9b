"""The user's cache of compiled programs: where it is, when it is left alone, what is deleted."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from batnet_jax.runtime import compilation_cache
from batnet_jax.runtime.compilation_cache import cache_folder, delete_oldest, use_compilation_cache


@pytest.fixture
def no_folder(monkeypatch, tmp_path):
    """Let JAX have no folder yet, and let the user's caches be in tmp_path."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_folder_is_the_users(no_folder, monkeypatch):
    use_compilation_cache()
    found = Path(jax.config.jax_compilation_cache_dir)
    assert found.is_dir()
    assert found.parent == no_folder / "batnet_jax"
    for home in ("", "relative/folder"):  # the XDG rules: a relative path is not used
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        assert cache_folder().parent == Path.home() / ".cache" / "batnet_jax"


def test_unequal_machines_do_not_share(monkeypatch):
    mine = cache_folder()
    monkeypatch.setattr(compilation_cache, "_instructions", lambda: "flags : fpu other")
    assert cache_folder() != mine
    assert cache_folder().parent == mine.parent


def test_the_callers_choice_stands(no_folder):
    jax.config.update("jax_compilation_cache_dir", str(no_folder / "own"))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(no_folder / "own")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        use_compilation_cache()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(no_folder.iterdir())


def test_without_a_folder_that_can_be_made(no_folder, monkeypatch):
    (no_folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder / "file"))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_programs_go_first(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    delete_oldest(tmp_path, 30)
    assert len(list(tmp_path.iterdir())) == 3
    delete_oldest(tmp_path, 29)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}
    delete_oldest(tmp_path, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # two starts
def test_a_second_process_compiles_nothing(tmp_path):
    script = (
        "import jax\n"
        "from batnet_jax.runtime.compilation_cache import use_compilation_cache\n"
        "use_compilation_cache()\n"
        "jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((3, 3)))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}

    def files():
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        return {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*-cache")}

    first = files()
    assert first
    assert files() == first
