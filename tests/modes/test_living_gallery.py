"""`embed` with --append, --update and --remove: what is embedded, what stays, what is told."""

import fcntl
import os
import types
from pathlib import Path

import numpy as np
import pytest
from support.mean_colour_model import SIZE, Colours, config, png

from batnet_jax.data.loading.loader import decode
from batnet_jax.errors import UserError
from batnet_jax.inference import living_gallery
from batnet_jax.inference.feature_file import open_features, write_features
from batnet_jax.modes import embed

FINGERPRINT = "0123456789abcdef" * 2


class Counting(Colours):
    """Embeds in parts of two, and keeps what it has embedded."""

    fingerprint = FINGERPRINT
    config = types.SimpleNamespace(data=types.SimpleNamespace(workers=2))

    def __init__(self):
        self.seen = []

    def embed_parts(self, images):
        for start in range(0, len(images), 2):
            part = range(start, min(start + 2, len(images)))
            self.seen += [os.path.basename(images.filenames[i]) for i in part]
            yield np.concatenate(
                [self.embed([decode(images.encoded(i), SIZE, images.filenames[i])]) for i in part]
            )


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder of images and its gallery."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(living_gallery, "ROWS_AT_ONCE", 3)
    (tmp_path / "photos").mkdir()
    for i in range(5):
        write(f"{i}.png", i)
    run(monkeypatch)
    return tmp_path


def write(name, number, time=1e9):
    path = f"photos/{name}"
    with open(path, "wb") as file:
        file.write(png((40 * number, 10, 250 - 40 * number)))
    os.utime(path, (time, time))


def run(monkeypatch, images="photos", output="F.npz", settings=None, **flags):
    """Embed; return the names of the images that were embedded."""
    model = Counting()
    monkeypatch.setattr(embed, "load_with_config", lambda *_, **__: model)
    words = {"images": None if images is None else Path(images), "skip_unreadable": False}
    embed.run(settings or config(), Path("run"), output=Path(output), **(words | flags))
    return model.seen


def names():
    return [os.path.basename(path) for path in open_features(Path("F.npz")).paths]


def agrees():
    """Assert that features and facts are those of the files, embedded one by one."""
    found = open_features(Path("F.npz"))
    for i, path in enumerate(found.paths):
        np.testing.assert_array_equal(found.features[i], Colours().embed([path])[0])
        facts = os.stat(path)
        assert found.columns["bytes"][i] == facts.st_size
        assert found.columns["modified"][i] == facts.st_mtime_ns / 1e9
        assert len(found.columns["digest"][i]) == 32
    assert found.fingerprint == FINGERPRINT
    assert sorted(os.listdir(".")) == ["F.npz", "photos"]
    return True


def test_update_embeds_what_is_new_or_changed(world, monkeypatch, capsys):
    assert names() == [f"{i}.png" for i in range(5)]
    agrees()
    os.unlink("photos/1.png")
    write("3.png", 6, time=2e9)
    write("0.png", 0, time=2e9)  # touched
    write("a.png", 2)
    write("7.png", 5)
    capsys.readouterr()
    assert run(monkeypatch, update=True) == ["3.png", "7.png", "a.png"]
    text = capsys.readouterr()
    assert "features [6, 3], 2 added, 1 changed, 1 gone, 3 unchanged, " in text.out
    assert "note: 1 image has the bytes of another: 'photos/a.png' is 'photos/2.png'" in text.err
    assert names() == ["0.png", "2.png", "3.png", "4.png", "7.png", "a.png"]
    agrees()


@pytest.mark.parametrize("in_memory", [0, 10**9])
def test_an_update_gives_what_embedding_anew_gives(world, monkeypatch, in_memory):
    """For random changes; the order of rows that stay is the order of before."""
    monkeypatch.setattr("batnet_jax.inference.feature_file.IN_MEMORY", in_memory)
    rng = np.random.default_rng(0)
    time = 1e9
    for _ in range(12):
        before = names()
        for number in rng.choice(12, 4, replace=False).tolist():
            time += 1
            path = f"photos/{number}.png"
            if os.path.exists(path) and rng.random() < 0.5:
                os.unlink(path)
            else:
                write(f"{number}.png", int(rng.integers(7)), time)
        run(monkeypatch, update=True)
        agrees()
        after = names()
        assert sorted(after) == sorted(os.listdir("photos"))
        kept = [name for name in before if name in after]
        assert after == kept + sorted(set(after) - set(before))


def test_an_update_without_changes_writes_nothing(world, monkeypatch, capsys):
    before = os.stat("F.npz").st_ino
    assert run(monkeypatch, update=True) == []
    assert "nothing to write: F.npz, 0 added, 0 changed, 0 gone, 5 unchanged" in (
        capsys.readouterr().out
    )
    assert os.stat("F.npz").st_ino == before
    write("0.png", 0, time=2e9)  # touched: the new time is kept, and nothing is embedded
    assert run(monkeypatch, update=True) == []
    agrees()


