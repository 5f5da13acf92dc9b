"""`Model.save_index` writes what `embed` writes, so that `embed --update` goes on from its file."""

import os

import cv2
import numpy as np
import pytest
from support import needs
from support.photos import write_noise
from support.run_main import call_main
from support.tiny_run import write_run

import batnet_jax
from batnet_jax.data.loading.user_images import ImageFiles
from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import open_features

FACTS = {"bytes", "modified", "digest"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a folder with a run."""
    folder = tmp_path_factory.mktemp("base")
    write_run(folder / "run")
    return folder


@pytest.fixture(scope="module")
def model(base):
    return batnet_jax.load(base / "run")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Return a folder with images, which is the current one."""
    write_noise(tmp_path / "photos", 7)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("images", ["photos", "list.txt", "people.csv"])
def test_the_file_is_the_one_of_the_command(base, model, world, suffix, images, capsys):
    names = sorted(os.listdir("photos"))
    (world / "list.txt").write_text("".join(f"photos/{name}\n" for name in names[::-1]))
    rows = [f"photos/{name},{i % 2},{i},1,1,20,30" for i, name in enumerate(names)]
    (world / "people.csv").write_text("path,camera,floor,x0,y0,x1,y1\n" + "\n".join(rows) + "\n")
    (world / "ours").mkdir()
    ours = model.save_index(images, world / f"ours/F{suffix}", progress=False)
    assert call_main("embed", base / "run", images, world / f"F{suffix}")[0] == 0
    assert ours.read_bytes() == (world / f"F{suffix}").read_bytes()
    held = open_features(ours)
    more = {"camera", "floor", "x0", "y0", "x1", "y1"} if images.endswith("csv") else set()
    assert held.columns.keys() == FACTS | more
    capsys.readouterr()
    before = ours.stat().st_mtime_ns
    assert call_main("embed", base / "run", images, ours, "--update")[0] == 0
    assert "0 added, 0 changed, 0 gone, 7 unchanged" in capsys.readouterr().out
    assert ours.stat().st_mtime_ns == before


def test_an_update_goes_on_from_it(base, model, world, capsys):
    path = model.save_index("photos", world / "F.npz", progress=False)
    names = sorted(os.listdir("photos"))
    os.remove(f"photos/{names[0]}")
    cv2.imwrite(f"photos/{names[1]}", np.zeros((9, 9, 3), np.uint8))
    os.utime(f"photos/{names[2]}", (1, 1))  # another time, and the same content
    assert call_main("embed", base / "run", "photos", path, "--update")[0] == 0
    assert "0 added, 1 changed, 1 gone, 5 unchanged" in capsys.readouterr().out
    anew = model.save_index("photos", world / "G.npz", progress=False)
    found, wanted = open_features(path), open_features(anew)
    assert list(found.paths) == list(wanted.paths)
    np.testing.assert_allclose(found.features, wanted.features, atol=1e-6)  # of another batch
    for name, values in wanted.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)


@pytest.mark.parametrize("form", ["pattern", "paths", "mixed", "a file", "image files"])
def test_whatever_names_files_has_their_facts(model, world, form):
    names = [f"photos/{name}" for name in sorted(os.listdir("photos"))]
    given = {
        "pattern": "photos/*.png", "paths": [world / name for name in names],
        "mixed": ["photos/*.png", names[0]], "a file": names[0],
        "image files": ImageFiles(names),
    }[form]  # fmt: skip
    held = open_features(model.save_index(given, world / "F.npz", progress=False))
    assert held.columns.keys() == (set() if form == "image files" else FACTS)
    for i, path in enumerate(held.paths if held.columns else ()):
        assert held.columns["bytes"][i] == os.stat(path).st_size
        assert len(held.columns["digest"][i]) == 32


def test_images_without_files_have_none(model, world):
    pixels = np.zeros((30, 20, 3), np.uint8)
    for given in (pixels, ["photos/00.png", pixels]):
        held = open_features(model.save_index(given, world / "F.npz", progress=False))
        assert held.columns == {}
        assert held.paths[0] == "image 0"
    hit = model.search(pixels, world / "F.npz")[0][0]
    assert hit.columns == {}


def test_hits_have_them(model, world):
    model.save_index("photos", world / "F.npz", progress=False)
    hit = model.search("photos/00.png", world / "F.npz", top=1, keep_own=True)[0][0]
    assert hit.columns["bytes"] == os.stat("photos/00.png").st_size


def test_an_index_for_faiss(model, world):
    needs.package("faiss")
    path = model.save_index("photos", world / "F.index", progress=False)
    assert len(open_features(path).features) == 7


def test_mistakes(model, world):
    (world / "people.csv").write_text("path,digest\nphotos/00.png,x\n")
    for images, path, message in (
        ("people.csv", "F.npz", "has a column 'digest', and so has the file of features"),
        ("photos", "F.txt", "does not end in .npz, .parquet or .index"),
        ("nowhere", "F.npz", "does not exist"),
        ("nowhere/*.png", "F.npz", "no image matches"),
        (["nowhere.png"], "F.npz", "nowhere.png' cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            model.save_index(images, path, progress=False)
        assert not os.path.exists(path)
    with pytest.raises(UserError, match="image files know their colours"):
        model.save_index("photos", "F.npz", channels="bgr")
