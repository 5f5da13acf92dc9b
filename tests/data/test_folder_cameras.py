"""The cameras and identities that names of a user's files tell, and a pattern of one's own."""

import pytest
from support.run_main import call_main
from support.tiny_datasets import fails, jpg, write_tree

from batnet_jax.config import default_config
from batnet_jax.data import load_dataset
from batnet_jax.data.run_data import open_run_data
from batnet_jax.data.sources.file_labels import camera_folder, camera_of, pid_of
from batnet_jax.errors import UserError

NO_CAMERA = "no camera is found"


def load(tmp_path, names, **reading):
    files = {name: jpg(i) for i, name in enumerate(names)}
    manual = write_tree(tmp_path / "m", files)
    return load_dataset("folder", data_dir=tmp_path / "data", manual_dir=manual, **reading)


def cameras(dataset):
    return {
        name: camera
        for split in (dataset.train, dataset.query, dataset.gallery)
        for name, camera in zip(split.filenames, split.cameras.tolist(), strict=True)
    }


def pids(dataset):
    names = dataset.identity_names
    return {
        name: names[pid] if names else pid
        for split in (dataset.train, dataset.query, dataset.gallery)
        for name, pid in zip(split.filenames, split.pids.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("0001_c1s1_000151_01.jpg", "1"),  # Market-1501
        ("0001_c2_f0046182.jpg", "2"),  # DukeMTMC-reID
        ("0002_c002_00030600_0.jpg", "2"),  # VeRi
        ("0001C1T0001F001.jpg", "1"),  # MARS
        ("0001C12T0001F001.jpg", "12"),
        ("001_1_c5_015833.png", "5"),  # LTCC
        ("cam1_person001_00317.png", "1"),  # iLIDS-VID
        ("7_cam1.jpg", "1"),
        ("7-cam02.jpg", "2"),
        ("7_CAM_3.jpg", "3"),
        ("7 camera 4.jpg", "4"),
        ("7_Camera-b.jpg", "b"),
        ("webcam5_7.jpg", "5"),
        ("c6_7.jpg", "6"),
        ("7_c12345678901234.jpg", "12345678901234"),
        ("IMG_0001.jpg", None),
        ("0001_000151.jpg", None),
        ("scam1.jpg", None),
        ("camping_1.jpg", None),
        ("0001_came.jpg", None),
        ("12345c78-90ab-4cde-8f01-234567890abc.jpg", None),  # a UUID
        ("1c5d0.jpg", None),
    ],
)
def test_cameras_of_names(name, camera):
    assert camera_of(name) == camera


@pytest.mark.parametrize(
    ("folder", "camera"),
    [
        *(("cam1", "1"), ("Cam01", "1"), ("c3", "3"), ("camera-7", "7"), ("CCTV 2", "2")),
        *(("cam_a", "a"), ("cameraB", "b"), ("view2", "2"), ("c", None), ("ca", None)),
        *(("carl", None), ("cam", None), ("0001", None), ("character01", None), ("cam1x", None)),
    ],
)
def test_cameras_of_folders(folder, camera):
    assert camera_folder(folder) == camera


@pytest.mark.parametrize(
    ("name", "pid"),
    [
        *(("0001_c1.jpg", "0001"), ("0001C1T0001F001.jpg", "0001"), ("-1_c1s1.jpg", "-1")),
        *(("1234567890123_c1.jpg", "1234567890123"), ("person_0007.png", "0007")),
        *(("00-1C1T0001F001.jpg", "00-1"), ("me.jpg", None), ("2021-03-04.jpg", None)),
    ],
)
def test_identities_of_names(name, pid):
    assert pid_of(name) == pid


NAMES = {
    "MARS": "{s}/{p:04}/{p:04}C{c}T0001F00{i}.jpg",
    "flat MARS": "{s}/{p:04}C{c}T0001F00{i}.jpg",
    "_cam": "{s}/{p}/{i}_cam{c}.jpg",
    "folders": "{s}/{p}/cam{c}/{i}.png",
    "long": "{s}/{p:04}_c{c}234567890_{i}.jpg",
    "longer than 64 bits": "{s}/{p:04}_c{c}2345678901234567890123_{i}.jpg",
    "a pattern": "{s}/{p}x{c}-{i}.jpg",
    "a pattern of paths": "{s}/at{c}/{p}/{i}.jpg",
}
PATTERNS = {"a pattern": r"(?P<pid>\d+)x(?P<camera>\d+)-"}
PATTERNS["a pattern of paths"] = r"at(?P<camera>\d+)/(?P<pid>\d+)/"


