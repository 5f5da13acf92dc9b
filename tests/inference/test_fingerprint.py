"""A gallery of another model is refused; an old file gives one warning."""

import copy
import shutil

import numpy as np
import pytest
from support import needs
from support.mean_colour_model import Colours, config, png, write_gallery
from support.run_main import call_main
from support.tiny_run import small_config, write_run

from batnet_jax import load
from batnet_jax.errors import UserError
from batnet_jax.inference import loading
from batnet_jax.inference.feature_file import open_features, read_fingerprint, write_features
from batnet_jax.inference.fingerprint import fingerprint
from batnet_jax.inference.search import Searcher
from batnet_jax.modes import search


class Marked(Colours):
    """A model whose fingerprint is its step's."""

    def __init__(self, step):
        self.step = step
        self.fingerprint = f"{step:032x}"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A gallery, and its features by step 7."""
    monkeypatch.setattr(loading, "load_with_config", lambda *_, step, **__: Marked(step or 7))
    write_gallery(tmp_path / "gallery")
    paths = sorted(str(path) for path in (tmp_path / "gallery").rglob("*.png"))
    features = Marked(7).embed(paths)
    write_features(
        tmp_path / "F.npz", [features], shape=features.shape, paths=paths,
        fingerprint=Marked(7).fingerprint,
    )  # fmt: skip
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("fingerprints"))


def test_what_it_depends_on(run, tmp_path):
    weights = {"params": {"a": {"b": np.ones(3, np.float32)}}, "batch_stats": {"c": np.zeros(2)}}
    own_config = small_config(tmp_path)
    first = fingerprint(own_config, weights)
    assert len(first) == 32
    assert fingerprint(small_config(tmp_path / "elsewhere"), weights) == first
    own_config.eval.batch, own_config.seed, own_config.model.dropout = 3, 9, 0.5
    assert fingerprint(own_config, weights) == first
    others = []
    for change in (
        lambda w, c: w["params"]["a"].update(b=np.float32([1, 1, np.nextafter(1, 2, dtype="f4")])),
        lambda w, c: w["batch_stats"].update(c=np.array([0, -0.0])),
        lambda w, c: w["params"].update(z=w["params"].pop("a")),
        lambda w, c: c.data.update(image_size=(64, 48)),
        lambda w, c: c.data.update(alpha="black"),
        lambda w, c: c.model.update(part_sampling="published"),
    ):
        own = copy.deepcopy(weights)
        other = small_config(tmp_path)
        change(own, other)
        others.append(fingerprint(other, own))
    assert len({first, *others}) == 7
    moved = shutil.copytree(run, tmp_path / "moved")
    assert load(moved, batch=2).fingerprint == load(run).fingerprint
    assert load(moved, step=3).fingerprint != load(run).fingerprint


def test_the_file_carries_it(world):
    with np.load(world / "F.npz") as arrays:
        assert set(arrays) == {"features", "paths"}
    assert open_features(world / "F.npz").fingerprint == Marked(7).fingerprint


def with_step(step):
    found = config()
    found.eval.step = step
    return found


@pytest.mark.parametrize("form", ["npz", "index"])
def test_another_model_refuses_the_gallery(world, capsys, form):
    gallery = world / "F.npz"
    if form == "index":
        needs.package("faiss")
        gallery = world / "F.index"
        search.run(
            config(), world, gallery=world / "F.npz", query=None, top=1, output=None, faiss=gallery
        )
        assert read_fingerprint(gallery) == Marked(7).fingerprint
    capsys.readouterr()
    image = world / "gallery" / "red.png"
    searcher = Searcher(with_step(0), world, gallery)
    assert searcher.search([str(image)], 1)[0].tolist() == [[4]]
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="was embedded by another model"):
        Searcher(with_step(3), world, gallery).search([str(image)], 1)
    # A gallery of images is embedded by the model itself.
    Searcher(with_step(3), world, world / "gallery").search([str(image)], 1)


def test_an_index_holds_what_is_searched(world):
    needs.package("faiss")
    search.run(
        config(), world, gallery=world / "gallery", query=None, top=1, output=None,
        faiss=world / "F.index",
    )  # fmt: skip
    query = [str(world / "gallery" / "red.png")]
    results = [
        Searcher(with_step(0), world, world / name).search(query, 5)
        for name in ("F.index", "F.npz")
    ]
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-6)  # of float32
    (world / "bad.index").write_bytes(b"no index")
    with pytest.raises(UserError, match="cannot be read as an index"):
        open_features(world / "bad.index")


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_an_old_file_gives_one_warning(world, capsys, form):
    features = open_features(world / "F.npz").features
    gallery = world / f"old.{form}"
    np.savez(gallery, features=features) if form == "npz" else np.save(gallery, features)
    searcher = Searcher(with_step(0), world, gallery)
    for _ in range(2):
        searcher.search([str(world / "gallery" / "red.png")], 1)
    said = capsys.readouterr().err
    assert said.count("warning:") == said.count("\n") == 1
    assert "does not say which model embedded it" in said


def test_on_the_command_line(run, tmp_path):
    """Embedded by one checkpoint, searched with another of the same size."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png((1, 2, 3)))
    out, checkpoints = tmp_path / "E.npz", run / "checkpoints"
    words = [f"--images={tmp_path / 'photos'}", f"--output={out}"]
    assert call_main("embed", f"--workdir={checkpoints / '3'}", *words)[0] == 0
    load(run, step=3).check_gallery(out)
    with pytest.raises(UserError, match=r"embedded by another model \("):
        load(run).check_gallery(out)
    words = [f"--gallery={out}", f"--query={tmp_path / 'photos' / 'a.png'}"]
    words += [f"--output={tmp_path / 'F.json'}"]
    status, said = call_main("search", f"--workdir={checkpoints / '7'}", *words)
    assert (status, said.count("\n")) == (2, 1)
    assert "was embedded by another model" in said
    assert not (tmp_path / "F.json").exists()


def test_damaged_marks_are_no_fingerprints(tmp_path):
    for content in (b"", b"short", b"batnet_jax fingerprint " + b"\xff" * 32, b"x" * 99):
        (tmp_path / "F.npz").write_bytes(content)
        assert read_fingerprint(tmp_path / "F.npz") is None
