import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections import namedtuple

import cv2
import numpy as np
import pytest
from support.cached_photos import IMAGE_BYTES, SIZE, START, N, Photos, expected, open_store
from support.paths import ROOT

from batnet_jax.errors import UserError


def check(folder, decoded=(), size=SIZE, **options):
    """Check that a new store returns all images and decodes only those in `decoded`, once."""
    photos = Photos()
    with open_store(photos, folder, size, **options) as store:
        for _ in range(2):
            np.testing.assert_array_equal(store.batch(np.arange(N)), expected(size))
    assert photos.reads.tolist() == [int(i in decoded) for i in range(N)]


def cache_file(folder):
    (path,) = folder.glob("*.images")
    return path


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.fixture
def filled(tmp_path):
    folder = tmp_path / "cache"
    check(folder, decoded=range(N))
    return folder


def test_later_runs_decode_nothing(filled):
    check(filled)
    assert cache_file(filled).stat().st_size == START + N * IMAGE_BYTES


def test_a_run_continues_another_runs_cache(tmp_path):
    with open_store(Photos(), tmp_path) as store:
        store.batch(np.array([3, 5, 3]))
    check(tmp_path, decoded=set(range(N)) - {3, 5})


def test_a_link_in_place_of_the_file_is_replaced(filled, tmp_path):
    path, victim = cache_file(filled), tmp_path / "victim"
    path.replace(victim)
    overwrite(victim, 0, bytes(victim.stat().st_size))
    path.symlink_to(victim)
    check(filled, decoded=range(N))
    assert not path.is_symlink()
    assert not any(victim.read_bytes())


def test_two_runs_share_the_file_while_they_run(tmp_path):
    first, second = Photos(), Photos()
    with open_store(first, tmp_path) as a, open_store(second, tmp_path) as b:
        a.batch(np.array([0, 1]))
        np.testing.assert_array_equal(b.batch(np.array([1, 2])), expected()[[1, 2]])
    assert second.reads.tolist() == [0, 0, 1] + [0] * 9


