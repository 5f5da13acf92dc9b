"""A user's folders: which are splits, people or cameras, and when two readings are possible."""

import pytest
from support.run_main import call_main
from support.tiny_datasets import MARKET, fails, jpg, write_tree, write_zip

from batnet_jax.data import load_dataset
from batnet_jax.errors import UserError

PEOPLE = range(8)


def tree(*names):
    return {name: jpg(i) for i, name in enumerate(names)}


def load(tmp_path, files, archive=False, **reading):
    manual = tmp_path / ("m.zip" if archive else "m")
    (write_zip if archive else write_tree)(manual, files)
    return load_dataset("folder", data_dir=tmp_path / "data", manual_dir=manual, **reading)


def labels(dataset):
    """Return {filename: (identity, camera)} of each split."""
    names = dataset.identity_names
    return {
        part: {
            f: (names[p] if names else p, c)
            for f, p, c in zip(s.filenames, s.pids.tolist(), s.cameras.tolist(), strict=True)
        }
        for part in ("train", "query", "gallery")
        for s in [getattr(dataset, part)]
    }


def everything(dataset):
    return {k: v for part in labels(dataset).values() for k, v in part.items()}


SPLITS = [
    ("image_train", "image_query", "image_test"),  # VeRi
    ("bounding_box_train", "query", "bounding_box_test"),
    ("Train", "Query", "Gallery"),
    ("TRAIN", "PROBE", "GALLERY"),
    ("training", "queries", "test"),
    ("train_set", "probe-set", "Gallery Set"),
]


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("splits", SPLITS)
def test_splits_under_usual_names(tmp_path, splits, archive):
    """The pid 5 of the query and the gallery is no pid of training, whatever the folders' names."""
    train, query, gallery = splits
    files = tree(
        *(f"{train}/000{p}_c00{c}_1.jpg" for p in (1, 2) for c in (1, 2)),
        *(f"{query}/0005_c001_1.jpg", f"{gallery}/0005_c002_1.jpg", f"{gallery}/0006_c002_1.jpg"),
    )
    found = labels(load(tmp_path, files, archive))
    assert set(found["train"].values()) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert found["query"] == {"0005_c001_1.jpg": (5, 1)}
    assert found["gallery"] == {"0005_c002_1.jpg": (5, 2), "0006_c002_1.jpg": (6, 2)}


@pytest.mark.parametrize("train", ["Train", "TRAIN", "train", "bbox_train", "training"])
@pytest.mark.parametrize("test", ["Test", "TEST", "bbox_test", "val", "Validation"])
def test_train_and_test_in_any_case(tmp_path, train, test):
    files = tree(
        *(f"{train}/ann/{i}.jpg" for i in range(3)), *(f"{test}/bob/{i}.jpg" for i in range(4))
    )
    found = labels(load(tmp_path, files))
    assert {who for who, _ in found["train"].values()} == {"ann"}
    assert {who for part in ("query", "gallery") for who, _ in found[part].values()} == {"bob"}


def test_query_and_gallery_inside_test(tmp_path):
    files = tree("train/1/a_c1.jpg", "test/query/3/b_c1.jpg", "test/gallery/3/c_c2.jpg")
    found = labels(load(tmp_path, files))
    assert (found["query"], found["gallery"]) == ({"3/b_c1.jpg": (3, 1)}, {"3/c_c2.jpg": (3, 2)})


def test_folders_beside_the_splits_are_named(tmp_path, capfd):
    more = tree("val/1/1_c3.jpg", "multi-query/3/3_c3.jpg")
    load(tmp_path, tree("train/1/1_c1.jpg", "query/3/3_c1.jpg", "gallery/3/3_c2.jpg") | more)
    assert "not read, beside the splits: multi-query/, val/" in capfd.readouterr().err


