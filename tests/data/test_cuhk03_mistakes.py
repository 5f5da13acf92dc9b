"""CUHK03: mistakes in the user's files lead to one line, and leave no files."""

import tarfile

import h5py
import numpy as np
import pytest
from support.tiny_cuhk03 import (
    BOXES,
    TEST_SETS,
    draw_world,
    lists_of,
    write_lists,
    write_mat,
    write_np,
    write_release,
    write_unpacked,
)
from support.tiny_datasets import fails, write_zip


@pytest.fixture(scope="module")
def worlds():
    return {boxes: draw_world(boxes) for boxes in BOXES}


@pytest.fixture
def release(tmp_path, worlds):
    return write_release(tmp_path / "m" / "cuhk03", worlds)


def test_unknown_variant(tmp_path):
    message = (
        "'labelled' is not a variant of cuhk03: choose one of labeled, detected, "
        r"labeled-classic-1\.\.20, detected-classic-1\.\.20$"
    )
    fails(message, "cuhk03", tmp_path, variant="labelled")
    fails("'labeled-classic-21' is no", "cuhk03", tmp_path, variant="labeled-classic-21")


def test_not_what_the_variant_needs(tmp_path, worlds):
    manual = tmp_path / "m"
    variables = lists_of(worlds["detected"])
    write_np(manual / "cuhk03-np", "detected", worlds["detected"], variables)
    message = r"not found .*\('.*/cuhk03-np' has CUHK03-NP, detected, and not labeled\): put cuhk03"
    fails(message, "cuhk03", tmp_path, manual_dir=manual)
    message = (
        "cuhk03-np' has CUHK03-NP, detected, and not cuhk-03.mat, where the classic splits are"
    )
    fails(message, "cuhk03", tmp_path, manual_dir=manual, variant="detected-classic-3")


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_np_without_a_folder(tmp_path, worlds, folder):
    manual = write_np(tmp_path / "m", "labeled", worlds["labeled"], lists_of(worlds["labeled"]))
    (manual / "labeled" / folder).rename(manual / "away")
    fails(f"/labeled/{folder}' is missing or holds no", "cuhk03", tmp_path, manual_dir=manual)


def test_two_releases(tmp_path, release):
    (release.parent / "cuhk03-b").symlink_to(release)
    fails("both hold such a data set", "cuhk03", tmp_path, manual_dir=release.parent)


def change_mat(release, change):
    with h5py.File(release / "cuhk03_release" / "cuhk-03.mat", "r+") as file:
        change(file)


def table_of(file, boxes, pair):
    return file[file[boxes][0, pair]]


def replace_image(file, content):
    """Replace the first image of the first person by another array."""
    table = table_of(file, "labeled", 0)
    table[0, 0] = file.create_dataset("#refs#/new", data=content).ref


def retype(file, name):
    del file[name]
    file[name] = np.zeros((1, 5))


MAT_MISTAKES = {
    "no labeled": (lambda f: f.pop("labeled"), "has no variable 'labeled', as cuhk-03.mat does"),
    "not a cell": (lambda f: retype(f, "labeled"), "'labeled' is not a cell array"),
    "empty place": (
        lambda f: replace_image(f, np.zeros(2, np.uint64)),
        "labeled/1_001_1_01.png' is missing or empty, but the lists of the new protocol name",
    ),
    "null": (
        lambda f: table_of(f, "labeled", 0).__setitem__((0, 0), h5py.Reference()),
        "'1_001_1_01.png' refers to something that is not there",
    ),
    "a group": (
        lambda f: table_of(f, "labeled", 0).__setitem__((0, 0), f.create_group("g").ref),
        "'1_001_1_01.png' refers to something that is not there",
    ),
    "grey": (
        lambda f: replace_image(f, np.zeros((4, 8), np.uint8)),
        "labeled/1_001_1_01.png' is not a colour image",
    ),
    "floats": (lambda f: replace_image(f, np.zeros((3, 4, 8))), "1_001_1_01.png' is not a colour"),
    "h, w, 3": (lambda f: replace_image(f, np.zeros((8, 4, 3), np.uint8)), "is not a colour image"),
    "huge": (
        lambda f: (
            f["#refs#"].create_dataset("h", (3, 10**6, 10**6), np.uint8, chunks=(1, 9, 9))
            and table_of(f, "labeled", 0).__setitem__((0, 0), f["#refs#/h"].ref)
        ),
        "1_001_1_01.png' is not a colour image",
    ),
    "one view": (
        lambda f: f["labeled"].__setitem__(
            (0, 0), f.create_dataset("n", (5, 3), h5py.ref_dtype).ref
        ),
        "'labeled' of camera pair 1 is not persons x 10",
    ),
}


@pytest.mark.parametrize("mistake", MAT_MISTAKES)
def test_mistakes_in_the_mat(tmp_path, release, mistake):
    change, message = MAT_MISTAKES[mistake]
    change_mat(release, change)
    fails(message, "cuhk03", tmp_path, manual_dir=release)


