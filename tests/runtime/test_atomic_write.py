"""A file is replaced as a whole or stays as it was."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.paths import ROOT

from batnet_jax.runtime import atomic_write
from batnet_jax.runtime.atomic_write import (
    atomic_path,
    flush_tree,
    open_lock,
    write_atomically,
)


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "file.json"
    write_atomically(path, "über\n")
    assert path.read_bytes() == "über\n".encode()
    write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert os.listdir(path.parent) == ["file.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask  # others may read it, as usual


@pytest.mark.parametrize("error", [KeyError, OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_without_an_old_file_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="half way"), atomic_path(tmp_path / "file"):
        raise ValueError("half way")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(OSError, match=r"/(file|folder)'"):
            write_atomically(path, "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_long_names(tmp_path):
    path = tmp_path / ("é" * 127)  # 254 bytes; a name may have 255
    write_atomically(path, "x")
    assert path.read_text() == "x"


def test_several_writers_of_one_path(tmp_path):
    path, contents = tmp_path / "file", [str(digit) * 100_000 for digit in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(path, content), contents))
    assert path.read_text() in contents
    assert os.listdir(tmp_path) == ["file"]


KILLED = """
import os, signal, sys, time
from pathlib import Path
from batnet_jax.runtime.atomic_write import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_a_file_that_the_next_writer_removes(tmp_path, monkeypatch):
    path = tmp_path / "a [name] with * signs"
    others = [f"{path.name}.partial", f"{path.name}.0123456z.partial", "b.01234567.partial"]
    for name in others:
        (tmp_path / name).write_text("another's")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as writer:
        assert writer.stdout.readline() == "writing\n"
        (orphan,) = set(os.listdir(tmp_path)) - set(others)
        monkeypatch.setattr(atomic_write, "ORPHAN_AGE", -1)
        write_atomically(path, "while the other writes")
        assert orphan in os.listdir(tmp_path)  # its writer has locked it
        writer.kill()
    monkeypatch.setattr(atomic_write, "ORPHAN_AGE", 60)
    write_atomically(path, "too soon")
    assert orphan in os.listdir(tmp_path)
    os.utime(tmp_path / orphan, (0, 0))
    write_atomically(path, "new")
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *others])
    assert path.read_text() == "new"


def test_file_and_folder_are_forced_to_the_disk_in_this_order(tmp_path, monkeypatch):
    """Otherwise a file that was written before a power cut may be empty, or gone, after it."""
    forced, sync = [], os.fsync

    def record(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        forced.append(path.replace(str(tmp_path), "").rpartition(".partial")[1] or "folder")
        assert path == str(tmp_path) or not (tmp_path / "file").exists()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(tmp_path / "file", "x")
    assert forced == [".partial", "folder"]


def test_a_tree_is_forced_to_the_disk(tmp_path, monkeypatch):
    forced, sync = set(), os.fsync

    def record(descriptor):
        forced.add(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        sync(descriptor)

    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    for name in ("a/x", "a/b/y"):
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(os, "fsync", record)
    flush_tree(tmp_path / "a")
    assert forced == {".", "a", "a/x", "a/b", "a/b/y", "a/b/c"}


def test_a_lock_follows_no_link_and_empties_no_file(tmp_path):
    victim, lock = tmp_path / "victim", tmp_path / "lock"
    victim.write_text("mine")
    lock.symlink_to(victim)
    with pytest.raises(OSError, match="'lock' is a link"):
        open_lock(lock)
    assert victim.read_text() == "mine"
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(OSError, match="'lock' is a pipe or a device"):
        open_lock(lock)
    lock.unlink()
    lock.write_bytes(b"process 7 \xff")
    with open_lock(lock) as file:
        assert file.read() == "process 7 \ufffd"
    lock.unlink()
    with open_lock(lock) as file:
        file.write("process 8")
    assert lock.read_text() == "process 8"