def test_two_folders_of_one_split(tmp_path):
    files = tree("Train/1/1.jpg", "train_/1/2.jpg", "TEST/2/1.jpg")
    message = "holds 'Train' and 'train_': both may be the train split; keep one there"
    fails(message, "folder", tmp_path, manual_dir=write_tree(tmp_path / "m", files))


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("camera", ["cam{}", "Cam_0{}", "camera-{}", "CAMERA {}", "c{}", "view{}"])
@pytest.mark.parametrize("below", [False, True])
def test_folders_of_cameras(tmp_path, camera, below, archive):
    def name(person, number):
        seen, who = camera.format(number), f"person{person:03}"
        return "/".join((who, seen) if below else (seen, who))

    pairs = [(p, c) for p in PEOPLE for c in (1, 2)]
    wanted = {f"{name(p, c)}/{i}.png": (f"person{p:03}", c) for p, c in pairs for i in (0, 1)}
    assert everything(load(tmp_path, tree(*wanted), archive)) == wanted


@pytest.mark.parametrize("camera", ["cam{}", "c{}", "Camera_{}"])
def test_names_with_numbers_win_over_folders_of_cameras(tmp_path, camera):
    names = [
        *(f"train/{camera.format(c)}/000{p}_c{c}_x.jpg" for p in (1, 2) for c in (1, 2)),
        *(f"query/{camera.format(1)}/0008_c1_1.jpg", f"gallery/{camera.format(2)}/0008_c2_1.jpg"),
    ]
    found = labels(load(tmp_path, tree(*names)))
    assert set(found["train"].values()) == {(p, c) for p in (1, 2) for c in (1, 2)}
    assert list(found["query"].values()) == [(8, 1)]
    assert list(found["gallery"].values()) == [(8, 2)]


@pytest.mark.parametrize("folder", ["day{}", "session_{}", "part{}", "2021-03-0{}"])
def test_names_with_numbers_win_over_folders_of_sessions(tmp_path, folder):
    pairs = {(p, s) for p in PEOPLE for s in (1, 2)}
    names = [f"{folder.format(s)}/000{p}_c{s}s1_x.jpg" for p, s in pairs]
    assert set(everything(load(tmp_path, tree(*names))).values()) == pairs


def test_folders_of_people_win_over_counters(tmp_path):
    names = [f"{who}/{i}_c{c}.jpg" for who in "abcdefgh" for i in (1, 2) for c in (1, 2)]
    found = everything(load(tmp_path, tree(*names)))
    assert found == {name: (name[0], int(name[-5])) for name in names}


@pytest.mark.parametrize("archive", [False, True])
def test_images_without_folders(tmp_path, archive):
    names = [f"{p:04}_c{c}.jpg" for p in PEOPLE for c in (1, 2)]
    found = everything(load(tmp_path, tree(*names), archive))
    assert found == {name: (int(name[:4]), int(name[6])) for name in names}


OMNIGLOT = [
    f"{a}/character{c:02}/{i}.png" for a in ("Greek", "Latin") for c in range(4) for i in "01"
]
DAYS = [f"day{d}/ann{p}/{i}.png" for d in (1, 2) for p in range(4) for i in (0, 1)]
COUNTERS = [f"{who}/000{i}_c{c}.jpg" for who in ("ann", "bob") for i in (1, 2) for c in (1, 2)]
TIMES = [
    f"cam{c}/2021-03-0{d}/ann{p}/{i}.png"
    for c in (1, 2)
    for d in (1, 2)
    for p in range(4)
    for i in "01"
]
NESTED = [
    f"day{d}/part{s}/ann{p}/x{i}.png" for d in (1, 2) for s in "12" for p in range(4) for i in "01"
]
PLACES = [f"hall/view{v}/p{p}/{i}.png" for v in (1, 2) for p in range(4) for i in (0, 1)]
AMBIGUOUS = [
    # files, readings with their numbers of people
    (OMNIGLOT, {"person": 2, "group/person": 8, "*/person": 4}),
    (DAYS, {"person": 2, "group/person": 8, "*/person": 4}),
    (COUNTERS, {"person": 2, "*": 2}),
    (TIMES, {"camera/*/person": 4, "camera": 2}),
    (NESTED, {"person": 2, "*/*/person": 4}),
    ([f"c{c}/000{p}.jpg" for c in (1, 2) for p in range(4)], {"person": 2, "camera": 4}),
    (
        [*PLACES, *(f"lab/view{v}/p0/0.png" for v in (1, 2))],
        {"person/camera": 2, "group/camera/person": 5, "*/camera/person": 4},
    ),
]


