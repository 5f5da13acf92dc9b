import re
import shutil
import sys
import threading
import zipfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from support import needs
from support.tiny_datasets import (
    JPG,
    MARKET,
    MSMT17,
    PNG,
    contents,
    fails,
    parts,
    write_tar,
    write_tree,
    write_zip,
)

from batnet_jax.data import DATASETS, load_dataset
from batnet_jax.data.files.find_dataset import find_trees
from batnet_jax.data.files.tree import open_tree
from batnet_jax.data.pedestrians.draw import SIZES, Size, draw_jpeg, plan
from batnet_jax.data.sources import pedestrians
from batnet_jax.errors import UserError

# --- reading --------------------------------------------------------------------------------------


def test_market_order_labels_junk_and_distractors(tmp_path, market):
    dataset = load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market)
    train, query, gallery = parts(dataset)
    assert dataset.name == "market1501"
    assert train.filenames == [
        "0002_c6s4_000003_01.jpg",
        "0007_c1s1_000001_00.jpg",
        "0007_c2s1_000002_00.jpg",
    ]
    assert train.pids.dtype == train.cameras.dtype == np.int64
    assert train.pids.tolist() == [2, 7, 7]
    assert train.cameras.tolist() == [6, 1, 2]
    assert query.pids.tolist() == [1, 3]
    assert query.cameras.tolist() == [1, 10]
    assert gallery.pids.tolist() == [0, 1, 3]  # no -1
    assert gallery.cameras.tolist() == [2, 3, 4]
    assert train.encoded(2) == JPG + b"trailing bytes stay"
    assert gallery.encoded(2) == PNG
    assert [len(s) for s in (train, query, gallery)] == [3, 2, 3]


def test_duke(tmp_path):
    files = {
        f"{folder}/0001_c{camera}_f0046182.jpg": JPG
        for camera, folder in enumerate(("bounding_box_train", "query", "bounding_box_test"), 6)
    }
    manual = write_tree(tmp_path / "manual", files, "DukeMTMC-reID")
    dataset = load_dataset("dukemtmc_reid", data_dir=tmp_path / "data", manual_dir=manual)
    assert [s.cameras.tolist() for s in parts(dataset)] == [[6], [7], [8]]


def test_market_beside_duke(tmp_path):
    """Filenames tell two data sets with the same layout in one manual_dir apart."""
    duke = {
        f"{folder}/0001_c{camera}_f0046182.jpg": JPG
        for camera, folder in enumerate(("bounding_box_train", "query", "bounding_box_test"), 6)
    }
    manual = write_tree(tmp_path / "manual", duke, "a")
    message = r"Market-1501 not found in '.*' \('.*/a' is DukeMTMC-reID\): put Market-1501-v15"
    fails(message, "market1501", tmp_path, manual_dir=manual)
    write_tree(manual, MARKET, "b")
    dataset = load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=manual)
    assert dataset.train.pids.tolist() == [2, 7, 7]
    dataset = load_dataset("dukemtmc_reid", data_dir=tmp_path / "data", manual_dir=manual)
    assert dataset.train.cameras.tolist() == [6]


@pytest.mark.parametrize("variant", ["", "v1", "v2"])
def test_msmt17(tmp_path, variant):
    files, folder = MSMT17, "MSMT17_V1"
    if variant == "v2":
        files = {re.sub("^(train|test)/", r"mask_\1_v2/", k): v for k, v in files.items()}
        folder = "MSMT17_V2"
    write_tree(tmp_path / "manual", files, folder)
    dataset = load_dataset(
        "msmt17", variant=variant, data_dir=tmp_path / "data", manual_dir=tmp_path / "manual"
    )
    assert dataset.train.filenames == [
        "0000/0000_000_15_x_0_0.jpg",
        "0000/0000_001_02_x_0_0.jpg",
        "0001/0001_000_03_0113morning_1_0.jpg",
    ]
    assert dataset.train.pids.tolist() == [0, 0, 1]
    assert dataset.train.cameras.tolist() == [15, 2, 3]
    assert dataset.query.cameras.tolist() == [1]
    assert dataset.gallery.pids.tolist() == [0, 1]
    assert dataset.gallery.cameras.tolist() == [4, 5]
    assert (tmp_path / "data" / "msmt17" / (variant or "v1")).is_dir()


@pytest.mark.parametrize("place", ["layout", "subfolder", "zip", "zip in folder", "tar", "tar in"])
def test_folder_zip_and_tar_are_equal(tmp_path, market, place):
    expected = contents(load_dataset("folder", data_dir=tmp_path / "a", manual_dir=market))
    other = tmp_path / "other"
    if place == "layout":
        manual = market
    elif place == "subfolder":
        manual = write_tree(other, MARKET, "inside")
    elif place.startswith("zip"):
        shadow = {"__MACOSX/m/query/._0001_c1s1_000001_00.jpg": b"\0"}
        files = {f"m/{name}": content for name, content in MARKET.items()} | shadow
        manual = write_zip(other / "m.ZIP", files)
    else:
        other.mkdir()
        manual = write_tar(other / "m.tar", market)
    if " in" in place:
        manual = other
    assert contents(load_dataset("folder", data_dir=tmp_path / "b", manual_dir=manual)) == expected


