"""What is found in a user's folder where the layout, a pattern or unusual names decide."""

import pytest
from support.tiny_datasets import FLAT, fails, jpg, write_tree, write_zip

from batnet_jax.config import default_config
from batnet_jax.data import check_name, load_dataset, split_name, title_of
from batnet_jax.data.run_data import open_run_data
from batnet_jax.data.sources.file_labels import camera_of
from batnet_jax.errors import UserError
from batnet_jax.validation import validate

PEOPLE = ("ann", "bob", "cid", "dan", "eve", "fay", "gil", "hal")


def tree(*names):
    return {name: jpg(i) for i, name in enumerate(names)}


def load(tmp_path, files, **reading):
    manual = write_tree(tmp_path / "m", files)
    return load_dataset("folder", data_dir=tmp_path / "data", manual_dir=manual, **reading)


def everything(dataset):
    """Return {filename: (identity, camera)}."""
    names = dataset.identity_names
    return {
        f: (names[p] if names else p, c)
        for s in (dataset.train, dataset.query, dataset.gallery)
        for f, p, c in zip(s.filenames, s.pids.tolist(), s.cameras.tolist(), strict=True)
    }


NAMES = {
    "{p:04}00{i}.png": r"(?P<pid>\d{4})\d{3}",  # without a mark between person and number
    "all/{p:04}00{i}.png": r"(?P<pid>\d{4})\d{3}",
    "CAM{c:02}-2014-x{p}-frame{i}.png": r"CAM(?P<camera>\d+)-.*x(?P<pid>\d+)-",
    "{p} ({i}{c}).png": r"(?P<pid>\d+) \(\d(?P<camera>\d)",
    "at{c}/x{p}y{i}.png": r"at(?P<camera>\d)/x(?P<pid>\d)",
    "outer/{c}/{p}-{i}.png": r"outer/(?P<camera>\d)/(?P<pid>\d)-",
}


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("form", NAMES)
def test_a_pattern_needs_no_folders_of_people(tmp_path, form, archive):
    """Whatever lies around the images: one folder, folders of cameras, none."""
    rows = [(p, c, i) for p in range(8) for c in (1, 2) for i in (3, 4)]
    known = "{c" in form and "camera" in NAMES[form]
    wanted = {form.format(p=p, c=c, i=i): (p, c if known else -1) for p, c, i in rows}
    if archive:
        files = {f"zipped/{name}": content for name, content in tree(*wanted).items()}
        manual = write_zip(tmp_path / "m.zip", files)
        data = tmp_path / "data"
        found = load_dataset("folder", data_dir=data, manual_dir=manual, pattern=NAMES[form])
    else:
        found = load(tmp_path, tree(*wanted), pattern=NAMES[form])
    assert sorted(everything(found).values()) == sorted(wanted.values())


@pytest.mark.parametrize(
    ("form", "layout", "identity"),
    [
        ("Latin/{p}/{i}.png", "group/person", "Latin/{p}"),
        ("hall/{p}/{i}.png", "*/person", "{p}"),
        ("mine/{p}/{i}.png", "person", "{p}"),
        ("mine/Latin/{p}/{i}.png", "group/person", "Latin/{p}"),
    ],
)
def test_a_layout_holds_from_the_top_where_one_folder_is_there(tmp_path, form, layout, identity):
    """A single folder counts as a level, unless the images lie deeper than the layout."""
    names = [form.format(p=p, i=i) for p in PEOPLE for i in range(3)]
    found = everything(load(tmp_path, tree(*names), layout=layout))
    assert {who for who, _ in found.values()} == {identity.format(p=p) for p in PEOPLE}


@pytest.mark.parametrize("deeper", ["", "/day1"])
def test_a_layout_of_one_camera(tmp_path, deeper):
    names = [f"cam7/{p}{deeper}/{i}.png" for p in PEOPLE for i in range(3)]
    manual = write_tree(tmp_path / "m", tree(*names))
    message = "has no test identity with two images from two cameras.*: all are of camera 7: "
    fails(message, "folder", tmp_path, manual_dir=manual, layout="camera/person")


@pytest.mark.parametrize("layout", ["", "person", "*/person", "camera/person"])
def test_images_above_the_people_are_no_people(tmp_path, layout):
    """12.jpg is no person 12: only names as 0001_c1 say so themselves."""
    upper = {"": "", "person": ""}.get(layout, "cam1/")
    files = tree(*(f"{upper}{p}/{i}.png" for p in PEOPLE for i in range(3)))
    for stray in ("12.jpg", "12_7.jpg"):
        manual = write_tree(tmp_path / stray, files | {stray: jpg(1000)})
        message = f"{stray}' lies above the folders of people .*: move or remove it"
        fails(message, "folder", tmp_path, manual_dir=manual, layout=layout)


LIKE_SPLITS = [("train2017", "test2017"), ("my_train", "my_query"), ("TrainRGB", "TestRGB")]


@pytest.mark.parametrize("names", LIKE_SPLITS)
@pytest.mark.parametrize("deep", [False, True])
def test_folders_that_may_be_splits_or_people(tmp_path, names, deep):
    """Both settings that the message names do what it says."""
    inside = "{p}/{i}_1.png" if deep else "{p:04}_{i}.png"
    ends = [inside.format(p=p, i=i) for p in range(4) for i in range(3)]
    files = tree(*(f"{names[0]}/{e}" for e in ends[:6]), *(f"{names[1]}/{e}" for e in ends[6:]))
    manual = write_tree(tmp_path / "m", files)
    layout = "split/person" if deep else "split"
    message = f"may be people or splits: set data.layout=person, or data.layout={layout}$"
    fails(message, "folder", tmp_path, manual_dir=manual)
    if "query" in names[1]:
        return
    split = load(tmp_path, files, layout=layout)
    assert (set(split.train.pids.tolist()), set(split.gallery.pids.tolist())) == ({0, 1}, {2, 3})
    people = load(tmp_path, files, layout="person")
    assert set(people.identity_names) == set(names)


