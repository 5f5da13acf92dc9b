"""A data set from a table: its columns, splits, boxes, and what is wrong with it in one line."""

import csv
import io
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzzing import survives

from batnet_jax.data import load_dataset
from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.sources.table_rows import read_rows
from batnet_jax.errors import UserError

HEIGHT, WIDTH = 24, 16
PEOPLE = ("ann", "bob", "cy", "dee")


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def place(tmp_path):
    """A folder with 16 images: those 4 k to 4 k + 3 show person k, by two cameras."""
    (tmp_path / "img").mkdir()
    for number in range(16):
        content = cv2.imencode(".png", pixels(number)[:, :, ::-1])[1].tobytes()
        (tmp_path / "img" / f"{number:02}.png").write_bytes(content)
    return tmp_path


def records(**columns):
    """A row for each image; a column is a function of its number."""
    usual = {"path": lambda n: f"img/{n:02}.png", "identity": lambda n: PEOPLE[n // 4],
             "camera": lambda n: n % 2 + 1}  # fmt: skip
    made = {name: column for name, column in (usual | columns).items() if column is not None}
    return [{name: column(n) for name, column in made.items()} for n in range(16)]


def write(path, rows, delimiter=",", encoding="utf-8"):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def load(place, rows=None, name="people.csv", **options):
    if rows is not None:
        write(place / name, rows)
    return load_dataset("folder", data_dir=place / "data", manual_dir=place / name, **options)


def names(split):
    return [name.removeprefix("img/") for name in split.filenames]


def test_train_and_test(place, capsys):
    data = load(place, records(split=lambda n: "train" if n < 8 else "test", note=lambda n: "x"))
    assert data.identity_names == list(PEOPLE)
    assert names(data.train) == [f"{n:02}.png" for n in range(8)]
    assert data.train.pids.tolist() == [0] * 4 + [1] * 4
    assert data.train.cameras.tolist() == [1, 2] * 4
    assert sorted(names(data.query) + names(data.gallery)) == [f"{n:02}.png" for n in range(8, 16)]
    seen = list(zip(data.query.pids.tolist(), data.query.cameras.tolist(), strict=True))
    assert sorted(seen) == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert data.train.encoded(3) == (place / "img" / "03.png").read_bytes()
    said = capsys.readouterr().err
    assert "columns read: path, identity, camera, split; not read: note" in said


def test_query_and_gallery_by_their_names(place):
    split = ["train"] * 8 + ["query", "gallery"] * 4
    data = load(place, records(split=lambda n: split[n].title()))
    assert names(data.query) == ["08.png", "10.png", "12.png", "14.png"]
    assert names(data.gallery) == ["09.png", "11.png", "13.png", "15.png"]


def test_without_splits_a_quarter_of_the_people_is_the_test(place, capsys):
    data = load(place, records(camera=None))
    tested = set(data.query.pids) | set(data.gallery.pids)
    assert len(tested) == 1
    assert set(data.train.pids) == set(range(4)) - tested
    assert (data.train.cameras == -1).all()
    said = capsys.readouterr().err
    assert "if cameras are known, add a column `camera`" in said
    assert "data.pattern" not in said


OML = {
    "camera": None, "identity": None,
    "label": lambda n: n // 4,
    "split": lambda n: "train" if n < 8 else "validation",
    "is_query": lambda n: "" if n < 8 else n % 4 == 0,
    "is_gallery": lambda n: "" if n < 8 else True,
    "category": lambda n: "person",
    "x_1": lambda n: n % 4, "x_2": lambda n: 10.4, "y_1": lambda n: 2, "y_2": lambda n: 99,
}  # fmt: skip
"""The columns of open-metric-learning: x_1 and y_1 are left and top."""


def test_a_table_of_open_metric_learning(place, capsys):
    data = load(place, records(**OML))
    assert (len(data.train), len(data.query), len(data.gallery)) == (8, 2, 8)
    assert data.train.pids.tolist() == [0] * 4 + [1] * 4
    assert data.query.pids.tolist() == [2, 3]
    assert (list(data.identity_names), set(data.gallery.cameras)) == ([], {-1})
    assert data.train.filenames[1] == "img/01.png#1,2,10.4,99"
    box = read_picture(data.train.encoded(1)).pixels
    np.testing.assert_array_equal(box, pixels(1)[2:, 1:10])  # rounded, cut at the edge
    said = capsys.readouterr().err
    assert "not read: category" in said
    assert "2 images are in query and in gallery: set eval.leave_out_own=True" in said


def test_several_boxes_of_one_frame_and_whole_images(place):
    boxes = [("1", "2", "9", "12"), ("3", "2", "9", "12"), ("", "", "", ""), ("0", "0", "16", "24")]
    rows = records(
        path=lambda n: f"img/{n // 4 * 4:02}.png", split=lambda n: "train" if n < 8 else "test",
        **{edge: lambda n, i=i: boxes[n % 4][i] for i, edge in enumerate(("x0", "y0", "x1", "y1"))},
    )  # fmt: skip
    data = load(place, rows)
    assert names(data.train)[:4] == [
        "00.png", "00.png#0,0,16,24", "00.png#1,2,9,12", "00.png#3,2,9,12",
    ]  # fmt: skip
    shown = [read_picture(data.train.encoded(i)).pixels for i in range(4)]
    np.testing.assert_array_equal(shown[0], pixels(0))
    np.testing.assert_array_equal(shown[1], pixels(0))
    np.testing.assert_array_equal(shown[2], pixels(0)[2:12, 1:9])
    np.testing.assert_array_equal(shown[3], pixels(0)[2:12, 3:9])
    assert data.train.shapes[2].tolist() == [10, 8]


def as_parquet(place, rows):
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    parquet.write_table(pa.table(columns), place / "people.parquet")
    return "people.parquet"


@pytest.mark.parametrize(
    "kind", ["comma", "semicolon", "tab", "excel", "utf-16", "parquet", "caps"]
)
def test_the_same_table_in_other_forms(place, kind):
    whole = load(place, records(split=lambda n: "train" if n < 8 else "test"))
    rows = records(split=lambda n: "train" if n < 8 else "test")
    name = "other.csv"
    if kind == "parquet":
        # As pandas has it: whole numbers beside a missing one are floats.
        name = as_parquet(place, [row | {"camera": float(row["camera"])} for row in rows])
    elif kind == "caps":
        rows = [{f" {k.upper()} ": f" {v} " for k, v in row.items()} | {"": ""} for row in rows]
        write(place / name, rows)
    else:
        marks = {"semicolon": ";", "tab": "\t"}
        encodings = {"excel": "utf-8-sig", "utf-16": "utf-16"}
        write(place / name, rows, marks.get(kind, ","), encodings.get(kind, "utf-8"))
    other = load(place, name=name)
    for split in ("train", "query", "gallery"):
        ours, theirs = getattr(whole, split), getattr(other, split)
        assert ours.filenames == theirs.filenames
        assert ours.pids.tolist() == theirs.pids.tolist()
        assert ours.cameras.tolist() == theirs.cameras.tolist()


def test_numbers_that_have_become_floats(place):
    rows, _ = read_rows(write(place / "a.csv", records(
        identity=lambda n: f"{n // 4}.0", camera=lambda n: f"0{n % 2}.0")))  # fmt: skip
    assert [row.labels[:2] for row in rows[3:5]] == [("0", "1"), ("1", "0")]
    # Not where one of them is no whole number.
    rows, _ = read_rows(write(place / "a.csv", records(camera=lambda n: f"{n}.5")))
    assert rows[1].labels.camera == "1.5"


def test_paths_of_windows_and_whole_paths(place):
    rows = records(split=lambda n: "train" if n < 8 else "test")
    for n, row in enumerate(rows):
        row["path"] = str(place / row["path"]) if n % 2 else row["path"].replace("/", "\\")
    data = load(place, rows)
    assert data.train.filenames[-1] == "img\\06.png"
    assert data.train.encoded(7) == (place / "img" / "06.png").read_bytes()


def test_changed_rows_and_files_make_another_copy(place):
    rows = records(split=lambda n: "train" if n < 8 else "test")
    first = load(place, rows).path
    assert load(place, rows[::-1]).path == first
    assert load(place, [row | {"note": "new"} for row in rows]).path == first
    rows[0]["camera"] = 7
    second = load(place, rows)
    assert (second.path != first, second.train.cameras[0]) == (True, 7)
    (place / "img" / "00.png").write_bytes(cv2.imencode(".png", pixels(99))[1].tobytes())
    assert load(place, rows).path not in (first, second.path)


def test_val_beside_a_test_is_not_read(place, capsys):
    split = ["train"] * 4 + ["val"] * 4 + ["test"] * 8
    data = load(place, records(split=lambda n: split[n]))
    assert set(data.train.pids) == {0}
    assert "not read: 4 images of the split val" in capsys.readouterr().err


def change(number, **cells):
    """A function that changes cells of one row."""
    return lambda rows: rows[number].update(cells)


@pytest.mark.parametrize(
    ("columns", "change", "message"),
    [
        ({"path": None}, None, "has no column `path`, but identity, camera, split: name the"),
        ({"identity": None}, None, "has no column `identity`, but path, camera, split: name"),
        ({}, change(2, path=""), "row 4 has no path, nor have 0 others: fill the column"),
        ({}, change(0, identity=" NaN "), "row 2 has no identity, nor have 0 others"),
        ({}, change(5, path="img/x.png"), "row 7: 'img/x.png' is missing in .*No such file"),
        ({"path": lambda n: f"no/{n}"}, None, r"row 2: 'no/0' is missing .*, and so are 15 others"),
        ({}, change(5, path="img"), "row 7: 'img' is missing in .*it is not a file"),
        ({}, change(5, path="a\0b"), "row 7: 'a.x00b' is missing in .*null byte"),
        ({}, change(3, path="img/00.png"), "rows 2 and 5 are the same image, 'img/00.png', in"),
        ({}, change(9, camera=""), "'.*/img/09.png' names no camera, nor do 0 others of 8 test"),
        ({}, change(9, split="tset"), "row 11 has split='tset': write train, query, gall"),
        ({}, change(9, split=""), "row 11 has no split: write train"),
        ({"split": lambda n: "train"}, None, "has rows of train, and none of the split test: add"),
        ({"split": lambda n: "test"}, None, "has rows of test, and none of the split train: add"),
        ({"split": lambda n: ("train", "query")[n // 8]}, None, "and none of the split gallery"),
        (OML, change(9, is_query="maybe"), "row 11 has is_query='maybe': write True or False"),
        (OML, change(9, is_gallery=False), "row 11 is of the split val, and is neither is_query"),
        (OML, change(1, is_query=True), "row 3 is of the split train, and is_query: choose one"),
        (OML, change(1, x_1=12), "row 3 has the box 12,2,10.4,99: write the left, top, right and"),
        (OML, change(1, x_1="left"), "row 3 has the box left,2,10.4,99"),
        (OML, change(1, y_2="inf"), "row 3 has the box 1,2,10.4,inf"),
        (OML, change(1, y_2=""), "row 3 has the box 1,2,10.4,: write the left"),
        (OML, change(1, x_1=16, x_2=30), r"row 3: the box, \[16.0, 2.0, 30.0, 99.0\], holds no"),
        (OML | {"y_2": None}, None, "the columns x_1, y_1, x_2, which are not a whole box: add"),
        (OML | {e: lambda n, e=e: 0.5 * (e[2] == "2") for e in ("x_1", "x_2", "y_1", "y_2")}, None,
         "has boxes between 0 and 1: write pixels"),
        ({"Path": lambda n: ""}, None, "has the columns 'path' and 'Path': keep one"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(place, columns, change, message):
    rows = records(**{"split": lambda n: "train" if n < 8 else "test"} | columns)
    if change:
        change(rows)
    with pytest.raises(UserError, match=message) as caught:
        load(place, rows)
    assert "\n" not in str(caught.value)
    assert "people.csv" in str(caught.value)
    assert not list((place / "data").glob("table/*/1.0.0/*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no rows: write one for each image, below the columns' names"),
        (b"path,identity\n\n , \n", "has no rows"),
        (b"img/00.png,ann\n", "has no rows"),
        (b"img/00.png,ann\nimg/01.png,ann\n", "has no column `path`, but img/00.png, ann: na"),
        (b"path,identity\nimg/00.png\n", "has 1 cells in row 2, not 2: write one for each column"),
        (b"path,identity\nimg/a,b.png,ann\n", "has 3 cells in row 2, not 2: .*quote a cell"),
        (b"path,identity\nimg/00.png,J\xf6rg\n", "is not in UTF-8: save it so"),
        (b'path,identity\n"' + b"x" * 200_000, "is not a table .field larger than field limit"),
    ],
)  # fmt: skip
def test_files_that_are_no_tables(place, content, message):
    (place / "people.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(place)


def test_tables_that_are_not_there(place):
    with pytest.raises(
        UserError, match=r"people.csv' does not exist: name a table of images, or th"
    ):
        load(place)
    (place / "people.csv").mkdir()
    with pytest.raises(UserError, match=r"people.csv' cannot be read .it is a folder.: restore it"):
        load(place)
    (place / "people.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    with pytest.raises(UserError, match=r"people.parquet' cannot be read as Parquet"):
        load(place, name="people.parquet")


def test_layouts_and_patterns_are_for_folders(place):
    rows = records(split=lambda n: "train" if n < 8 else "test")
    for options in ({"layout": "person"}, {"pattern": "(?P<pid>.*)"}):
        with pytest.raises(UserError, match=r"are for folders: the columns of '.*people.csv' tell"):
            load(place, rows, **options)


def test_an_image_that_cannot_be_decoded_is_named_by_its_row(place):
    (place / "img" / "03.png").write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"row 5: 'img/03.png' cannot be decoded .*leave the row out"
    ):
        load(place, records(**OML))
    with pytest.raises(UserError, match=r"'img/03.png' cannot be decoded"):
        load(place, records(split=lambda n: "train" if n < 8 else "test"))


def test_nested_and_binary_columns_of_parquet_are_passed_over(place):
    rows = records(split=lambda n: "train" if n < 8 else "test")
    others = {"image": b"\xff\xd8", "key points": [[1, 2]], "box": {"x0": 1}}
    data = load(place, name=as_parquet(place, [row | others for row in rows]))
    assert data.train.cameras.tolist() == [1, 2] * 4
    name = as_parquet(place, [row | {"path": [row["path"]]} for row in rows])
    with pytest.raises(UserError, match=r"has no column `path`, but identity, camera, split"):
        load(place, name=name)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_tables_are_read_or_refused_in_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged tables"
    folder.mkdir(exist_ok=True)
    rows = records(**OML, note=lambda n: "ö,\"'\n")
    for n in range(16):
        (folder / "img").mkdir(exist_ok=True)
        (folder / "img" / f"{n:02}.png").touch()
    path = write(folder / "people.csv", rows)
    if data.draw(st.booleans()):
        path = folder / as_parquet(folder, [{k: str(v) for k, v in row.items()} for row in rows])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        content = content or bytearray(b"\0")
    path.write_bytes(content)
    found = survives(read_rows, path)
    assert isinstance(found, str) or len(found[0]) <= 20
    shutil.rmtree(folder / "img")