@pytest.mark.parametrize(
    ("sets", "number", "message"),
    [
        (TEST_SETS, 3, "has 2 test sets, not 3"),
        ([[(1, 4)]], 1, "test set 1 names person 4 of camera pair 1, who does not exist"),
        ([[(3, 1)]], 1, "names person 1 of camera pair 3"),
        ([[(0, 1)]], 1, "names person 1 of camera pair 0"),
        ([[(1, 0)]], 1, "names person 0 of camera pair 1"),
        ([[(1.5, 1)]], 1, r"test set 1 is not a list of \(pair, person\)"),
        ([[(np.nan, 1)]], 1, r"test set 1 is not a list of \(pair, person\)"),
        ([[(1, 1, 1)]], 1, r"test set 1 is not a list of \(pair, person\)"),
        ([[]], 1, r"test set 1 is not a list of \(pair, person\)"),
        ([[(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]], 1, "leaves no images to train on, or to test"),
    ],
)
def test_mistakes_in_the_test_sets(tmp_path, worlds, sets, number, message):
    write_mat(tmp_path / "m" / "cuhk-03.mat", worlds, test_sets=sets)
    variant = f"detected-classic-{number}"
    fails(message, "cuhk03", tmp_path, manual_dir=tmp_path / "m", variant=variant)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cuhk-03.mat' cannot be read as MATLAB v7.3"),
        (b"MATLAB 5.0 MAT-file".ljust(4000), "cuhk-03.mat' cannot be read as MATLAB v7.3"),
        (0.5, "cuhk-03.mat' cannot be read as MATLAB v7.3 .*truncated file"),
        (0.99, "cuhk-03.mat' cannot be read as MATLAB v7.3 .*truncated file"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_mat(tmp_path, release, content, message, packed):
    path = release / "cuhk03_release" / "cuhk-03.mat"
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: int(content * len(whole))])
    manual = release
    if packed:
        manual = write_zip(
            tmp_path / "a.zip", {p.name: p.read_bytes() for p in release.rglob("*.mat")}
        )
    fails(message, "cuhk03", tmp_path, manual_dir=manual)


def test_damaged_archives_with_the_mat(tmp_path, release):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(release, arcname="a")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    fails(r"a\.tar.* cannot be (opened|read) \(", "cuhk03", tmp_path, manual_dir=path)
    path = write_zip(tmp_path / "a.zip", {p.name: p.read_bytes() for p in release.rglob("*.mat")})
    whole = path.read_bytes()
    middle = whole.index(b"cuhk-03.mat") + 2000
    path.write_bytes(whole[:middle] + b"\xff" * 400 + whole[middle + 400 :])
    message = r"cuhk-03.mat' cannot be opened \(.*\): restore it, or unpack the archive that it"
    fails(message, "cuhk03", tmp_path, manual_dir=path)


def put(name, row, value):
    def change(variables):
        variables[name][row, 0] = value

    return change


LISTS_MISTAKES = {
    "no labels": (lambda v: v.pop("labels"), "has no variable 'labels'"),
    "0": (put("train_idx", 0, 0), "'train_idx' holds more than whole numbers from 1 to"),
    "too far": (put("query_idx", 0, 999), "'query_idx' holds more than whole numbers from 1 to"),
    "twice": (lambda v: put("query_idx", 0, v["query_idx"][1, 0])(v), "'query_idx' is .* repeats"),
    "train and test": (
        lambda v: put("gallery_idx", 0, v["train_idx"][0, 0])(v),
        "'gallery_idx' is empty, or repeats an image",
    ),
    "short": (lambda v: v.update(camId=v["camId"][1:]), r"'camId' has \d+ entries and 'filelist'"),
    "camera 3": (put("camId", 0, 3), "'camId' holds more than whole numbers from 1 to 2"),
    "other camera": (put("camId", 0, 2), "'1_001_1_01.png' of camera 2 is not named"),
    "name": (put("filelist", 0, "1_1.png"), "'1_1.png' of camera 1 is not named"),
    "image 11": (put("filelist", 0, "1_001_1_11.png"), "'1_001_1_11.png' of camera 1 is not named"),
    "reaching out": (put("filelist", 0, "../../a.png"), "'../../a.png' of camera 1 is not named"),
    "not there": (put("filelist", 0, "1_009_1_01.png"), "labeled/1_009_1_01.png' is missing or em"),
    "listed twice": (put("filelist", 1, "1_001_1_01.png"), "lists '1_001_1_01.png' twice"),
    "numbers": (
        lambda v: v.update(filelist=np.ones((3, 1))),
        "'filelist' is not a list of file name",
    ),
    "strings": (
        lambda v: v.update(labels=np.array(["a"] * len(v["labels"]), object)[:, None]),
        "'labels' holds more than whole numbers",
    ),
    "no train": (lambda v: v.update(train_idx=np.zeros((0, 1))), "'train_idx' is empty, or"),
    "nan": (lambda v: v.update(labels=v["labels"] * np.nan), "'labels' holds more than whole"),
}


@pytest.mark.parametrize("mistake", LISTS_MISTAKES)
def test_mistakes_in_the_lists(tmp_path, worlds, release, mistake):
    change, message = LISTS_MISTAKES[mistake]
    variables = lists_of(worlds["labeled"])
    change(variables)
    write_lists(release, "labeled", variables)
    fails(message, "cuhk03", tmp_path, manual_dir=release)


@pytest.mark.parametrize("how", ["empty", "cut", "text", "v7.3", "noise"])
def test_damaged_lists(tmp_path, release, how):
    path = release / "cuhk03_new_protocol_config_labeled.mat"
    whole = path.read_bytes()
    noise = bytearray(whole)
    noise[300:340] = b"\xa5" * 40
    contents = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "text": b"no MATLAB file\n" * 30,
        "v7.3": (release / "cuhk03_release" / "cuhk-03.mat").read_bytes(),
        "noise": bytes(noise),
    }
    path.write_bytes(contents[how])
    fails("config_labeled.mat' (cannot be read|has no var)", "cuhk03", tmp_path, manual_dir=release)


def test_unpacked_image_is_missing(tmp_path, worlds):
    manual = write_unpacked(tmp_path / "m", "detected", worlds["detected"])
    write_lists(manual, "detected", lists_of(worlds["detected"]))
    (manual / "images_detected" / "2_001_2_06.png").unlink()
    message = "/images_detected/2_001_2_06.png' is missing or empty, but the lists"
    fails(message, "cuhk03", tmp_path, manual_dir=manual, variant="detected")
