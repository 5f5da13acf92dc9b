"""A user's own images: three layouts, cameras or none."""

import numpy as np
import pytest
from support.tiny_datasets import FLAT, JPG, PNG, fails, jpg, write_tree, write_zip

from batnet_jax.data import load_dataset

EXPLICIT = {
    "train/ann/1_c1.jpg": jpg(1),
    "train/bob/1_c2.jpg": jpg(2),
    "query/cid/1_c1.jpg": jpg(3),
    "gallery/cid/1_c2.jpg": jpg(4),
    "gallery/dan/deep/er/x_C3s1.png": PNG,
}


def load(tmp_path, manual, name="folder"):
    return load_dataset(name, data_dir=tmp_path / "data", manual_dir=manual)


def names(dataset, split):
    return {dataset.identity_names[pid] for pid in getattr(dataset, split).pids}


def test_sub_folders_of_three_splits(tmp_path):
    dataset = load(tmp_path, write_tree(tmp_path / "m", EXPLICIT))
    assert list(dataset.identity_names) == ["ann", "bob", "cid", "dan"]
    assert dataset.train.pids.tolist() == [0, 1]
    assert dataset.query.pids.tolist() == [2]
    assert dataset.gallery.pids.tolist() == [2, 3]
    assert dataset.gallery.cameras.tolist() == [2, 3]
    assert dataset.gallery.filenames == ["cid/1_c2.jpg", "dan/deep/er/x_C3s1.png"]


def test_train_and_test_alone(tmp_path):
    files = {f"train/{k}/{k}.jpg": jpg(k) for k in range(3)}
    files |= {f"test/{pid}/{k}.jpg": jpg(100 + 9 * pid + k) for pid in (7, 8) for k in range(4)}
    dataset = load(tmp_path, write_tree(tmp_path / "m", files))
    assert dataset.train.pids.tolist() == [0, 1, 2]
    assert list(dataset.identity_names) == []  # no names for numbers
    assert dataset.query.pids.tolist() == [7, 7, 8, 8]
    assert dataset.gallery.pids.tolist() == [7, 7, 8, 8]
    assert set(dataset.query.filenames).isdisjoint(dataset.gallery.filenames)


@pytest.mark.parametrize("archive", [False, True])
def test_one_sub_folder_an_identity(tmp_path, archive):
    manual = tmp_path / ("m.zip" if archive else "m")
    (write_zip if archive else write_tree)(manual, FLAT)
    dataset = load(tmp_path, manual)
    assert list(dataset.identity_names) == list("abcdefgh")
    assert names(dataset, "query") == names(dataset, "gallery")
    assert len(names(dataset, "query")) == 2  # a quarter
    assert names(dataset, "train") == set("abcdefgh") - names(dataset, "query")
    assert [len(s) for s in (dataset.train, dataset.query, dataset.gallery)] == [24, 4, 4]
    for split in (dataset.train, dataset.query, dataset.gallery):
        assert split.cameras.tolist() == [-1] * len(split)
        for i, name in enumerate(split.filenames):
            assert split.encoded(i) == FLAT[name]


def test_more_identities_do_not_move_the_others(tmp_path):
    manual = write_tree(tmp_path / "m", FLAT)
    before = names(load(tmp_path, manual), "query")
    write_tree(manual, {f"{c}x/{k}.jpg": jpg(500 + 7 * ord(c) + k) for c in "ab" for k in range(4)})
    after = load(tmp_path, manual)
    assert len(names(after, "query")) == 3
    # A test identity stays, unless a new identity has a lower hash.
    assert len(names(after, "query") & before) >= 1
    assert len((names(after, "query") - before) & set("abcdefgh")) <= 1


def test_folder_named_in_the_data_sets_name(tmp_path):
    write_tree(tmp_path / "mine", FLAT)
    dataset = load(tmp_path, "", f"folder:{tmp_path / 'mine'}")
    assert dataset.name == "folder-mine"
    assert len(dataset.train) == 24


def test_market_layout_without_cameras(tmp_path):
    files = {
        "bounding_box_train/0001_x.jpg": jpg(1),
        "query/0002.jpg": jpg(2),
        "bounding_box_test/0002_a.jpg": jpg(3),
        "bounding_box_test/-1_b.jpg": jpg(4),
    }
    dataset = load(tmp_path, write_tree(tmp_path / "m", files))
    assert dataset.gallery.pids.tolist() == [2]
    assert dataset.gallery.cameras.tolist() == [-1]