def test_links_are_followed_and_loops_end(tmp_path, market):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "mine").symlink_to(market)
    (market / "query" / "loop").symlink_to(market / "query")
    dataset = load_dataset("folder", data_dir=tmp_path / "d", manual_dir=tmp_path / "linked")
    assert len(dataset.query) == 2


def test_unpacked_folder_is_taken_before_its_archive(tmp_path):
    write_tree(tmp_path / "manual", MARKET, "m")
    write_zip(tmp_path / "manual" / "m.zip", MARKET)
    (tree,) = find_trees(tmp_path / "manual", ("query",))
    assert tree.location == str(tmp_path / "manual" / "m")


def test_archive_cannot_reach_outside(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    path = write_zip(tmp_path / "x" / "m.zip", {"../secret.jpg": b"inside", "/abs.jpg": b"inside"})
    tree = open_tree(path)
    assert [tree.read(name) for name in tree.names] == [b"inside", b"inside"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["m.zip", "secret.jpg", "x"]


def test_bmp_and_webp_and_upper_case(tmp_path):
    files = {}
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        for camera, suffix in enumerate((".BMP", ".WebP", ".PNG", ".JPEG"), 1):
            image = cv2.imencode(suffix.lower(), np.zeros((6, 4, 3), np.uint8))[1].tobytes()
            files[f"{folder}/1_c{camera}{suffix}"] = image
    manual = write_tree(tmp_path / "manual", files)
    dataset = load_dataset("folder", data_dir=tmp_path / "data", manual_dir=manual)
    assert [len(s) for s in parts(dataset)] == [4, 4, 4]


def test_reading_from_many_threads(tmp_path, market):
    train = load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market).train
    expected = [train.encoded(i) for i in range(3)]
    wrong = []

    def ask(i):
        wrong.extend(1 for _ in range(200) if train.encoded(i) != expected[i])

    threads = [threading.Thread(target=ask, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_features_for_users_of_tfds(tmp_path, market):
    """The prepared files are an ordinary TFDS data set, with the promised features."""
    load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=market)
    builder = tfds.builder_from_directory(tmp_path / "data" / "market1501" / "1.0.0")
    source = builder.as_data_source("query", decoders={"image": tfds.decode.SkipDecoding()})
    assert set(source[0]) == {"image", "pid", "camera", "filename"}
    assert (source[1]["pid"], source[1]["camera"]) == (3, 10)
    assert source[1]["filename"] == b"0003_c10s1_000001_00.JPG"
    assert builder.info.features["pid"].np_dtype == np.int64


@pytest.mark.parametrize("unpacked", [False, True])
def test_omniglot(tmp_path, unpacked):
    manual = archive = needs.shared("real", "omniglot_small1_market.zip")
    if unpacked:
        manual = tmp_path / "manual"
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(manual)
    dataset = load_dataset("folder", data_dir=tmp_path / "data", manual_dir=manual)
    assert [len(s) for s in parts(dataset)] == [1920, 160, 640]
    assert len(set(dataset.train.pids)) == 96
    assert set(dataset.query.pids) == set(dataset.gallery.pids)
    assert set(dataset.train.cameras) == set(range(1, 21))


# --- the embedded data set ------------------------------------------------------------------------

TINY = Size(3, 9, 2, 4, 6, 2, 3, 32, 16)


def test_pedestrians(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "demo", TINY)
    dataset = load_dataset("pedestrians", data_dir=tmp_path / "data")
    for split, images in zip(("train", "query", "gallery"), parts(dataset), strict=True):
        shots = sorted(plan(TINY, split, pedestrians.SEED))
        assert images.filenames == [shot.filename for shot in shots]
        assert images.pids.tolist() == [shot.pid for shot in shots]
        assert images.cameras.tolist() == [shot.camera for shot in shots]
        last = shots[-1]
        expected = draw_jpeg(last.pid, last.camera, last.index, seed=0, height=32, width=16)
        assert images.encoded(len(images) - 1) == expected
    assert (tmp_path / "data" / "pedestrians" / "demo" / "1.0.0").is_dir()


def test_workers_draw_the_same_in_order(monkeypatch):
    shots = sorted(plan(TINY, "train", 0))
    alone = list(pedestrians.draw_all(shots, TINY, workers=0))
    assert len(set(alone)) == 9
    assert list(pedestrians.draw_all(shots, TINY, workers=2)) == alone
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises((RuntimeError, BrokenPipeError)):
        list(pedestrians.draw_all(shots, TINY, workers=2))


def test_workers_end_with_their_reader():
    images = pedestrians.draw_all(sorted(plan(TINY, "train", 0)) * 500, TINY, workers=2)
    assert next(images)[:2] == b"\xff\xd8"
    images.close()  # waits for the workers, and would hang if they did not end


# --- mistakes -------------------------------------------------------------------------------------


def test_unknown_names_list_the_allowed_ones(tmp_path):
    assert set(DATASETS) == {
        *("pedestrians", "market1501", "dukemtmc_reid", "cuhk03", "msmt17", "folder")
    }
    fails("'marked' is unknown: choose .*market1501.*folder", "marked", tmp_path)
    fails("'v3' is not a variant of msmt17: choose one of v1, v2", "msmt17", tmp_path, variant="v3")
    fails("'x' is not a variant of market1501: it has none", "market1501", tmp_path, variant="x")
    fails("'x' is not a variant of folder: it has none", "folder", tmp_path, variant="x")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("market1501", "Market-1501"),
        ("dukemtmc_reid", "DukeMTMC-reID"),
        ("cuhk03", "CUHK03"),
        ("msmt17", "MSMT17"),
        ("folder", "a data set of your own"),
    ],
)
@pytest.mark.parametrize("present", [False, True])
def test_not_found(tmp_path, name, title, present):
    manual = tmp_path / "manual"
    if present:
        write_tree(manual, {"elsewhere/1.jpg": JPG, "notes.txt": b""})
    found = f"not found in '{manual}'" if present else f"not found: '{manual}' does not exist"
    message = f"^{title} {found}: (put|only) .*, or name another place$"
    fails(message, name, tmp_path, manual_dir=manual)


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
@pytest.mark.parametrize("how", ["missing", "empty", "no images", "only junk"])
def test_folder_without_images(tmp_path, market, folder, how):
    shutil.rmtree(market / folder)
    if how != "missing":
        (market / folder).mkdir()
    if how == "no images":
        (market / folder / "Thumbs.db").write_bytes(b"")
    if how == "only junk":
        (market / folder / "-1_c1s1_000001_00.jpg").write_bytes(JPG)
    message = f"'{market}/{folder}' is missing or holds no images"
    fails(message, "folder", tmp_path, manual_dir=market)


