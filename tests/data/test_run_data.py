"""The training set and the tests of a run."""

import dataclasses

import numpy as np
import pytest
from support.tiny_datasets import FLAT, MARKET, MSMT17, jpg, write_tree

from batnet_jax.config import default_config
from batnet_jax.data.run_data import (
    Identity,
    RunData,
    describe_sets,
    fingerprints,
    open_run_data,
    open_tests,
)
from batnet_jax.errors import UserError
from batnet_jax.validation import validate
from batnet_jax.workdir.same_run import check_held_out, check_training_data

GT_BOX = {"gt_bbox/0001_c1s2_000009_00.jpg": jpg(2)}
CROWD = {"distractors_500k/0_c3s1.jpg": jpg(3)}


@pytest.fixture
def config(tmp_path):
    """Return a config with tiny copies of Market-1501, MSMT17 and two folders of identities."""
    write_tree(tmp_path / "m", MARKET, "Market-1501-v15.09.15")
    write_tree(tmp_path / "m", MSMT17, "MSMT17_V1")
    write_tree(tmp_path / "one" / "mine", FLAT)
    write_tree(tmp_path / "two" / "mine", {k: v + b"2" for k, v in FLAT.items()})
    config = default_config()
    config.data.dir = str(tmp_path / "data")
    config.data.manual_dir = str(tmp_path / "m")
    return config


def folders(tmp_path):
    return tuple(f"folder:{tmp_path / place / 'mine'}" for place in ("one", "two"))


def test_one_data_set(config):
    data = open_run_data(config)
    assert data.val == []
    (test,) = data.tests
    assert (test.name, test.split, len(test.query), len(test.gallery)) == (
        "market1501",
        "test",
        2,
        3,
    )
    assert data.train.identities == [Identity("market1501", 2), Identity("market1501", 7)]
    assert data.train.labels.tolist() == [0, 1, 1]
    assert open_tests(config)[0].query.filenames == test.query.filenames


def test_the_same_pid_in_two_data_sets_is_two_identities(config, tmp_path):
    config.data.train = ("market1501", "msmt17", folders(tmp_path)[0])
    data = open_run_data(config)
    images, labels, identities = data.train
    assert len(images) == len(labels) == 3 + 3 + 24
    assert identities[:4] == [
        Identity("market1501", 2),
        Identity("market1501", 7),
        Identity("msmt17", 0),
        Identity("msmt17", 1),
    ]
    assert {who.dataset for who in identities[4:]} == {"folder-mine"}
    assert labels.tolist()[:6] == [0, 1, 1, 2, 2, 3]
    assert set(labels) == set(range(len(identities)))
    for label, i in zip(labels[6:], range(6, 30), strict=True):
        assert images.filenames[i].split("/")[0] == identities[label].name
        assert images.encoded(i) == FLAT[images.filenames[i]]
    assert images.encoded(2) == MARKET["bounding_box_train/0007_c2s1_000002_00.jpg"]
    assert [test.name for test in data.tests] == ["market1501", "msmt17", "folder-mine"]


def test_tests_on_other_data_sets(config, tmp_path):
    config.eval.datasets = ("msmt17:v1", *folders(tmp_path))
    data = open_run_data(config)
    assert {who.dataset for who in data.train.identities} == {"market1501"}
    assert [test.name for test in data.tests] == ["msmt17-v1", "folder-mine", "folder-mine-2"]
    assert [test.name for test in open_tests(config)] == [
        "msmt17-v1",
        "folder-mine",
        "folder-mine-2",
    ]


def test_identities_held_out(config, tmp_path):
    config.data.train = folders(tmp_path)
    config.data.val_identities = 0.34
    data = open_run_data(config)
    assert [(test.name, test.split) for test in data.val] == [
        ("folder-mine", "val"),
        ("folder-mine-2", "val"),
    ]
    assert (
        len(data.train.identities) == len(set(data.train.identities)) == 2 * 4
    )  # of 6 in each folder
    first = data.val[0]
    held = {name.split("/")[0] for name in first.query.filenames + first.gallery.filenames}
    assert len(held) == 2
    assert held.isdisjoint(who.name for who in data.train.identities)
    assert len(first.query) == len(first.gallery) == 4
    tests = open_tests(config)
    assert [test.split for test in tests] == ["val", "val", "test", "test"]


