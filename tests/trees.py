"""Tiny data sets on the disk, for the tests of whatever reads them."""

import zipfile

import cv2
import numpy as np
import pytest

from batnet_jax.data import load_dataset
from batnet_jax.errors import UserError

JPG = cv2.imencode(".jpg", np.full((8, 4, 3), 77, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((8, 4, 3), 77, np.uint8))[1].tobytes()


def jpg(number):
    """A whole JPEG file whose bytes are no other number's."""
    return JPG + b"%d" % number


def write_tree(root, files, prefix=""):
    """Writes files {relative name: bytes} below root / prefix; returns root."""
    for name, content in files.items():
        path = root / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_zip(path, files, prefix=""):
    """The same, as an archive; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def market_with(files):
    """MARKET with other images, each of which the three splits have one of."""
    folders = ("bounding_box_train", "query", "bounding_box_test")
    tree = {f"{folder}/0001_c{k}s1_0.jpg": jpg(k) for k, folder in enumerate(folders, 1)}
    return tree | {f"query/{name}": content for name, content in files.items()}


def fails(message, name, tmp_path, **keywords):
    """Asserts that loading fails with one line that matches, and leaves no prepared data."""
    with pytest.raises(UserError, match=message) as info:
        load_dataset(name, data_dir=tmp_path / "data", **keywords)
    assert "\n" not in str(info.value)
    written = [p for p in (tmp_path / "data").rglob("*") if p.is_file() and p.name != ".lock"]
    assert [p for p in written if p.name != "metadata.json"] == []  # TFDS's note of the config