def test_two_runs_fill_at_once(tmp_path):
    wrong = []

    def fill(seed):
        with open_store(Photos(), tmp_path) as store:
            for _ in range(20):
                rows = np.random.default_rng(seed).integers(0, N, 8)
                if not np.array_equal(store.batch(rows), expected()[rows]):
                    wrong.append(rows)

    threads = [threading.Thread(target=fill, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with open_store(Photos(), tmp_path) as store:
        store.batch(np.arange(N))
    check(tmp_path)


KILLED = """
import os, pathlib, signal
import numpy as np
from support.cached_photos import N, Photos, open_store

pwrite, calls = os.pwrite, []

def pwrite_until_killed(file, data, offset):
    calls.append(offset)
    if len(calls) == 7:  # the fourth image's pixels
        pwrite(file, data[: len(data) // 2], offset)
        os.kill(os.getpid(), signal.SIGKILL)
    return pwrite(file, data, offset)

os.pwrite = pwrite_until_killed
with open_store(Photos(), pathlib.Path(r"{folder}"), workers=1) as store:
    store.batch(np.arange(N))
"""


def test_a_run_killed_in_the_middle_of_an_image(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(folder=tmp_path)], cwd=ROOT / "tests"
    )
    assert done.returncode == -signal.SIGKILL
    check(tmp_path, decoded=range(3, N))
    check(tmp_path)


@pytest.mark.parametrize("data", [b"\x5a", bytes(IMAGE_BYTES)], ids=["a byte", "lost pages"])
def test_pixels_that_are_not_what_was_written(filled, data):
    overwrite(cache_file(filled), START + 2 * IMAGE_BYTES, data)
    check(filled, decoded={2})
    check(filled)


def test_a_checksum_that_was_lost(filled):
    overwrite(cache_file(filled), 4 * 7, bytes(4))
    check(filled, decoded={7})
    check(filled)


def test_an_image_whose_checksum_is_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(zlib, "crc32", lambda data: 0)
    check(tmp_path, decoded=range(N))
    check(tmp_path)


@pytest.mark.parametrize("length", [0, START + 3 * IMAGE_BYTES, START + (N + 1) * IMAGE_BYTES])
def test_a_file_of_the_wrong_length_is_replaced(filled, length):
    os.truncate(cache_file(filled), length)
    check(filled, decoded=range(N))
    check(filled)


def test_a_file_that_is_cut_off_or_replaced_while_it_is_used(filled):
    photos = Photos()
    with open_store(photos, filled) as store:
        store.batch(np.arange(N))
        os.truncate(cache_file(filled), START + 3 * IMAGE_BYTES)
        check(filled, decoded=range(N))  # replaces the file
        np.testing.assert_array_equal(store.batch(np.arange(N)), expected())
    assert photos.reads.tolist() == [0] * 3 + [1] * 9


def test_sizes_do_not_mix(filled):
    check(filled, decoded=range(N), size=(8, 16))  # the same number of bytes
    check(filled, decoded=range(N), size=(20, 10))
    check(filled)
    check(filled, size=(8, 16))


def test_builds_of_opencv_do_not_mix(filled, monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "another JPEG library")
    check(filled, decoded=range(N))


def test_disk_only_if_memory_is_too_small(tmp_path):
    limit = N * IMAGE_BYTES / 1e9
    check(tmp_path / "a", decoded=range(N), cache_gb=limit)
    check(tmp_path / "b", decoded=range(N), disk_cache_gb=limit)
    assert not (tmp_path / "a").exists()
    assert cache_file(tmp_path / "b").exists()


@pytest.mark.parametrize("options", [{"disk_cache": None}, {"disk_cache_gb": 1e-9}])
def test_no_cache_on_disk_is_silent(tmp_path, capfd, options):
    uncached(tmp_path, **options)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def uncached(folder, **options):
    """Check that a store returns all images and decodes each on every access."""
    photos = Photos()
    with open_store(photos, folder, **options) as store:
        for _ in range(2):
            np.testing.assert_array_equal(store.batch(np.arange(N)), expected())
    assert photos.reads.tolist() == [2] * N


def test_no_room_on_the_disk(tmp_path, monkeypatch, capfd):
    usage = namedtuple("usage", "free")
    need = START + N * IMAGE_BYTES + 10**9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(need - 1))
    uncached(tmp_path)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"no cache in '{tmp_path}' (it wants 1.0 GB to be free, 1.0 GB are): "
        "images are decoded again each time"
    )
    assert list(tmp_path.glob("*.images*")) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(need))
    check(tmp_path, decoded=range(N))


def test_a_filled_cache_needs_no_room(filled, monkeypatch):
    usage = namedtuple("usage", "free")
    need = START + N * IMAGE_BYTES + 10**9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(need - 4096))
    check(filled)


def test_a_folder_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "cache"
    uncached(folder)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"no cache in '{folder}' (Not a directory): images are decoded again")


def test_a_disk_that_fills_up(tmp_path, monkeypatch, capfd):
    """Four images and a part of the fifth are written; the others are decoded on each access."""
    pwrite, calls = os.pwrite, []

    def pwrite_until_full(file, data, offset):
        calls.append(offset)
        if len(calls) == 9:
            return pwrite(file, data[:100], offset)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite_until_full)
    photos = Photos()
    with open_store(photos, tmp_path, workers=1) as store:
        for _ in range(2):
            np.testing.assert_array_equal(store.batch(np.arange(N)), expected())
    assert photos.reads.tolist() == [1] * 4 + [2] * 8
    (line,) = capfd.readouterr().err.splitlines()
    path = cache_file(tmp_path)
    assert line.startswith(f"cannot write to '{path}' (No space left on device): images that")
    monkeypatch.undo()
    check(tmp_path, decoded=range(4, N))


def test_a_disk_that_writes_in_pieces(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:100], at))
    check(tmp_path, decoded=range(N))
    check(tmp_path)


def test_a_disk_that_fails_to_read(filled, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    photos = Photos()
    with open_store(photos, filled) as store:
        np.testing.assert_array_equal(store.batch(np.arange(N)), expected())
    assert photos.reads.tolist() == [1] * N


def test_a_broken_image_is_named_every_time(tmp_path):
    photos = Photos()
    photos.files[3] = b"no image"
    with open_store(photos, tmp_path) as store:
        for _ in range(2):
            with pytest.raises(UserError, match=r"'3\.png'"):
                store.batch(np.array([2, 3]))
