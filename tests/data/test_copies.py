"""Copies of images, and counts that differ from the published ones.

The table in test_images.py lists the outcomes.
"""

import numpy as np
import pytest
from support.tiny_datasets import FOLDERS, LAYOUTS, fails, jpg, market_with, write_tree

from batnet_jax.data import load_dataset
from batnet_jax.data.checks import Copies, Count, count, count_warnings


def warnings_of(camera=-1, **splits):
    """Return the warnings about splits [(content, pid), ...]; filenames are 0.jpg, 1.jpg, ..."""
    copies = Copies()
    for split, images in splits.items():
        for content, _ in images:
            copies.add(split, content)
    names = {split: [f"{k}.jpg" for k in range(len(images))] for split, images in splits.items()}
    pids = {split: np.array([pid for _, pid in images]) for split, images in splits.items()}
    cameras = {split: np.full(len(images), camera) for split, images in splits.items()}
    return copies.warnings(names, pids, cameras)


def test_no_copies():
    found = warnings_of(
        train=[(b"a", 1), (b"b", 1)],
        query=[(b"c", 1), (b"d", 2)],
        gallery=[(b"e", 1), (b"f", 2)],
        val=[(b"a", 1)],  # val, multi_query and distractors repeat images on purpose
        multi_query=[(b"c", 1)],
    )
    assert found == []
    assert warnings_of(train=[(b"a", 1)], query=[], gallery=[(b"b", 1)]) == []


def test_kinds_of_copies():
    a, b, c = b"a", b"b", b"c"
    rest = {"query": [(b"q", 5)], "gallery": [(b"g", 5)]}
    assert warnings_of(train=[(b, 1), (a, 1), (a, 1)], **rest) == [
        "1 images occur twice in one split, for example 'train/1.jpg' and 'train/2.jpg'"
    ]
    assert warnings_of(train=[(a, 1), (b, 1), (a, 2)], **rest) == [
        "1 images have another identity in a second file, for example 'train/0.jpg' and "
        "'train/2.jpg'"
    ]
    assert warnings_of(train=[(a, 1)], query=[(b, 1)], gallery=[(c, 2), (b, 3)]) == [
        "1 images have another identity in a second file, for example 'query/0.jpg' and "
        "'gallery/1.jpg'"
    ]
    assert warnings_of(train=[(a, 1)], query=[(b, 1)], gallery=[(c, 2), (b, 1)]) == [
        "1 images in query are also in gallery: each would find itself, for example "
        "'query/0.jpg' and 'gallery/1.jpg'"
    ]
    # A copy from the same camera is removed before ranking, as in CUHK03's classic splits.
    assert warnings_of(train=[(a, 1)], query=[(b, 1)], gallery=[(b, 1)], camera=2) == []
    # A pid may mean different people in training and test, as in MSMT17.
    (line,) = warnings_of(
        train=[(c, 1), (a, 1), (b, 2)], query=[(a, 7)], gallery=[(b"d", 7), (b, 2)]
    )
    what, examples = line.split(", ")
    assert what == "2 images in train are also in query or gallery: results would be too good"
    assert examples in (
        "for example 'train/1.jpg' and 'query/0.jpg'",
        "for example 'train/2.jpg' and 'gallery/1.jpg'",
    )
    everywhere = warnings_of(train=[(a, 1)], query=[(a, 1)], gallery=[(a, 1), (a, 2)])
    assert [line.split(",")[0].split(":")[0] for line in everywhere] == [
        "1 images in train are also in query or gallery",
        "1 images have another identity in a second file",
        "1 images in query are also in gallery",
    ]


def test_copies_are_reported_during_preparation(tmp_path, capfd):
    files = market_with({}) | {
        "bounding_box_train/0003_c1s1_0.jpg": jpg(8),
        "bounding_box_train/0003_c1s1_1.jpg": jpg(8),
        "bounding_box_train/0003_c1s1_2.jpg": jpg(9),
        "bounding_box_test/0001_c1s1_5.jpg": jpg(9),
    }
    write_tree(tmp_path / "m", files)
    load_dataset("market1501", data_dir=tmp_path / "d", manual_dir=tmp_path / "m")
    lines = capfd.readouterr().err.splitlines()
    warnings = [line for line in lines if "warning: " in line and "for example" in line]
    assert warnings == [
        "warning: Market-1501: 1 images in train are also in query or gallery: results would be "
        "too good, for example 'train/0003_c1s1_2.jpg' and 'gallery/0001_c1s1_5.jpg'",
        "warning: Market-1501: 1 images occur twice in one split, for example "
        "'train/0003_c1s1_0.jpg' and 'train/0003_c1s1_1.jpg'",
    ]


def test_count():
    pids, cameras = np.array([0, 0, 4, 4, 9]), np.array([1, 2, 2, 2, 7])
    assert count(pids, cameras, distractor=0, junk=3) == Count(5, 2, 3, 2, 3)
    assert count(pids, cameras, distractor=None, junk=0) == Count(5, 3, 3, 0, 0)
    assert count(pids, np.full(5, -1), distractor=None, junk=0) == Count(5, 3, 0, 0, 0)


def test_differences_from_the_published_counts():
    published = {"train": Count(12_936, 751, 6), "query": Count(3_368, 750, 6)}
    assert count_warnings(published, published) == []
    assert count_warnings({}, published) == []
    assert count_warnings(published | {"val": Count(1, 1)}, published) == []
    found = {"train": Count(12_935, 751, 6), "query": Count(3_369, 750, 5, 1, 2)}
    assert count_warnings(found, published) == [
        "train has 12,935 images (published: 12,936): is the copy whole?",
        "query has 3,369 images (published: 3,368), 5 cameras (published: 6), 1 distractors "
        "(published: 0), 2 junk (published: 0): is the copy whole?",
    ]


@pytest.mark.parametrize(
    ("name", "title", "split", "want"),
    [
        ("market1501", "Market-1501", "query", "3,368"),
        ("dukemtmc_reid", "DukeMTMC-reID", "gallery", "17,661"),
        ("cuhk03", "CUHK03", "train", "7,368"),
        ("msmt17", "MSMT17", "train", "32,621"),
    ],
)
def test_incomplete_copies_are_reported(tmp_path, capfd, name, title, split, want):
    write_tree(tmp_path / "m", LAYOUTS[name])
    dataset = load_dataset(name, data_dir=tmp_path / "d", manual_dir=tmp_path / "m")
    images = len(getattr(dataset, split))
    (line,) = [
        line for line in capfd.readouterr().err.splitlines() if f": {split} has {images} " in line
    ]
    assert line.startswith(f"warning: {title}")
    assert f"{split} has {images} images (published: {want})" in line


@pytest.mark.parametrize(
    ("name", "missing"),
    [(name, f) for name in ("market1501", "dukemtmc_reid") for f in FOLDERS]
    + [("cuhk03", f"labeled/{folder}") for folder in FOLDERS]
    + [("msmt17", f"list_{split}.txt") for split in ("train", "val", "query", "gallery")],
)
def test_a_missing_split_or_list_is_named(tmp_path, name, missing):
    tree = {k: v for k, v in LAYOUTS[name].items() if not k.startswith(missing)}
    assert len(tree) < len(LAYOUTS[name])
    write_tree(tmp_path / "m", tree)
    fails(rf"{missing}' is missing", name, tmp_path, manual_dir=tmp_path / "m")