@pytest.mark.parametrize("kind", NAMES)
def test_cameras_are_seen(tmp_path, kind, capfd):
    """Two people in two cameras each: a query of one camera, its match in the other."""
    rows = [("train", 1), ("train", 2), ("test", 3), ("test", 4)]
    wanted = {
        NAMES[kind].format(s=s, p=p, c=c, i=i): (p, c)
        for s, p in rows
        for c in (1, 2)
        for i in "01"
    }
    dataset = load(tmp_path, wanted, pattern=PATTERNS.get(kind, ""))
    wanted = {name.partition("/")[2]: pair for name, pair in wanted.items()}
    assert pids(dataset) == {name: p for name, (p, _) in wanted.items()}
    found = cameras(dataset)
    of = {c: {found[name] for name, (_, camera) in wanted.items() if camera == c} for c in (1, 2)}
    assert all(len(numbers) == 1 and min(numbers) >= 0 for numbers in of.values())
    assert of[1] != of[2]
    if kind != "long":
        assert of == {1: {1}, 2: {2}}
    text = capfd.readouterr().err
    assert NO_CAMERA not in text
    assert ("cameras: 1 = 12345" in text) == (kind == "longer than 64 bits")


def test_junk_of_mars(tmp_path):
    names = ["train/0001C1T1F1.jpg", "query/0003C1T1F1.jpg", "gallery/0003C2T1F1.jpg"]
    dataset = load(tmp_path, [*names, "gallery/00-1/00-1C1T0001F001.jpg", "gallery/00-1C2T1F1.jpg"])
    assert dataset.gallery.pids.tolist() == [3]


def test_names_of_cameras(tmp_path, capfd):
    names = [f"{p}/{vendor}.png" for p in "abcdefgh" for vendor in ("noto", "apple")]
    dataset = load(tmp_path, names, pattern=r"(?P<pid>[^/]+)/(?P<camera>\w+)")
    assert cameras(dataset) == {name: 1 + ("noto" in name) for name in names}
    assert list(dataset.identity_names) == list("abcdefgh")
    assert "cameras: 1 = apple, 2 = noto" in capfd.readouterr().err


def test_a_pattern_of_cameras_alone(tmp_path):
    names = [f"{p}/x{c}y{i}.png" for p in "abcdefgh" for c in (1, 2) for i in (0, 1)]
    dataset = load(tmp_path, names, pattern=r"x(?P<camera>\d)")
    assert cameras(dataset) == {name: int(name[3]) for name in names}
    assert pids(dataset) == {name: name[0] for name in names}


def test_a_pattern_of_people_alone_leaves_cameras_out(tmp_path, capfd):
    names = [f"{s}/{p}_c1_{i}.png" for s in ("train", "test") for p in (1, 2) for i in (0, 1)]
    dataset = load(tmp_path, names, pattern=r"(?P<pid>\d+)_")
    assert set(cameras(dataset).values()) == {-1}
    assert NO_CAMERA in capfd.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression"),
        ("(?P<person>x)", "names no group pid or camera: give one such as"),
        (r"zzz(?P<pid>\d+)", r"/a/0.jpg' does not match data.pattern="),
    ],
)
def test_wrong_patterns(tmp_path, pattern, message):
    write_tree(tmp_path / "m", {f"{p}/{i}.jpg": jpg(ord(p) + i) for p in "ab" for i in range(4)})
    fails(message, "folder", tmp_path, manual_dir=tmp_path / "m", pattern=pattern)


def test_wrong_patterns_at_the_command_line(tmp_path):
    words = ("--config=configs/folder.py", f"--config.data.dir={tmp_path}")
    status, text = call_main(*words, "--config.data.pattern=(?P<x>y)")
    assert (status, text.count("\n")) == (2, 1)
    assert "data.pattern='(?P<x>y)' names no group pid or camera" in text