def test_msmt17_own_val(config):
    config.data.dataset = "msmt17"
    config.data.own_val = True
    with pytest.raises(UserError, match=r"1 identities held out of msmt17 have no two images"):
        open_run_data(config)


def test_msmt17_own_val_leaves_list_train_alone(config, tmp_path):
    more = "0001/0001_007_04_x_0_0.jpg", "0001/0001_008_05_x_0_0.jpg"
    lists = {"list_val.txt": "".join(f"{name} 1\n" for name in more).encode()}
    files = {f"train/{name}": jpg(k) for k, name in enumerate(more)}
    write_tree(tmp_path / "m", lists | files, "MSMT17_V1")
    config.data.dataset = "msmt17"
    config.data.own_val = True
    data = open_run_data(config)
    assert data.train.images.filenames == [
        "0000/0000_000_15_x_0_0.jpg",
        "0001/0001_000_03_0113morning_1_0.jpg",
    ]
    (val,) = data.val
    assert sorted(val.query.filenames + val.gallery.filenames) == list(more)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.own_val", True, "market1501 has no val split .*data.val_identities=0.1"),
        ("eval.distractors", True, "eval.distractors is on, but market1501 .* delete '.*1501/1"),
        ("eval.multi_query", "mean", "eval.multi_query is on, .* put gt_bbox/ beside query/"),
    ],
)
def test_missing_optional_splits(config, field, value, message):
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match=message):
        open_run_data(config)


def test_distractors_and_further_boxes(config, tmp_path):
    write_tree(tmp_path / "m", GT_BOX | CROWD, "Market-1501-v15.09.15")
    config.eval.distractors = True
    config.eval.multi_query = "max"
    (test,) = open_run_data(config).tests
    assert test.gallery.pids.tolist() == [0, 1, 3, 0]
    assert test.gallery.encoded(3) == CROWD["distractors_500k/0_c3s1.jpg"]
    assert test.more_query is not None
    assert test.more_query.pids.tolist() == [1]


def test_one_data_set_under_two_names(config):
    config.data.train = ("msmt17", "msmt17:v1")
    with pytest.raises(UserError, match="names a data set twice under two names"):
        open_run_data(config)


MISPLACED = {
    "variant": ({"data.dataset": "msmt17", "data.variant": "v3"}, r"\(config.data.variant\)"),
    "manual_dir": ({"data.dataset": "dukemtmc_reid"}, r"\(--config.data.manual_dir=DIR\)"),
    "data_dir": ({"data.dir": "/dev/null/data"}, r"\(--config.data.dir=DIR\)"),
    "variant in a name": ({"data.train": ("msmt17:v3",)}, r"\(in 'msmt17:v3'\)"),
    "folder in a name": ({"data.train": ("folder:/dev/null",)}, r"\(in 'folder:/dev/null'\)"),
    "manual_dir beside a variant": (
        {"data.train": ("msmt17:v2",)},
        r"is MSMT17_V1: choose variant v1\): put .* or name another place "
        r"\(--config.data.manual_dir=DIR\)",
    ),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_a_mistake_names_its_setting(config, what):
    fields, message = MISPLACED[what]
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=f"{message}$"):
        open_run_data(config)


def test_a_variant_without_its_data_set(config):
    config.data.train = ("msmt17",)
    config.data.variant = "v2"
    with pytest.raises(UserError, match=r"data.variant='v2' is of data.dataset.* as in msmt17:v2"):
        validate(config)
    config.data.dataset = "msmt17"
    validate(config)