@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize(("names", "readings"), AMBIGUOUS)
def test_two_readings_are_refused_and_named(tmp_path, names, readings, splits):
    """Each reading that the message names is taken when it is set."""
    if splits:
        names = [f"{split}/{name}" for split in ("train", "test") for name in names]
        readings = {f"split/{layout}": count for layout, count in readings.items()}
    with pytest.raises(UserError, match=f"can be read in {len(readings)} ways: ") as info:
        load(tmp_path, tree(*names))
    for layout, count in readings.items():
        assert f"{count} people, here" in str(info.value)
        assert f"by data.layout={layout}" in str(info.value)
        found = load(tmp_path, tree(*names), layout=layout)
        assert len({who for part in labels(found).values() for who, _ in part.values()}) == count


def test_two_levels_of_folders(tmp_path):
    found = load(tmp_path, tree(*OMNIGLOT), layout="group/person")
    assert set(found.identity_names) == {name.rpartition("/")[0] for name in OMNIGLOT}


def test_sessions_of_people_are_no_second_reading(tmp_path):
    names = [f"ann{p}/day{d}/{i}.png" for d in (1, 2) for p in range(4) for i in (0, 1)]
    assert set(load(tmp_path, tree(*names)).identity_names) == {f"ann{p}" for p in range(4)}


@pytest.mark.parametrize("levels", ["cam{c}/day{d}", "day{d}/cam{c}", "data/day{d}/cam{c}"])
def test_people_below_sessions_and_cameras(tmp_path, levels):
    """Names that are no numbers leave one reading."""
    rows = [(p, c, d) for p in PEOPLE for c in (1, 2) for d in (1, 2)]
    wanted = {f"{levels.format(c=c, d=d)}/ann{p}/x{d}.png": (f"ann{p}", c) for p, c, d in rows}
    if levels.startswith("cam"):
        assert everything(load(tmp_path, tree(*wanted))) == wanted
        return
    with pytest.raises(UserError, match=r"by data.layout=\*/camera/person"):
        load(tmp_path, tree(*wanted))


def test_a_layout_decides(tmp_path):
    names = [f"train/x/{p}/{c}/{i}.jpg" for p in (1, 2) for c in ("left", "right") for i in (0, 1)]
    names += [f"test/x/{p}/{c}/{i}.jpg" for p in (3, 4) for c in ("left", "right") for i in (0, 1)]
    found = everything(load(tmp_path, tree(*names), layout="split/*/person/camera"))
    assert set(found.values()) == {(p, c) for p in (1, 2, 3, 4) for c in (1, 2)}


def test_a_person_named_as_a_split(tmp_path):
    people = ("train", "test", "val", "query")
    names = [f"{who}/{i}.jpg" for who in people for i in range(4)]
    assert set(load(tmp_path, tree(*names), layout="person").identity_names) == set(people)


@pytest.mark.parametrize("layout", ["people", "person/split", "person/person", "group", "/", "a b"])
def test_no_layout(tmp_path, layout):
    with pytest.raises(UserError, match="is not a layout: name the levels of folders from the top"):
        load(tmp_path, tree(*OMNIGLOT), layout=layout)


