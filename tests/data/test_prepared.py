"""Preparing data sets: once, after a change, killed, damaged, in two processes at once."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from support.paths import ROOT as REPOSITORY
from support.tiny_datasets import JPG, MARKET, contents, parts, write_zip

from batnet_jax.data import DATASETS, load_dataset, prepared
from batnet_jax.data.prepared import make_builder, open_prepared
from batnet_jax.errors import UserError


def test_prepared_once_then_reused_without_the_originals(tmp_path, market, capfd):
    first = contents(load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market))
    out, err = capfd.readouterr()
    assert out == ""
    assert str(tmp_path / "data" / "market1501" / "1.0.0") in err
    shutil.rmtree(market)
    second = load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market)
    assert contents(second) == first
    assert capfd.readouterr() == ("", "")
    assert {p.name for p in (tmp_path / "data").iterdir()} == {"market1501"}


@pytest.mark.parametrize("change", ["add", "remove", "rename", "replace", "touch archive"])
def test_changed_folder_is_prepared_again(tmp_path, market, change):
    before = load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market)
    query = market / "query"
    if change == "add":
        (query / "0009_c1.jpg").write_bytes(JPG)
    elif change == "remove":
        (query / "0001_c1s1_000001_00.jpg").unlink()
    elif change == "rename":
        (query / "0001_c1s1_000001_00.jpg").rename(query / "0002_c1s1_000001_00.jpg")
    elif change == "replace":  # by an image of the same size
        path = query / "0001_c1s1_000001_00.jpg"
        image = bytearray(JPG)
        image[13] ^= 1  # a byte of the JPEG header: the density unit
        path.write_bytes(image)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 10_000_000))
    else:
        archive = write_zip(tmp_path / "m.zip", MARKET)
        before = load_dataset("folder", data_dir=tmp_path / "data", manual_dir=archive)
        write_zip(archive, {k: v for k, v in MARKET.items() if "0003_c10" not in k})
        market = archive
    after = load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market)
    assert contents(after) != contents(before)
    fresh = load_dataset("folder", data_dir=tmp_path / "fresh", manual_dir=market)
    assert contents(after) == contents(fresh)


def test_other_files_in_the_folder_do_not_matter(tmp_path, market, capfd):
    load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market)
    (market / "query" / "Thumbs.db").write_bytes(b"new")
    capfd.readouterr()
    load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market)
    assert capfd.readouterr().err == ""


CHILD = """
import sys, time
from batnet_jax.data import builder, load_dataset
seen, check = [], builder.check_image
def check_and_hang(encoded, name):
    checked = check(encoded, name)
    seen.append(name)
    if len(seen) == 6:  # in the last split
        print("in the middle", flush=True)
        time.sleep(600)
    return checked
builder.check_image = check_and_hang
load_dataset("folder", data_dir=sys.argv[1], manual_dir=sys.argv[2])
"""


def test_killed_while_preparing(tmp_path, market):
    data = tmp_path / "data"
    command = [sys.executable, "-c", CHILD, str(data), str(market)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in the middle\n"
        child.send_signal(signal.SIGKILL)
    assert len(list(data.rglob("*array_record*"))) >= 2  # a part was left
    dataset = load_dataset("folder", data_dir=data, manual_dir=market)
    assert [len(s) for s in parts(dataset)] == [3, 2, 3]
    assert list(data.rglob("incomplete*")) == []


def test_what_lies_where_a_killed_run_left_its_folder(tmp_path, market):
    """A link or a file of the name is removed; what a link names stays."""
    place, victim = tmp_path / "data" / "market1501", tmp_path / "victim"
    place.mkdir(parents=True)
    victim.mkdir()
    (victim / "mine").write_text("mine")
    (place / "incomplete.1_1.0.0").symlink_to(victim)
    (place / "incomplete.2_1.0.0").write_text("")
    (place / "incomplete.3_1.0.0").mkdir()
    load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market)
    assert (victim / "mine").read_text() == "mine"
    assert sorted(p.name for p in place.iterdir()) == [".lock", "1.0.0"]


def test_two_at_once(tmp_path, market):
    """The second process waits for the first and uses its result."""
    results = []

    def load():
        results.append(load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert contents(results[0]) == contents(results[1]) == contents(results[2])


def test_prepared_by_another_process_at_any_moment(tmp_path, market, monkeypatch):
    """After the builder is made, or while it waits for the lock."""
    for moment in ("before the look", "at the lock"):
        data = tmp_path / moment
        builder = make_builder(DATASETS["folder"], "", data, market)
        assert not builder.info.splits
        other = load_dataset("folder", data_dir=data, manual_dir=market)
        with monkeypatch.context() as patch:
            if moment == "at the lock":
                looks = iter([False, True])
                patch.setattr(prepared, "is_prepared", lambda _, looks=looks: next(looks))
            assert contents(open_prepared(builder, "folder")) == contents(other)


@pytest.mark.parametrize("damage", ["no index", "cut index", "cut images", "no images", "no info"])
def test_damaged_prepared_data(tmp_path, market, damage):
    load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market)
    folder = tmp_path / "data" / "market1501" / "1.0.0"
    index, images = folder / "index.npz", next(folder.glob("*gallery.array_record*"))
    if damage == "no index":
        index.unlink()
    elif damage == "cut index":
        index.write_bytes(index.read_bytes()[:-100])
    elif damage == "cut images":
        images.write_bytes(images.read_bytes()[: images.stat().st_size // 2])
    elif damage == "no images":
        images.unlink()
    else:
        (folder / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=f"'{folder}' is .*: delete it, and run again"):
        load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market)


def test_an_image_that_is_overwritten_while_it_is_open(tmp_path, market):
    """The message names the prepared file."""
    query = load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market).query
    path = next((tmp_path / "data").rglob("*query.array_record*"))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(OSError, match=f" in '{path}'$"):
        query.encoded(0)


def test_no_network_and_no_home(tmp_path, market, monkeypatch):
    def refuse(*_args, **_keywords):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", "/nonexistent")
    load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market)