def test_folders_of_splits_in_folders_of_people(tmp_path):
    files = tree(*(f"{p}/{s}/{i}.png" for p in PEOPLE for s in ("train", "test") for i in range(3)))
    manual = write_tree(tmp_path / "m", files)
    message = (
        "both hold such a data set: name one; or, if these folders are people, set data.layout"
    )
    fails(message, "folder", tmp_path, manual_dir=manual)
    assert set(load(tmp_path, files, layout="person").identity_names) == set(PEOPLE)


def test_a_person_named_train(tmp_path):
    files = tree(*(f"{p}/{i}.png" for p in ("train", *PEOPLE) for i in range(3)))
    message = r"test' is missing .*\(ann/, bob/.* if the folders are people, set data.layout=person"
    fails(message, "folder", tmp_path, manual_dir=write_tree(tmp_path / "m", files))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["ann-1.png", "bob-1.png"], "'ann-1.png' do not tell people: .* set data.pattern"),
        (["ann/1.png", "ann/2.png"], "only the folder 'ann' holds images: give each of at least"),
        (["1.png", "ann/1.png"], "'1.png' lies beside the folder 'ann': "),
        (["notes.txt"], "it holds no images"),
    ],
)
def test_not_found_says_what_is_there(tmp_path, names, reason):
    manual = write_tree(tmp_path / "m", dict.fromkeys(names, jpg(1)))
    message = f"not found in '{manual}': .*{reason}.*, or name another place"
    fails(message, "folder", tmp_path, manual_dir=manual)


def test_folders_without_images_are_passed_over(tmp_path):
    files = {f"people/{name}": content for name, content in FLAT.items()}
    found = load(tmp_path, files | {"notes/a.txt": b"", "ann/b.txt": b""})
    assert set(found.identity_names) == set("abcdefgh")


def test_an_archive_in_a_folder(tmp_path):
    write_zip(tmp_path / "m" / "people.zip", FLAT, "people/")
    found = load(tmp_path, {"m.txt": b""})
    assert set(found.identity_names) == set("abcdefgh")


def test_junk_of_people_is_counted(tmp_path, capfd):
    load(tmp_path, tree(*(f"{p}/{i}.png" for p in ("-1", *PEOPLE) for i in range(3))))
    assert "not read: 3 images of the identity -1, which marks junk" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        *(("camA_1.png", "a"), ("1_CameraB.png", "b"), ("7_kamC.jpg", "c")),
        *(("Cameron_1.png", None), ("camAnn.png", None), ("CAMERON.png", None)),
    ],
)
def test_letters_of_cameras_without_a_mark(name, camera):
    assert camera_of(name) == camera


NAMES_OF_SETS = [
    # name, parts
    ("market1501", ("market1501", "", None)),
    ("msmt17:v2", ("msmt17", "v2", None)),
    ("folder:a/b", ("folder", "a/b", None)),
    ("folder:a?b", ("folder", "a?b", None)),
    ("folder:a?layout=camera/person", ("folder", "a", ("camera/person", ""))),
    (r"folder:a?pattern=(?P<pid>\d)&?", ("folder", "a", ("", r"(?P<pid>\d)&?"))),
    (
        "folder:a?layout=*/person&pattern=(?P<camera>x)",
        ("folder", "a", ("*/person", "(?P<camera>x)")),
    ),
    ("folder:?layout=person", ("folder", "", ("person", ""))),
]


@pytest.mark.parametrize(("name", "parts"), NAMES_OF_SETS)
def test_a_name_may_give_layout_and_pattern(name, parts):
    assert split_name(name) == parts
    assert title_of(name) == title_of(":".join(filter(None, parts[:2])))
    check_name(name)


@pytest.mark.parametrize(
    ("end", "message"),
    [("layout=people", "is not a layout"), ("pattern=(", "is not a regular expression")],
)
def test_a_wrong_layout_in_a_name(end, message):
    with pytest.raises(UserError, match=message):
        check_name(f"folder:a?{end}")


def test_each_folder_of_a_run_has_its_own_layout(tmp_path):
    shop = tree(*(f"{c}/{p}/{i}.png" for c in ("left", "right") for p in PEOPLE for i in (0, 1)))
    hall = tree(*(f"{p}-{c}-{i}.png" for p in PEOPLE for c in (3, 4) for i in (0, 1)))
    write_tree(tmp_path / "shop", shop)
    write_tree(tmp_path / "hall", hall)
    config = default_config()
    config.data.train = (
        f"folder:{tmp_path / 'shop'}?layout=camera/person",
        rf"folder:{tmp_path / 'hall'}?pattern=(?P<pid>\w+)-(?P<camera>\d)",
    )
    config.data.dir = str(tmp_path / "data")
    validate(config)
    data = open_run_data(config)
    assert {who.dataset for who in data.train.identities} == {"folder-shop", "folder-hall"}
    assert {who.name for who in data.train.identities} <= set(PEOPLE)
    assert [set(t.query.cameras.tolist()) for t in data.tests] == [{1, 2}, {3, 4}]
