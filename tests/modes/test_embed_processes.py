"""`embed` into a folder by several real processes, killed in the middle and started again."""

import os
import signal
import time

import numpy as np
import pytest
from support.photos import write_noise
from support.several_processes import finish, start
from support.tiny_run import write_run

import batnet_jax
from batnet_jax.errors import UserError
from batnet_jax.inference import shards
from batnet_jax.inference.feature_file import open_features

IMAGES, SHARD = 60, 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a folder with a run, images, and their features as one process has them."""
    folder = tmp_path_factory.mktemp("base")
    write_run(folder / "run")
    write_noise(folder / "images", IMAGES)
    batnet_jax.load(folder / "run").save_index(folder / "images", folder / "F.npz")
    return folder


def begin(base, folder, *arguments, processes=1, each=None):
    """Start the processes of a command."""
    words = (
        f"--workdir={base / 'run'}", "--mode=embed", f"--images={base / 'images'}",
        f"--output={folder}", f"--shard_images={SHARD}", *arguments,
    )  # fmt: skip
    options = {"processes": processes, "devices": 1, "JAX_ENABLE_X64": "0"}
    return start(words, **options, each=each or [()] * processes)


def wait_for_shards(folder, number, process):
    """Wait until some shards exist; return their times, by name."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if folder.exists() and len(shards.on_disk(folder)) >= number:
            break
        time.sleep(0.002)
    assert folder.exists(), "the process has ended before it has begun"
    there = [folder / shards.name_of(shard) for shard in shards.on_disk(folder)]
    return {path: path.stat().st_mtime_ns for path in there}


def assert_whole(base, folder, before):
    """Assert that a folder is what one process has written, and what was there has stayed.

    The file that a killed process has begun stays for a minute.
    """
    wanted, found = open_features(base / "F.npz"), open_features(folder)
    np.testing.assert_array_equal(found.features, wanted.features)
    assert list(found.paths) == wanted.paths
    assert {path: path.stat().st_mtime_ns for path in before} == before
    parts = [shards.name_of(number) for number in range(IMAGES // SHARD)]
    names = sorted(name for name in os.listdir(folder) if not name.endswith(".partial"))
    assert names == ["_manifest.json", "_plan.json", *parts]


def succeed(processes):
    ended = finish(processes)
    assert [status for status, *_ in ended] == [0] * len(processes), ended
    return ended


def killed(base, folder, processes):
    """Kill processes in the middle; assert that the gallery is refused; return what is there."""
    before = wait_for_shards(folder, 5, processes[0])
    for process in processes:
        process.kill()
    finish(processes)
    there = len(shards.on_disk(folder))
    assert 5 <= there < IMAGES // SHARD, "the processes were not killed in the middle"
    with pytest.raises(UserError, match=rf"is not whole: {there} of 30 shards"):
        open_features(folder)
    return before


def test_two_processes_are_killed_and_go_on(base, tmp_path):
    folder = tmp_path / "F"
    before = killed(base, folder, begin(base, folder, processes=2))
    (_, said, _), (_, other, _) = succeed(begin(base, folder, processes=2))
    assert f"written: {folder}, features [60, 32] in 30 shards" in said
    assert "written" not in other
    assert_whole(base, folder, before)


@pytest.mark.slow
def test_any_number_of_processes_goes_on(base, tmp_path):
    """Two begin, four go on, one ends; then four alone."""
    folder = tmp_path / "F"
    killed(base, folder, begin(base, folder, processes=2))
    four = begin(base, folder, processes=4)
    there = len(shards.on_disk(folder))
    before = wait_for_shards(folder, there + 4, four[0])
    for process in four:
        process.kill()
    finish(four)
    succeed(begin(base, folder))
    assert_whole(base, folder, before)
    succeed(begin(base, tmp_path / "G", processes=4))
    assert_whole(base, tmp_path / "G", {})


@pytest.mark.slow
def test_processes_of_an_array_are_killed_and_go_on(base, tmp_path):
    """They do not know each other; the one that is left does the work of the other, too."""
    folder = tmp_path / "F"
    array = [begin(base, folder, f"--shard={number}/2")[0] for number in range(2)]
    before = wait_for_shards(folder, 5, array[0])
    array[1].kill()
    (left, said, errors), (dead, *_) = finish(array)
    assert (left, dead) == (0, -signal.SIGKILL), errors
    if not (folder / shards.MANIFEST).exists():  # the dead one had a shard to the end
        succeed(begin(base, folder, "--shard=1/2"))
    else:
        assert f"written: {folder}, features [60, 32]" in said
    assert_whole(base, folder, before)


@pytest.mark.slow
def test_a_signal_to_one_ends_all(base, tmp_path):
    """The processes agree on a step, so the list must be long."""
    folder, long = tmp_path / "F", tmp_path / "list.txt"
    names = sorted(map(str, (base / "images").iterdir()))
    long.write_text("\n".join(names * 200))
    processes = begin(base, folder, f"--images={long}", processes=2)
    wait_for_shards(folder, 3, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    ended = finish(processes)
    assert [status for status, *_ in ended] == [143, 143], ended
    assert not [name for name in os.listdir(folder) if name.endswith(".partial")]
    assert not (folder / shards.MANIFEST).exists()


@pytest.mark.slow
def test_mistakes_end_all_processes(base, tmp_path):
    """Each process ends with status 2 and one line."""
    other = tmp_path / "list.txt"
    other.write_text(str(base / "images" / "00.png"))
    folder = tmp_path / "F"
    for arguments, each, message in (
        ((), [(), (f"--images={other}",)], "different images"),
        ((), [(), (f"--output={tmp_path / 'G'}",)], "different images"),
        (("--shard=0/2",), None, "--shard is for processes that do not know each other"),
        ((f"--output={tmp_path / 'F.npz'}", "--shard_images=7"), None, "needs a folder"),
    ):
        for status, _, errors in finish(begin(base, folder, *arguments, processes=2, each=each)):
            said = [line for line in errors.splitlines() if line.startswith("error: ")]
            assert (status, len(said), message in said[0]) == (2, 1, True), errors
            assert "Traceback" not in errors
