"""Market-1501's optional parts, the folders of other packages, and MSMT17's versions."""

import shutil
from types import SimpleNamespace

import pytest
from support.tiny_datasets import JPG, MARKET, MSMT17, fails, jpg, write_tree, write_zip

from batnet_jax.data import builder, load_dataset
from batnet_jax.errors import UserError


def load(tmp_path, name="market1501", **keywords):
    return load_dataset(name, data_dir=tmp_path / "data", manual_dir=tmp_path / "m", **keywords)


@pytest.mark.parametrize(
    "place",
    [
        "",
        "Market-1501-v15.09.15",  # the archive's folder, as in FastReID
        "market1501/Market-1501-v15.09.15",  # as in Torchreid
        "market1501/Market-1501-v15.09.15.zip",  # as in Torchreid, but not unpacked
    ],
)
def test_folders_of_other_packages(tmp_path, place):
    if place.endswith(".zip"):
        write_zip(tmp_path / "m" / place, MARKET, "Market-1501-v15.09.15/")
    else:
        write_tree(tmp_path / "m", MARKET, place)
    write_tree(tmp_path / "m", {"notes/readme.txt": b""})
    assert load(tmp_path).train.pids.tolist() == [2, 7, 7]


def test_all_four_side_by_side(tmp_path):
    """In a folder as in Torchreid, each builder finds its own data set."""
    duke = {
        f"{folder}/0001_c2_f0046182.jpg": jpg(k)
        for k, folder in enumerate(("bounding_box_train", "query", "bounding_box_test"))
    }
    write_tree(tmp_path / "m", MARKET, "market1501/Market-1501-v15.09.15")
    write_tree(tmp_path / "m", duke, "dukemtmc-reid/DukeMTMC-reID")
    write_tree(tmp_path / "m", MSMT17, "msmt17/MSMT17_V1")
    for boxes in ("labeled", "detected"):
        for k, folder in enumerate(("bounding_box_train", "query", "bounding_box_test")):
            files = {f"{boxes}/{folder}/0001_c1_{k}.png": jpg(k)}
            write_tree(tmp_path / "m", files, "cuhk03-np")
    assert len(load(tmp_path).train) == 3
    assert len(load(tmp_path, "dukemtmc_reid").train) == 1
    assert len(load(tmp_path, "msmt17").train) == 3
    assert len(load(tmp_path, "cuhk03").train) == 1


def test_an_archive_beside_another_folder(tmp_path):
    duke = {
        f"{folder}/0001_c2_f0046182.jpg": jpg(k)
        for k, folder in enumerate(("bounding_box_train", "query", "bounding_box_test"))
    }
    write_tree(tmp_path / "m", MARKET, "Market-1501-v15.09.15")
    write_zip(tmp_path / "m" / "DukeMTMC-reID.zip", duke, "DukeMTMC-reID/")
    assert len(load(tmp_path, "dukemtmc_reid").train) == 1


def test_boxes_of_people_without_queries(tmp_path):
    write_tree(tmp_path / "m", MARKET | {"gt_bbox/0009_c1s1_000001_00.jpg": jpg(1)})
    assert load(tmp_path).multi_query is None


def test_a_detected_version_stays_without_the_originals(tmp_path):
    v2 = {k.replace("train/", "mask_train_v2/").replace("test/", "mask_test_v2/"): v
          for k, v in MSMT17.items()}  # fmt: skip
    write_tree(tmp_path / "m", v2, "MSMT17_V2")
    load(tmp_path, "msmt17")
    shutil.rmtree(tmp_path / "m")
    assert len(load(tmp_path, "msmt17").train) == 3


def test_damaged_tfds_metadata(tmp_path):
    write_tree(tmp_path / "m", MARKET)
    load(tmp_path)
    notes = tmp_path / "data" / "market1501" / "1.0.0" / "dataset_info.json"
    notes.write_text(notes.read_text()[:50])
    with pytest.raises(UserError, match="delete it, and run again"):
        load(tmp_path)


def test_a_full_disk(tmp_path, monkeypatch):
    write_tree(tmp_path / "m", MARKET)

    def write(*_):
        raise RuntimeError("write() failed:\nno space")

    monkeypatch.setattr(
        builder, "ArrayRecordWriter", lambda *_: SimpleNamespace(write=write, close=int)
    )
    message = r"cannot write to '.*' \(write\(\) failed: no space\): make room"
    fails(message, "market1501", tmp_path, manual_dir=tmp_path / "m")