def test_titles_are_the_same_in_every_mode(config, tmp_path):
    one, two = folders(tmp_path)
    config.data.dataset = one
    config.eval.datasets = (two,)
    assert [test.name for test in open_run_data(config).tests] == ["folder-mine-2"]
    assert [test.name for test in open_tests(config)] == ["folder-mine-2"]


def test_validation_on_what_was_trained_on(config, tmp_path):
    config.data.dataset = folders(tmp_path)[0]
    config.data.val_identities = 0.34
    data = open_run_data(config)
    check_held_out([*data.val, *data.tests], data.train.identities, tmp_path)
    learnt = [("folder-mine", 100 + k, name) for k, name in enumerate("abcdefgh")]
    with pytest.raises(UserError, match="was trained on 2 of the 2 identities that"):
        check_held_out(data.val, learnt, tmp_path)


def test_people_in_the_test_leave_the_training_data_as_they_are(config, tmp_path):
    """Numbers of named people and of named cameras shift; names, images and labels do not."""
    names = [f"train/{p}/{c}{i}.jpg" for p in ("bob", "cid") for c in "xy" for i in (0, 1)]
    names += [f"test/dan/{c}{i}.jpg" for c in "xy" for i in (0, 1)]
    config.data.dataset = f"folder:{tmp_path / 'own'}"
    config.data.pattern = r"(?P<camera>[a-z])\d"

    def metadata(files):
        write_tree(tmp_path / "own", files)
        data = open_run_data(config)
        identities = [list(who) for who in data.train.identities]
        return {"identities": identities, "data": fingerprints(data)}

    before = metadata({name: jpg(k) for k, name in enumerate(names)})
    after = metadata({f"test/ann/{c}.jpg": jpg(50 + k) for k, c in enumerate(("a0", "a1", "b0"))})
    assert before["identities"] != after["identities"]
    check_training_data(before, after, tmp_path)
    replaced = metadata({"train/bob/x0.jpg": jpg(99)})
    with pytest.raises(UserError, match="was trained on other images"):
        check_training_data(after, replaced, tmp_path)
    (tmp_path / "own" / "train" / "bob" / "x1.jpg").rename(tmp_path / "own/train/cid/x2.jpg")
    with pytest.raises(UserError, match="was trained on other images"):
        check_training_data(replaced, metadata({}), tmp_path)


def test_fingerprints_tell_images_apart(config):
    data: RunData = open_run_data(config)
    images = data.train.images
    assert images.fingerprint() == open_run_data(config).train.images.fingerprint()
    assert images.fingerprint() != images.take(np.array([0, 1])).fingerprint()
    assert images.fingerprint() != data.tests[0].query.fingerprint()


def test_a_description_of_a_tests_images(config):
    """Each label, name and image counts, and their order: comparisons of runs rest on it."""
    (test,) = open_tests(config)
    known = describe_sets(test)
    assert {name: own["images"] for name, own in known.items()} == {
        "query": len(test.query), "gallery": len(test.gallery),
    }  # fmt: skip
    assert describe_sets(open_tests(config)[0]) == known
    gallery, fingerprints = test.gallery, {known["gallery"]["labels"]}
    order = np.arange(len(gallery))[::-1]
    for other in (
        dataclasses.replace(gallery, pids=gallery.pids + 1),
        dataclasses.replace(gallery, cameras=gallery.cameras + 1),
        dataclasses.replace(gallery, filenames=[f"{name}x" for name in gallery.filenames]),
        gallery.take(order),
        gallery.take(order[1:]),
    ):
        found = describe_sets(test._replace(gallery=other))
        assert found["query"] == known["query"]
        fingerprints.add(found["gallery"]["labels"])
    assert len(fingerprints) == 6
    other = describe_sets(
        test._replace(gallery=dataclasses.replace(gallery, content_digest="other"))
    )["gallery"]
    assert other["labels"] == known["gallery"]["labels"]
    assert other["content"] != known["gallery"]["content"]
    more = describe_sets(test._replace(more_query=test.query))
    assert more == known | {"more_query": known["query"]}