def test_junk_and_numbers_among_names(tmp_path):
    """-1 is left out, and 0001 is 1, also beside identities with names."""
    more = {
        "gallery/-1/9_c1.jpg": jpg(8),
        "gallery/0007_c1.jpg": jpg(9),
        "query/7/1_c2.jpg": jpg(7),
    }
    dataset = load(tmp_path, write_tree(tmp_path / "m", EXPLICIT | more))
    assert list(dataset.identity_names) == ["7", "ann", "bob", "cid", "dan"]
    assert len(dataset.gallery) == 3
    assert names(dataset, "query") == {"7", "cid"}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_identities_inside_one_folder(tmp_path, kind):
    """As packed by `zip -r mine.zip mine`, with folders inside."""
    files = {f"mine/{name.replace('/', '/day 1/')}": content for name, content in FLAT.items()}
    manual = tmp_path / ("m" if kind == "folder" else "m.zip")
    (write_tree if kind == "folder" else write_zip)(manual, files)
    dataset = load(tmp_path, manual)
    assert list(dataset.identity_names) == list("abcdefgh")
    assert len(dataset.train) == 24


def test_two_links_to_one_folder(tmp_path):
    """Only a link to a parent folder is skipped."""
    manual = write_tree(tmp_path / "m", EXPLICIT)
    (manual / "train" / "zed").symlink_to(manual / "train" / "ann")
    (manual / "train" / "ann" / "loop").symlink_to(manual / "train")
    dataset = load(tmp_path, manual)
    assert names(dataset, "train") == {"ann", "bob", "zed"}


def test_cameras_for_some_only(tmp_path):
    manual = write_tree(tmp_path / "m", EXPLICIT | {"query/cid/2.jpg": jpg(9)})
    message = "/query/cid/2.jpg' names no camera .* nor do 0 others of 4 test images: name one"
    fails(message, "folder", tmp_path, manual_dir=manual)


def test_no_identity(tmp_path):
    manual = write_tree(tmp_path / "m", EXPLICIT | {"query/me.jpg": jpg(9)})
    message = "/query/me.jpg' lies above the folders of people .* does not begin with an identity"
    fails(message, "folder", tmp_path, manual_dir=manual)


@pytest.mark.parametrize("missing", ["train", "query", "gallery"])
def test_a_split_is_missing(tmp_path, missing):
    files = {k: v for k, v in EXPLICIT.items() if not k.startswith(missing)}
    manual = write_tree(tmp_path / "m", files)
    fails(f"/{missing}' is missing or holds no images", "folder", tmp_path, manual_dir=manual)


def test_no_identity_can_be_a_query(tmp_path):
    manual = write_tree(tmp_path / "m", {f"{name}/1.jpg": jpg(ord(name)) for name in "abcd"})
    fails("has no test identity with two images", "folder", tmp_path, manual_dir=manual)


def test_doubtful_splits_are_reported(tmp_path, capfd):
    files = EXPLICIT | {"gallery/ann/2_c2.jpg": jpg(8), "query/eve/1_c1.jpg": jpg(9)}
    load(tmp_path, write_tree(tmp_path / "m", files))
    err = capfd.readouterr().err
    assert "1 identities are in train and also in query or gallery" in err
    assert "1 identities of query are not in gallery" in err


@pytest.mark.parametrize(("images", "told"), [((1, 1, 1), 3), ((1, 1, 4), 2), ((1, 4, 4), 0)])
def test_people_of_one_image_are_counted(tmp_path, capfd, images, told):
    files = {f"train/{p}/{i}.jpg": jpg(9 * p + i) for p, n in enumerate(images) for i in range(n)}
    files |= {f"test/7/{i}.jpg": jpg(90 + i) for i in range(4)}
    load(tmp_path, write_tree(tmp_path / "m", files))
    line = f"{told} of 3 identities in train have a single image: a batch repeats it"
    assert (line in capfd.readouterr().err) == bool(told)


def test_a_changed_folder_of_identities_is_prepared_again(tmp_path):
    manual = write_tree(tmp_path / "m", FLAT)
    before = load(tmp_path, manual)
    (manual / "a" / "9.jpg").write_bytes(JPG)
    after = load(tmp_path, manual)
    total = [len(d.train) + len(d.query) + len(d.gallery) for d in (before, after)]
    assert total == [32, 33]
    assert np.array_equal(load(tmp_path, manual).train.pids, after.train.pids)