def test_further_boxes_of_the_queries(tmp_path):
    boxes = {
        "gt_bbox/0001_c1s1_000001_00.jpg": jpg(1),
        "gt_bbox/0001_c1s2_000009_00.jpg": jpg(2),
        "gt_bbox/0001_c2s1_000001_00.jpg": jpg(3),  # camera 2 has no query
        "gt_bbox/0007_c1s1_000001_00.jpg": jpg(4),  # a training identity
    }
    write_tree(tmp_path / "m", MARKET | boxes)
    more = load(tmp_path).multi_query
    assert more is not None
    assert more.filenames == ["0001_c1s1_000001_00.jpg", "0001_c1s2_000009_00.jpg"]
    assert more.cameras.tolist() == [1, 1]


@pytest.mark.parametrize("folder", ["images", "distractors", "distractors_500k"])
def test_distractors_are_nobody(tmp_path, folder):
    crowd = {f"{folder}/0005_c3s1_000001_00.jpg": jpg(1), f"{folder}/whatever.jpg": jpg(2)}
    write_tree(tmp_path / "m", MARKET | crowd)
    dataset = load(tmp_path)
    assert dataset.distractors is not None
    assert dataset.distractors.pids.tolist() == [0, 0]
    assert dataset.distractors.cameras.tolist() == [3, 0]
    assert len(dataset.gallery) == 3
    assert dataset.multi_query is None


def test_counts_are_shown_and_compared(tmp_path, capfd):
    write_tree(tmp_path / "m", MARKET)
    load(tmp_path)
    err = capfd.readouterr().err
    (train,) = [line.split() for line in err.splitlines() if line.startswith("  train")]
    assert train == ["train", "3", "2", "3", "0", "0"]
    (gallery,) = [line.split() for line in err.splitlines() if line.startswith("  gallery")]
    assert gallery == ["gallery", "3", "2", "3", "1", "1"]  # images people cameras distractors junk
    assert "warning: Market-1501: train has 3 images (published: 12,936), 2 identities" in err
    assert "1 distractors (published: 2,798), 1 junk (published: 3,819): is the copy whole?" in err


def test_msmt17_version_is_detected(tmp_path):
    v2 = {k.replace("train/", "mask_train_v2/").replace("test/", "mask_test_v2/"): v
          for k, v in MSMT17.items()}  # fmt: skip
    write_tree(tmp_path / "m", v2, "MSMT17_V2")
    message = r"MSMT17 not found in .*\('.*' is MSMT17_V2: choose variant v2\): put"
    fails(message, "msmt17", tmp_path, manual_dir=tmp_path / "m", variant="v1")
    assert len(load(tmp_path, "msmt17").train) == 3
    assert (tmp_path / "data" / "msmt17" / "v2").is_dir()
    write_tree(tmp_path / "m", MSMT17, "MSMT17_V1")  # beside it
    assert load(tmp_path, "msmt17:v1").name == "msmt17-v1"
    assert (tmp_path / "data" / "msmt17" / "v1").is_dir()


def test_msmt17_val_is_part_of_train(tmp_path):
    write_tree(tmp_path / "m", MSMT17)
    dataset = load(tmp_path, "msmt17")
    assert dataset.val is not None
    assert dataset.val.filenames == ["0000/0000_001_02_x_0_0.jpg"]
    assert set(dataset.val.filenames) < set(dataset.train.filenames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"list_val.txt": b"0000/0000_000_15_x_0_0.jpg 0\n"}, "list_val.txt', line 1: .* twice"),
        ({"list_query.txt": b"0000/0000_000_01_x_0_0.jpg -1\n"}, "line 1: .* is not 'FOLDER"),
        ({"list_query.txt": b"\xff\xfe 3\n"}, "line 1: .* is not 'FOLDER"),
        ({"list_query.txt": b"a_b_1.jpg 99999999999999999999\n"}, "line 1: .* is not 'FOLDER"),
    ],
)
def test_msmt17_lists_that_are_wrong(tmp_path, change, message):
    write_tree(tmp_path / "m", MSMT17 | change)
    fails(message, "msmt17", tmp_path, manual_dir=tmp_path / "m")


def test_a_compressed_tar_is_reported(tmp_path):
    write_tree(tmp_path / "m", {"Market-1501-v15.09.15.tar.gz": b"\x1f\x8b"})
    message = r"/Market-1501-v15.09.15.tar.gz' is compressed as a whole.*: unpack it"
    fails(message, "market1501", tmp_path, manual_dir=tmp_path / "m")
    path = tmp_path / "m" / "Market-1501-v15.09.15.tar.gz"
    fails(message, "market1501", tmp_path, manual_dir=path)


def test_too_many_digits(tmp_path):
    write_tree(tmp_path / "m", MARKET | {"query/12345678901234567890_c1s1.jpg": JPG})
    fails("does not begin with PID_cCAMERA", "market1501", tmp_path, manual_dir=tmp_path / "m")