def test_append_adds_what_the_file_lacks(world, monkeypatch, capsys):
    write("9.png", 3)
    write("0.png", 6, time=2e9)
    os.unlink("photos/1.png")
    assert run(monkeypatch, images="./photos", append=True) == ["9.png"]
    assert "1 added, 0 changed, 0 gone, 5 unchanged" in capsys.readouterr().out
    assert names() == [f"{i}.png" for i in range(5)] + ["9.png"]
    assert run(monkeypatch, output="new.npz", append=True) == ["0.png", "2.png", "3.png", "4.png",
                                                              "9.png"]  # fmt: skip


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ("*/[12].png", [0, 3, 4]),
        ("photos/1.png", [0, 2, 3, 4]),
        ("./photos", []),
        ("list.txt", [0, 1, 3]),
    ],
)
def test_remove(world, monkeypatch, capsys, removed, left):
    (world / "list.txt").write_text("photos/2.png\nphotos/4.png\nphotos/none.png\n")
    assert run(monkeypatch, images=None, remove=removed) == []
    os.unlink("list.txt")
    assert f"{5 - len(left)} gone, {len(left)} unchanged" in capsys.readouterr().out
    assert names() == [f"{i}.png" for i in left]
    agrees()


def test_mistakes(world, monkeypatch):
    before = (world / "F.npz").read_bytes()
    mistakes = [
        ({"update": True, "append": True}, "--append and --update exclude each other"),
        ({"images": None}, r"needs --images \(or --remove\)"),
        ({"remove": "x"}, "needs either --images or --remove"),
        ({"images": None, "remove": "x*"}, "names none of the 5 images, such as 'photos/0.png'"),
        ({"images": None, "remove": "x", "output": "no.npz"}, "'no.npz' cannot be read"),
        ({"images": None, "remove": "\n\x1b"}, "names none"),
    ]
    for flags, message in mistakes:
        with pytest.raises(UserError, match=message) as info:
            run(monkeypatch, **flags)
        assert "\n" not in str(info.value)
    assert (world / "F.npz").read_bytes() == before
    monkeypatch.setattr(Counting, "fingerprint", "f" * 32)
    for way in ("append", "update"):
        with pytest.raises(UserError, match="embedded by another model"):
            run(monkeypatch, **{way: True})
    write_features(world / "F.npz", [np.zeros((1, 3))], shape=(1, 3), paths=["a"])
    with pytest.raises(UserError, match="without the fingerprint of their model"):
        run(monkeypatch, update=True)


def test_a_failure_leaves_the_old_file(world, monkeypatch):
    before = (world / "F.npz").read_bytes()
    (world / "photos" / "bad.png").write_bytes(b"none")
    with pytest.raises(UserError, match=r"cannot be decoded|no image"):
        run(monkeypatch, update=True)
    assert (world / "F.npz").read_bytes() == before
    assert sorted(os.listdir(".")) == ["F.npz", "photos"]


def test_unreadable_images_are_left_out(world, monkeypatch, capsys):
    (world / "photos" / "bad.png").write_bytes(b"none")
    (world / "photos" / "2.png").write_bytes(b"none now")
    write("5.png", 6)
    assert run(monkeypatch, update=True, skip_unreadable=True) == ["5.png"]
    captured = capsys.readouterr()
    assert captured.err.count("left out: 'photos/") == 2
    assert "1 added, 0 changed, 1 gone, 4 unchanged" in captured.out
    assert names() == ["0.png", "1.png", "3.png", "4.png", "5.png"]
    agrees()


def test_one_writer_at_a_time(world, monkeypatch):
    with open("F.npz.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 7\n")
        other.flush()
        with pytest.raises(UserError, match=r"'F.npz' is being written by process 7: wait"):
            run(monkeypatch, update=True)
    write("5.png", 6)
    assert run(monkeypatch, update=True) == ["5.png"]  # a killed process leaves its file
    agrees()


