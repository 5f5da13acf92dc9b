"""Indices for faiss: flat ones as faiss writes them, approximate ones, and what follows them."""

import io
import json
import sys

import numpy as np
import pytest
from support import needs
from support.fuzzing import examples, fuzz_files, limits, survives

from batnet_jax.errors import UserError
from batnet_jax.inference import index_file, near_index
from batnet_jax.inference.feature_file import mark, open_features, read_fingerprint
from batnet_jax.inference.gallery import search_lists
from batnet_jax.inference.index_end import read_index_end, write_end
from batnet_jax.inference.index_file import choose_kind, write_index
from batnet_jax.inference.near_index import NearIndex
from batnet_jax.inference.where import find_rows
from batnet_jax.retrieval import top_k
from batnet_jax.retrieval.left_out import check_left_out

__all__ = ["limits"]
DIM = 64
FINGERPRINT = "0123456789abcdef" * 2
ODD = ["a\nb.png", "\x1b[31m.png", "\udcff.png", "batnet_jax index 0000000001 00000000"]


@pytest.fixture(autouse=True)
def _faiss(monkeypatch):
    """Few images are enough for a test; faiss warns of so few, and learns from them."""
    needs.package("faiss")
    monkeypatch.setattr(near_index, "LEAST_TRAINING", 1_000)


