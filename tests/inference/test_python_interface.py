"""What a `Model` does in Python beside `embed`: search, index files, figures."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support import needs
from support.run_main import call_main
from support.tiny_run import PIXELS, write_photos, write_run

import batnet_jax
from batnet_jax.data.loading.loader import decode
from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import open_features, write_features
from batnet_jax.inference.hits import Hit, RankedHits
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import parse_positions
from batnet_jax.models.preprocess import normalise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run):
    return batnet_jax.load(run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("our photos")
    return folder, write_photos(folder)[0]


def test_a_call_embeds_and_normalize_makes_inner_products_cosines(model, photos):
    folder, _ = photos
    features = model.embed(folder)
    np.testing.assert_array_equal(model(folder), features)
    lengths = np.linalg.norm(features, axis=1)
    np.testing.assert_allclose(lengths, np.sqrt(2), rtol=1e-5)  # f_a and f_p have length 1 each
    scaled = model(folder, normalize=True)
    # float32 of 32 numbers: a few units in the last place
    np.testing.assert_allclose(scaled, features / lengths[:, None], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-6)


def test_mixed_images_have_the_features_of_files(model, photos):
    folder, paths = photos
    content = (folder / "a.png").read_bytes()
    mixed = model.embed([paths[0], content, PIXELS, folder / "b" / "*.png"])
    features = model.embed([*paths[:1] * 3, folder / "b" / "grey.png"])
    np.testing.assert_array_equal(mixed, features)


def test_search_ranks_as_the_command_does(model, run, photos, tmp_path):
    folder, paths = photos
    output = tmp_path / "F.json"
    words = ["search", run, paths[0], folder, f"--output={output}", "--top=4"]
    assert call_main(*words)[0] == 0
    (wanted,) = json.loads(output.read_text())["results"]
    found = model.search(paths[0], folder, top=4)
    assert (len(found), found.queries) == (1, [paths[0]])
    assert found[0] == [
        Hit(hit["rank"], hit["score"], hit["index"], hit["path"]) for hit in wanted["hits"]
    ]
    assert paths[0] not in [hit.path for hit in found[0]]
    own = model.search(paths[0], folder, top=1, keep_own=True)[0][0]
    assert (own.path, own.rank) == (paths[0], 1)
    assert own.score == pytest.approx(1, abs=1e-5)


def test_all_kinds_of_galleries_rank_alike(model, photos, tmp_path):
    folder, paths = photos
    features = model.embed(folder)
    np.save(tmp_path / "F.npy", features)
    written = model.save_index(folder, tmp_path / "F.npz")
    assert open_features(written).paths == paths
    np.testing.assert_array_equal(open_features(written).features, features)
    galleries = [folder, paths, written, str(tmp_path / "F.npy"), features]
    galleries.append(model.save_index(folder, tmp_path / "F.parquet"))
    if find_spec("faiss"):
        galleries.append(model.save_index(folder, tmp_path / "F.index"))
    wanted = None
    for gallery in galleries:
        found = model.search([PIXELS, PIXELS[:20]], gallery, top=5)
        indices = [[hit.index for hit in hits] for hits in found]
        assert found.queries == ["image 0", "image 1"]
        assert indices == (wanted := wanted or indices)
        has_paths = not str(gallery).endswith(".npy") and gallery is not features
        path = paths[indices[0][0]] if has_paths else None
        assert found[0][0].path == path


def test_a_filter_and_several_galleries(model, photos, tmp_path):
    """A file may be in the list twice; equal scores are ordered by the galleries, then by row."""
    folder, paths = photos
    features, count = model.embed(folder), len(paths)
    path = tmp_path / "a,b.npz"
    write_features(
        path, [features], shape=features.shape, paths=paths, fingerprint=model.fingerprint,
        columns={"number": np.arange(count)},
    )  # fmt: skip
    everything = model.search(PIXELS, path, top=count)[0]
    found = model.search(PIXELS, path, top=count, where="number >= 4 and number != 6")[0]
    kept = [hit for hit in everything if hit.index >= 4 and hit.index != 6]
    assert [hit.index for hit in found] == [hit.index for hit in kept]
    assert [hit.rank for hit in found] == list(range(1, len(kept) + 1))
    assert model.search(PIXELS, path, where="number > 99")[0] == []
    with pytest.raises(UserError, match="no column 'camera': it has number, path"):
        model.search(PIXELS, path, where="camera=3")
    twice = model.search(PIXELS, [path, str(path)], top=2 * count)[0]
    both = [(-hit.score, hit.index + more) for hit in everything for more in (0, count)]
    assert [hit.index for hit in twice] == [index for _, index in sorted(both)]
    assert [hit.row for hit in twice] == [hit.index % count for hit in twice]
    assert {hit.gallery for hit in twice} == {str(path)}


def test_an_index_of_images_without_paths(model, tmp_path):
    path = model.save_index([PIXELS, PIXELS[:9]], tmp_path / "F.npz", progress=False)
    assert list(open_features(path).paths) == ["image 0", "image 1"]
    found = model.search(PIXELS[:9], path, top=7)
    assert [hit.path for hit in found[0]] == ["image 1", "image 0"]


def test_what_cannot_be_searched(model, run, photos, tmp_path):
    other = batnet_jax.load(run, step=3)
    other.save_index(photos[1], tmp_path / "F.npz")
    cases = {
        "was embedded by another model": lambda: model.search(PIXELS, tmp_path / "F.npz"),
        "features of 5 dimensions, and the": lambda: model.search(PIXELS, np.zeros((3, 5))),
        "does not exist": lambda: model.search(PIXELS, tmp_path / "nowhere"),
        "F.txt' does not end in .npz, .parquet or": lambda: model.save_index(PIXELS, "F.txt"),
    }
    for message, call in cases.items():
        with pytest.raises(UserError, match=message):
            call()


def test_hits_are_a_sequence(model):
    scores = [np.array([0.5, 0.25], np.float32), np.array([], np.float32)]
    hits = RankedHits(["q", "r"], [np.array([1, 0]), np.array([], int)], scores, ["a", "b"])
    assert list(hits) == [[Hit(1, 0.5, 1, "b"), Hit(2, 0.25, 0, "a")], []]
    assert hits[-1:] == [[]]
    assert repr(hits) == "RankedHits(2 queries, up to 2 hits each)"


def test_a_table_of_pandas():
    needs.package("pandas")
    scores = [np.array([0.5, 0.25], np.float32)]
    table = RankedHits(["q"], [np.array([1, 0])], scores, None).to_pandas()
    assert list(table) == ["query", "rank", "score", "index", "path"]
    assert table["query"].tolist() == ["q", "q"]
    assert table["index"].tolist() == [1, 0]
    assert table["path"].isna().all()


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="to_pandas needs pandas: pip install pandas"):
        RankedHits([], [], [], None).to_pandas()


def test_masks_are_those_of_the_network(model, run, photos):
    folder, paths = photos
    masks = model.masks(folder)
    assert sorted(masks) == sorted(parse_positions(model.config.model.position))
    network, variables = restore_network(model.config, run, 7)
    images = np.stack([decode(Path(path).read_bytes(), (64, 32)) for path in paths[:2]])
    wanted = network.apply(variables, normalise(images), train=False)["attention"]
    for position, own in masks.items():
        assert len(own) == len(paths)
        assert own.min() >= 0.5
        # another batch, so another order of float32 sums
        mean = np.asarray(wanted[position]["mask"]).mean(-1)
        np.testing.assert_allclose(own[:2], mean, rtol=1e-5)


def test_evaluate_gives_the_figures_of_the_command(run):
    model = batnet_jax.load(run)
    before = model.config.to_json()
    found = model.evaluate()
    status, said = call_main("eval", run)
    assert status == 0, said
    assert json.loads(json.dumps(found)) == json.loads((run / "eval" / "step_7.json").read_text())
    same = model.evaluate("pedestrians:tiny")
    assert same | {"dataset": found["dataset"]} == found
    with pytest.raises(UserError, match="'no_such' is unknown"):
        model.evaluate("no_such")
    assert model.config.to_json() == before


def test_evaluate_reads_a_folder_of_people(model, photos, tmp_path):
    for person in "ann", "bob":
        for number, path in enumerate(photos[1][:3]):
            target = tmp_path / "people" / person / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((photos[0] / path).read_bytes())
    model.config.data.dir = str(tmp_path / "data")
    figures = model.evaluate(tmp_path / "people")
    assert figures["num_query"] > 0
    assert 0 <= figures["mAP"] <= 1