def test_no_cameras_are_warned_of(tmp_path, capfd):
    load(
        tmp_path, [f"{s}/{p:04}_{i}.jpg" for s in ("train", "test") for p in (1, 2) for i in "012"]
    )
    text = capfd.readouterr().err
    assert f"{NO_CAMERA}, as in '0001_" in text
    assert "finds those of the same camera and moment first" in text
    assert "set data.pattern" in text


def test_training_needs_no_cameras(tmp_path, capfd):
    test = ["query/3/a_c1.jpg", "gallery/3/b_c2.jpg"]
    dataset = load(tmp_path, ["train/1/a.jpg", "train/2/b.jpg", *test])
    assert dataset.train.cameras.tolist() == [-1, -1]
    assert (dataset.query.cameras.tolist(), dataset.gallery.cameras.tolist()) == ([1], [2])
    assert NO_CAMERA not in capfd.readouterr().err


def test_some_cameras_in_training_are_not_kept(tmp_path, capfd):
    test = ["query/3/a_c1.jpg", "gallery/3/b_c2.jpg"]
    dataset = load(tmp_path, ["train/1/a.jpg", "train/2/b_c7.jpg", *test])
    assert dataset.train.cameras.tolist() == [-1, -1]
    assert "1 of 2 training images name no camera: none is kept there" in capfd.readouterr().err


@pytest.mark.parametrize("test", [("a_c1", "b"), ("a", "b_c2")])
def test_cameras_of_some_test_images_are_refused(tmp_path, test):
    names = ["train/1/a_c1.jpg", f"query/3/{test[0]}.jpg", f"gallery/3/{test[1]}.jpg"]
    with pytest.raises(UserError, match=r"names no camera .* 0 others of 2 test images"):
        load(tmp_path, names)


def test_two_cameras_of_one_image(tmp_path):
    names = [f"cam{c}/{p}/{i}_c{3 - c}.jpg" for c in (1, 2) for p in "abcdefgh" for i in (0, 1)]
    with pytest.raises(UserError, match=r"cam1/a/0_c2.jpg' tells two cameras, 1 .* and 2 by its"):
        load(tmp_path, names)
    by_folder = cameras(load(tmp_path, names, layout="camera/person"))
    by_name = cameras(load(tmp_path, names, layout="*/person"))
    assert by_folder == {name: int(name[3]) for name in names}
    assert by_name == {name: 3 - int(name[3]) for name in names}


def test_numbers_spelled_in_several_ways_are_told(tmp_path, capfd):
    load(tmp_path, [f"{p}/{i}.jpg" for p in ("1", "01", "001", "2", "3", "4") for i in range(4)])
    text = capfd.readouterr().err
    assert "spelled in several ways: '001', '01', '1' are one person" in text


def test_names_that_look_alike_are_told(tmp_path, capfd):
    load(
        tmp_path, [f"{p}/{i}.jpg" for p in ("Ann", "ann", "e\u0301", "\xe9", "bob") for i in "0123"]
    )
    text = capfd.readouterr().err
    assert r"are different people: 'Ann', 'ann'; 'e\u0301', '\xe9'" in text


def test_settings_reach_the_data_sets_of_a_run(tmp_path):
    names = [f"g{g}/p{p}/x{c}.jpg" for g in (1, 2) for p in range(4) for c in (1, 2)]
    manual = write_tree(tmp_path / "m", {name: jpg(i) for i, name in enumerate(names)})
    config = default_config()
    config.data.dir = str(tmp_path / "d")
    config.eval.datasets = (f"folder:{manual}",)
    config.data.train = (f"folder:{manual}",)
    config.data.layout, config.data.pattern = "group/person", r"x(?P<camera>\d)"
    data = open_run_data(config)
    assert {who.name for who in data.train.identities} < {
        f"g{g}/p{p}" for g in (1, 2) for p in range(4)
    }
    assert set(data.tests[0].query.cameras.tolist()) <= {1, 2}