@pytest.mark.parametrize("name", ["0001_1.jpg", "x0001_c1s1.jpg", "-2_c1s1.png", "c1_0001.BMP"])
def test_wrong_name(tmp_path, market, name):
    (market / "query" / name).write_bytes(JPG)
    message = f"'{market}/query/{name}' does not begin with PID_cCAMERA"
    fails(message, "market1501", tmp_path, manual_dir=market)


@pytest.mark.parametrize("content", [b"", b"GIF what?", JPG[: len(JPG) // 2], PNG[:-20]])
def test_broken_image(tmp_path, market, content):
    """The last image of the last split, so that the others are written before it."""
    (market / "bounding_box_test" / "9_c1.jpg").write_bytes(content)
    message = r"'9_c1\.jpg' " + ("cannot be decoded" if content else "is empty")
    fails(message, "folder", tmp_path, manual_dir=market)
    (market / "bounding_box_test" / "9_c1.jpg").write_bytes(JPG)  # repaired
    load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market)


def test_several_candidates(tmp_path):
    for folder in ("a", "b"):
        write_tree(tmp_path / "manual", MARKET, folder)
    manual = tmp_path / "manual"
    fails("/a' and '.*/b' both hold such a data set", "folder", tmp_path, manual_dir=manual)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"list_val.txt": None}, "/list_val.txt' is missing"),
        ({"list_query.txt": b"nonsense\n"}, "/list_query.txt', line 1: 'nonsense' is not"),
        ({"list_query.txt": b"a/b.jpg 3\n"}, "line 1: 'a/b.jpg 3' is not"),
        ({"list_query.txt": b"\n"}, "list_query.txt list nothing"),
        ({"test/0001/0001_000_05_x_0_0.jpg": None}, "/test/0001/0001_000_05_x_0_0.jpg' is missing"),
    ],
)
def test_msmt17_mistakes(tmp_path, change, message):
    files = {name: content for name, content in (MSMT17 | change).items() if content is not None}
    manual = write_tree(tmp_path / "manual", files)
    fails(message, "msmt17", tmp_path, manual_dir=manual)


def test_damaged_archives(tmp_path):
    path = write_zip(tmp_path / "m.zip", MARKET)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    fails(r"m\.zip' cannot be read \(", "folder", tmp_path, manual_dir=path)
    path.write_bytes(whole[:80] + b"\xff" * 60 + whole[140:])  # in the first file's data
    fails(r"0007_c1s1_000001_00\.jpg' cannot be read", "folder", tmp_path, manual_dir=path)
    path = tmp_path / "m.tar"
    path.write_bytes(b"no archive at all")
    fails(r"m\.tar' cannot be read \(", "folder", tmp_path, manual_dir=path)
    tree = write_tree(tmp_path / "tree", MARKET)
    (tree / "query" / "0005_c1.jpg").symlink_to("0001_c1s1_000001_00.jpg")
    fails("holds the link", "folder", tmp_path, manual_dir=write_tar(path, tree))


def test_data_dir_that_cannot_be_written(tmp_path, market):
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot write to .*: name another folder$"):
        load_dataset("folder", data_dir=tmp_path / "data", manual_dir=market)