def people(count, dim=DIM, seed=0):
    """Features around 40 directions, of other lengths than 1."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((40, dim))
    own = centres[rng.integers(0, 40, count)] + 0.3 * rng.standard_normal((count, dim))
    return (own * rng.uniform(0.5, 3, (count, 1))).astype(np.float32)


def write(path, features, kind="flat", paths=None):
    return write_index(path, features, mark(FINGERPRINT), user="--faiss", paths=paths, kind=kind)


def test_a_flat_index_has_the_bytes_that_faiss_writes(tmp_path, monkeypatch):
    faiss = needs.package("faiss")
    monkeypatch.setattr(index_file, "ROWS_AT_ONCE", 7)
    features = people(30)
    assert write(tmp_path / "F.index", features) == ("flat", None)
    index = faiss.IndexFlatIP(DIM)
    index.add(features / np.linalg.norm(features, axis=1, keepdims=True))
    faiss.write_index(index, str(tmp_path / "G.index"))
    ours, theirs = ((tmp_path / name).read_bytes() for name in ("F.index", "G.index"))
    vectors = 45
    assert ours[:vectors] == theirs[:vectors]
    found = faiss.read_index(str(tmp_path / "F.index"))
    np.testing.assert_allclose(
        found.reconstruct_n(0, 30),
        index.reconstruct_n(0, 30),
        atol=2e-7,  # of float32
    )


@pytest.mark.parametrize(("kind", "count"), [("flat", 40), ("hnsw", 600), ("ivfpq", 1_000)])
def test_an_index_is_searched_and_names_its_images(kind, count, tmp_path, monkeypatch):
    monkeypatch.setattr(near_index, "SAMPLE", 30)
    features, paths = people(count), [*ODD, *(f"é/{i}.jpg" for i in range(count - len(ODD)))]
    written = write(tmp_path / "F.index", features, kind, paths)
    assert written.kind == kind
    assert kind == "flat" or near_index.WANTED_RECALL <= written.recall <= 1
    found = open_features(tmp_path / "F.index")
    assert (found.paths, found.fingerprint) == (paths, FINGERPRINT)
    assert found.features.shape == (count, DIM)
    assert isinstance(found.features, NearIndex) == (kind != "flat")
    query = people(20, seed=5)
    exact, cosines = top_k(query, features, 10)
    lists = search_lists(query, found.features, 10)
    shares = [np.isin(own, indices).mean() for own, (indices, _) in zip(exact, lists, strict=True)]
    # Of 200 places; the index was measured to find 95 % of the best.
    assert np.mean(shares) > (0.85 if kind != "flat" else 0.999)
    # 8 bits a dimension: a step of 1/255 of its range, 16 times.
    assert np.abs(np.sort(cosines)[:, -1] - [scores[0] for _, scores in lists]).max() < 0.02
    assert all((np.diff(scores) <= 0).all() for _, scores in lists)
    unit = features[:9] / np.linalg.norm(features[:9], axis=1, keepdims=True)
    np.testing.assert_allclose(found.features[:9], unit, atol=0.02)
    if kind != "flat":
        assert found.features.recall == written.recall


@pytest.mark.parametrize(("kind", "count"), [("hnsw", 300), ("ivfpq", 1_000)])
def test_all_images_are_found_if_all_are_asked_for(kind, count, tmp_path, monkeypatch):
    monkeypatch.setattr(near_index, "SAMPLE", 5)
    write(tmp_path / "F.index", people(count), kind)
    found = open_features(tmp_path / "F.index")
    assert found.paths is None
    indices, scores = found.features.nearest(people(2, seed=5), count + 5)
    assert scores.shape == (2, count)
    assert all(sorted(row) == list(range(count)) for row in indices.tolist())


def test_a_filter_chooses_what_is_compared(tmp_path):
    features = people(300)
    write(tmp_path / "F.index", features, "hnsw", [f"{i % 3}/{i}.jpg" for i in range(300)])
    found = open_features(tmp_path / "F.index")
    rows = find_rows("path like '1/*'", found.columns, found.paths, 300)
    indices, _ = search_lists(people(1, seed=5), found.features, 20, rows=rows)[0]
    assert len(indices) == 20
    assert set(indices % 3) == {1}


def test_images_can_be_left_out(tmp_path):
    features = people(300)
    write(tmp_path / "F.index", features, "hnsw")
    found = open_features(tmp_path / "F.index")
    own = check_left_out(2, 300, ignore=[[7], [8]])
    first, second = search_lists(features[7:9], found.features, 5, own)
    assert 7 not in first[0]
    assert 8 not in second[0]
    assert len(first[0]) == len(second[0]) == 5


@pytest.mark.parametrize("count", [1, 2, 15])
def test_few_and_equal_images(count, tmp_path):
    write(tmp_path / "F.index", np.ones((count, 3), np.float32), "hnsw", ["x"] * count)
    found = open_features(tmp_path / "F.index").features
    indices, scores = found.nearest(np.ones((1, 3)), 99)
    assert sorted(indices[0]) == list(range(count))
    np.testing.assert_allclose(scores, 1, atol=0.02)  # of 8 bits


def test_rows_of_zeros_and_no_queries(tmp_path):
    features = people(50)
    features[3] = 0
    write(tmp_path / "F.index", features, "hnsw")
    found = open_features(tmp_path / "F.index").features
    assert np.isfinite(found.nearest(np.zeros((1, DIM)), 3)[1]).all()
    assert found.nearest(np.zeros((0, DIM)), 3)[0].shape == (0, 3)
    with pytest.raises(UserError, match="not finite"):
        found.nearest(np.full((1, DIM), np.nan), 3)


def test_kinds_by_the_number_of_images():
    chosen = [choose_kind("auto", n, "--index") for n in (0, 99_999, 100_000, 2_999_999, 3_000_000)]
    assert chosen == ["flat", "flat", "hnsw", "hnsw", "ivfpq"]
    with pytest.raises(UserError, match=r"--index=ivfpq needs 1,000 images, .* has 999: use flat"):
        choose_kind("ivfpq", 999, "--index")
    with pytest.raises(UserError, match="kind='lsh' is not one of auto, flat, hnsw, ivfpq"):
        choose_kind("lsh", 5, "kind")


@examples(30, 2_000)
def test_damage_never_reaches_faiss(tmp_path, monkeypatch, examples):
    faiss = needs.package("faiss")
    path, reached = tmp_path / "F.index", []
    write(path, people(60), "hnsw", [f"{i}.jpg" for i in range(60)])
    whole, read = path.read_bytes(), faiss.read_index
    monkeypatch.setattr(faiss, "read_index", lambda file: reached.append(1) or read(file))

    def reads(content):
        path.write_bytes(content)
        reached.clear()
        found = survives(open_features, path)
        assert not reached or content == whole
        assert isinstance(found, str) or content == whole
        return not isinstance(found, str)

    fuzz_files(examples, reads, [whole])


def test_each_end_that_is_not_ours(tmp_path):
    """A checksum that fits, around numbers that do not."""
    path = tmp_path / "F.index"
    write(path, people(60), "hnsw", list("abc") * 20)
    with path.open("rb") as file:
        end = read_index_end(file)
        file.seek(0)
        index = file.read(end.length)
    for facts, paths in (
        ({"kind": "ivfpq"}, None),
        ({"kind": "lsh"}, None),
        ({}, None),
        ({"kind": "hnsw", "recall": "much"}, ["only one"]),
    ):
        path.write_bytes(index)
        with path.open("r+b") as file:
            write_end(file, b"", paths, facts)
        assert isinstance(survives(open_features, path), str)
    path.write_bytes(index)
    with path.open("r+b") as file:
        write_end(file, mark(FINGERPRINT), None, {"kind": "hnsw"})
    assert open_features(path).features.recall is None
    assert read_fingerprint(path) == FINGERPRINT


@pytest.mark.parametrize("change", [{"bytes": -1}, {"names": 1}, {"count": 7}, {"bytes": True}])
def test_an_end_whose_numbers_do_not_fit(change, monkeypatch):
    file = io.BytesIO(b"index")
    whole = json.dumps
    monkeypatch.setattr(json, "dumps", lambda about: whole(about | change))
    write_end(file, b"", ["a", "b"], {})
    file.fileno = lambda: pytest.fail("no descriptor")
    monkeypatch.setattr("os.fstat", lambda _: type("Stat", (), {"st_size": len(file.getvalue())}))
    file.fileno = lambda: 0
    with pytest.raises(ValueError, match=r"other sizes|another number"):
        read_index_end(file)


def test_a_path_with_a_null_byte_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\\x00b' holds a null byte"):
        write(tmp_path / "F.index", people(1), "flat", ["a\0b"])
    assert not list(tmp_path.iterdir())


def test_an_approximate_index_needs_faiss(tmp_path, monkeypatch):
    write(tmp_path / "F.index", people(60), "hnsw")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        UserError, match=r"F.index' needs faiss.* pip install 'batnet-jax\[faiss\]'"
    ):
        open_features(tmp_path / "F.index")
