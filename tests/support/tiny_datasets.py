"""Tiny data sets on the disk, for the tests of all readers of data sets."""

import tarfile
import zipfile

import cv2
import numpy as np
import pytest

from batnet_jax.data import load_dataset
from batnet_jax.errors import UserError

JPG = cv2.imencode(".jpg", np.full((8, 4, 3), 77, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((8, 4, 3), 77, np.uint8))[1].tobytes()
MARKET = {
    "bounding_box_train/0007_c1s1_000001_00.jpg": JPG,
    "bounding_box_train/0007_c2s1_000002_00.jpg": JPG + b"trailing bytes stay",
    "bounding_box_train/0002_c6s4_000003_01.jpg": JPG,
    "bounding_box_train/Thumbs.db": b"\0",
    "query/0001_c1s1_000001_00.jpg": JPG,
    "query/0003_c10s1_000001_00.JPG": JPG,
    "bounding_box_test/-1_c1s1_000001_00.jpg": JPG,
    "bounding_box_test/0000_c2s1_000001_00.jpg": JPG,
    "bounding_box_test/0001_c3s1_000001_00.jpeg": JPG,
    "bounding_box_test/0003_c4s1_000001_00.png": PNG,
}
MSMT17 = {
    "list_train.txt": b"0001/0001_000_03_0113morning_1_0.jpg 1\n0000/0000_000_15_x_0_0.jpg 0\n",
    "list_val.txt": b"0000/0000_001_02_x_0_0.jpg 0\n\n",
    "list_query.txt": b"0000/0000_000_01_x_0_0.jpg 0\n",
    "list_gallery.txt": b"0000/0000_001_04_x_0_0.jpg 0\n0001/0001_000_05_x_0_0.jpg 1\n",
    "train/0001/0001_000_03_0113morning_1_0.jpg": JPG,
    "train/0000/0000_000_15_x_0_0.jpg": JPG,
    "train/0000/0000_001_02_x_0_0.jpg": JPG,
    "test/0000/0000_000_01_x_0_0.jpg": JPG,
    "test/0000/0000_001_04_x_0_0.jpg": JPG,
    "test/0001/0001_000_05_x_0_0.jpg": JPG,
}


def jpg(number):
    """Return a whole JPEG file with other bytes than for any other number."""
    return JPG + b"%d" % number


def write_tree(root, files, prefix=""):
    """Write files {relative name: bytes} below root / prefix; return root."""
    for name, content in files.items():
        path = root / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_zip(path, files, prefix=""):
    """Write files {relative name: bytes} to a .zip, with `prefix` before each name; return path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def market_with(files):
    """Return files of Market-1501's layout: one image in each split, and `files` in the queries."""
    folders = ("bounding_box_train", "query", "bounding_box_test")
    tree = {f"{folder}/0001_c{k}s1_0.jpg": jpg(k) for k, folder in enumerate(folders, 1)}
    return tree | {f"query/{name}": content for name, content in files.items()}


def fails(message, name, tmp_path, **keywords):
    """Assert that loading fails with one line that matches, and leaves no prepared data."""
    with pytest.raises(UserError, match=message) as info:
        load_dataset(name, data_dir=tmp_path / "data", **keywords)
    assert "\n" not in str(info.value)
    written = [p for p in (tmp_path / "data").rglob("*") if p.is_file() and p.name != ".lock"]
    assert [p for p in written if p.name != "metadata.json"] == []  # TFDS's note of the config


def write_tar(path, source):
    """Write the files below the folder `source` to a .tar; return path."""
    with tarfile.open(path, "w") as archive:
        archive.add(source, arcname=".")
    return path


def parts(dataset):
    """Return the splits train, query and gallery of a data set."""
    return dataset.train, dataset.query, dataset.gallery


def contents(dataset):
    """Return file names, pids, cameras and encoded images of each split of a data set."""
    return [
        (s.filenames, s.pids.tolist(), s.cameras.tolist(), [s.encoded(i) for i in range(len(s))])
        for s in parts(dataset)
    ]


@pytest.fixture
def market(tmp_path):
    """Write `MARKET`; return its folder."""
    return write_tree(tmp_path / "manual", MARKET)


FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


LAYOUTS = {
    "market1501": {f"{f}/0001_c{k}s1_0.jpg": jpg(k) for k, f in enumerate(FOLDERS, 1)},
    "dukemtmc_reid": {f"{f}/0001_c{k}_f0046182.jpg": jpg(k) for k, f in enumerate(FOLDERS, 1)},
    "cuhk03": {f"labeled/{f}/0001_c1_{k}.png": PNG + b"%d" % k for k, f in enumerate(FOLDERS, 1)},
    "msmt17": MSMT17,
}


FLAT = {f"{name}/{k}.jpg": jpg(7 * i + k) for i, name in enumerate("abcdefgh") for k in range(4)}