def test_folders_of_cameras_without_people(tmp_path):
    manual = write_tree(tmp_path / "m", tree(*(f"cam{c}/a{i}.jpg" for c in (1, 2) for i in (0, 1))))
    message = r"/cam1/a0.jpg' lies in a folder named as a camera, .* set data.layout=person"
    fails(message, "folder", tmp_path, manual_dir=manual)


def test_every_prepare_shows_three_images(tmp_path, capfd):
    files = [f"person{p}/cam{c}/{i}.png" for p in PEOPLE for c in (1, 2) for i in (0, 1)]
    dataset = load(tmp_path, tree(*files))
    shown = [x for x in capfd.readouterr().err.splitlines() if x.startswith("  for example ")]
    assert len(shown) == 3
    for split, line in zip(("train", "query", "gallery"), shown, strict=True):
        name = line.split("'")[1]
        who, camera = labels(dataset)[split][name]
        pid = list(dataset.identity_names).index(who)
        assert line == f"  for example '{name}': pid {pid} ({who}), camera {camera}, split {split}"


def test_prepare_of_market_shows_three_images(tmp_path, capfd):
    manual = write_tree(tmp_path / "m", MARKET)
    load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=manual)
    assert [x for x in capfd.readouterr().err.splitlines() if x.startswith("  for example ")] == [
        "  for example '0007_c1s1_000001_00.jpg': pid 7, camera 1, split train",
        "  for example '0003_c10s1_000001_00.JPG': pid 3, camera 10, split query",
        "  for example '0001_c3s1_000001_00.jpeg': pid 1, camera 3, split gallery",
    ]


def test_a_copy_prepared_with_other_labels_is_not_used(tmp_path, monkeypatch):
    """The first version read person/cam1/0.png without cameras; its copy had another name."""
    files = tree(*(f"person{p}/cam{c}/{i}.png" for p in PEOPLE for c in (1, 2) for i in (0, 1)))
    new = load(tmp_path, files).path
    read = "batnet_jax.data.sources.folder.earlier_labels"
    monkeypatch.setattr(read, lambda name: (name.split("/")[0], name.split("/")[1][3:]))
    assert load(tmp_path, files).path != new


ADDRESS = "https://example.org/people.zip"


@pytest.mark.parametrize(
    "arguments",
    [
        (f"--config.data.manual_dir={ADDRESS}",),
        (f"--config.eval.datasets='folder:{ADDRESS}',",),
        ("--mode=embed", f"--images={ADDRESS}", "--output=x.npz"),
        ("--mode=search", f"--query={ADDRESS}", "--gallery=x.npz"),
    ],
)
def test_addresses_are_said_to_be_addresses(tmp_path, arguments):
    words = ("--config=configs/demo.py", "--config.data.variant=tiny", "--config.steps=1")
    words += (f"--workdir={tmp_path}", f"--config.data.dir={tmp_path / 'data'}")
    if "manual" in arguments[0]:
        words += ("--config.data.dataset=folder", "--config.data.variant=")
    status, text = call_main(*words, *arguments)
    assert status == 2
    assert f"'{ADDRESS}' is an address, and only files of this machine are read" in text


def test_the_command_line_names_the_setting(tmp_path):
    manual = write_tree(tmp_path / "m", tree(*OMNIGLOT))
    words = ["--config=configs/folder.py", f"--workdir={tmp_path / 'w'}"]
    words += [f"--config.data.dir={tmp_path / 'd'}", f"--config.data.manual_dir={manual}"]
    status, text = call_main(*words)
    assert (status, text.count("\n")) == (2, 1)
    assert "data.layout=group/person" in text
    assert "is not a layout" in call_main(*words, "--config.data.layout=alphabet/person")[1]
    other = ("--config=configs/demo.py", "--config.data.layout=person")
    assert "are for the data set folder" in call_main(*other)[1]
    missing = call_main(*words, "--config.data.manual_dir=/no/such")[1]
    assert "'/no/such' does not exist" in missing