def test_a_table_gives_columns_and_boxes(world, monkeypatch, capsys):
    (world / "people.csv").write_text(
        "file,person,cam,x0,y0,x1,y1,time,score\n"
        "photos/0.png,ann,3,,,,,2024-01-02,0.5\n"
        "photos/0.png,ann,3,2,3,20,30,2024-01-02,\n"
        "photos/1.png,bob,4,0,0,10,10,2024-01-03,1\n"
    )
    run(monkeypatch, images="people.csv", output="F.npz")
    found = open_features(Path("F.npz"))
    assert found.paths == ["photos/0.png", "photos/0.png", "photos/1.png"]
    facts = {name: values.tolist() for name, values in found.columns.items()}
    assert facts["identity"] == ["ann", "ann", "bob"]
    assert facts["camera"] == [3, 3, 4]
    assert facts["time"] == ["2024-01-02", "2024-01-02", "2024-01-03"]
    np.testing.assert_array_equal(facts["score"], [0.5, np.nan, 1])
    np.testing.assert_array_equal(facts["x1"], [np.nan, 20, 10])
    assert "the bytes of another" not in capsys.readouterr().err  # two boxes of one file
    (world / "people.csv").write_text(
        "file,person,cam,x0,y0,x1,y1,new\n"
        "photos/1.png,bob,5,0,0,10,10,a\n"
        "photos/0.png,7,3,2,3,20,31,b\n"
        "photos/0.png,ann,3,2,3,20,30,\n"
    )
    assert run(monkeypatch, images="people.csv", update=True) == ["0.png"]
    found = open_features(Path("F.npz"))
    assert found.columns["x1"].tolist() == [20, 10, 20]
    assert found.columns["y1"].tolist() == [30, 10, 31]
    assert found.columns["camera"].tolist() == [3, 5, 3]
    assert found.columns["identity"].tolist() == ["ann", "bob", "7"]
    assert found.columns["new"].tolist() == ["", "a", "b"]
    assert found.columns["time"].tolist() == ["2024-01-02", "2024-01-03", ""]


def test_identities_of_a_folder(world, monkeypatch):
    (world / "people").mkdir()
    for name in ("0007_c2s1_1.png", "0008_c3s1_1.png"):
        (world / "people" / name).write_bytes(png((1, 2, 3)))
    run(monkeypatch, images="people")
    columns = open_features(Path("F.npz")).columns
    assert (columns["identity"].tolist(), columns["camera"].tolist()) == ([7, 8], [2, 3])
    monkeypatch.setattr(embed, "given_fields", lambda: {"data.layout", "data.pattern"})
    settings = config()
    settings.data.layout = "person"
    (world / "layout" / "ann").mkdir(parents=True)
    (world / "layout" / "ann" / "1.png").write_bytes(png((1, 2, 3)))
    run(monkeypatch, images="layout", settings=settings)
    assert open_features(Path("F.npz")).columns["identity"].tolist() == ["ann"]
    settings.data.layout, settings.data.pattern = "", r"(?P<pid>\d+)-(?P<camera>\d+)"
    with pytest.raises(UserError, match=r"layout/ann/1.png' does not match data.pattern"):
        run(monkeypatch, images="layout", settings=settings)
    (world / "layout" / "ann" / "1.png").rename(world / "layout" / "ann" / "12-5.png")
    run(monkeypatch, images="layout", settings=settings)
    columns = open_features(Path("F.npz")).columns
    assert (columns["identity"].tolist(), columns["camera"].tolist()) == ([12], [5])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("who,cam\na,b\n", "has no column `path`, but who, cam"),
        ("path,person\nphotos/none.png,a\n", "row 2: 'photos/none.png' is missing"),
        ("path,person\n,a\n", "row 2 has no path"),
        ("path,x0,y0,x1\nphotos/0.png,1,2,3\n", "are not a whole box"),
        ("path,digest\nphotos/0.png,1\n", "has a column 'digest', and so has the file"),
        ("path,a/b\nphotos/0.png,1\n", "a column cannot be named 'a/b'"),
        ("path,x0,y0,x1,y1\nphotos/0.png,100,100,200,200\n", "holds no pixel of the frame"),
        ("path\n", "has no rows"),
    ],
)
def test_wrong_tables(world, monkeypatch, table, message):
    (world / "people.csv").write_text(table)
    with pytest.raises(UserError, match=message) as info:
        run(monkeypatch, images="people.csv")
    assert "\n" not in str(info.value)


def test_a_list_may_end_in_csv(world, monkeypatch):
    """As before tables were read: a path a line, without names of columns."""
    (world / "list.csv").write_text("photos/0.png\nphotos/3.png\n")
    assert run(monkeypatch, images="list.csv") == ["0.png", "3.png"]


def test_a_parquet_lives_as_an_npz_does(world, monkeypatch):
    """The digests, which are known once an image has been read, are in the file, too."""
    monkeypatch.setattr("batnet_jax.evaluation.parquet.write._GROUP_ROWS", 2)
    run(monkeypatch, output="F.parquet")
    write("5.png", 5)
    os.remove("photos/0.png")
    for output in ("F.npz", "F.parquet"):
        assert run(monkeypatch, output=output, update=True) == ["5.png"]
        assert run(monkeypatch, output=output, update=True) == []
    wanted, found = open_features(Path("F.npz")), open_features(Path("F.parquet"))
    np.testing.assert_array_equal(found.features, wanted.features)
    assert list(found.paths) == wanted.paths
    assert found.columns.keys() == wanted.columns.keys()
    for name, values in wanted.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)
    assert all(map(len, found.columns["digest"]))
