"""An evaluation that was ended goes on from the counts that it has kept."""

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval import evaluate
from batnet_jax.retrieval.chosen_rows import JoinedRows
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.streaming import kept_counts

OPTIONS = {"block": 8, "chunk": 64, "per_query": True, "cmc_ranks": (1, 5)}


class EndedError(Exception):
    """The process was ended."""


@pytest.fixture
def case():
    """Return 20 queries of 10 people, and a gallery of 600, most of them distractors."""
    rng = np.random.default_rng(0)
    gallery = rng.integers(-3, 4, (600, 8)).astype(np.float32)
    pids = np.concatenate([np.arange(60) % 10, np.arange(540) + 100])
    order = rng.permutation(600)
    return {
        "query_features": rng.integers(-3, 4, (20, 8)).astype(np.float32),
        "query_pids": np.arange(20) % 10,
        "query_cameras": np.arange(20) % 3,
        "gallery_features": gallery[order],
        "gallery_pids": pids[order],
        "gallery_cameras": rng.integers(0, 3, 600),
    }


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(kept_counts, "EVERY_SECONDS", 0.0)


def end_after(case, path, items, **options):
    """Evaluate until some gallery items have been seen, and return how many."""
    seen = []

    def progress(done, total):
        seen.append(done)
        if done >= items:
            raise EndedError

    with pytest.raises(EndedError):
        evaluate(**case, **OPTIONS, **options, resume=path, progress=progress)
    return seen[-1]


@pytest.mark.parametrize("items", [1, 200, 400, 590])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_figures_are_those_of_a_run_that_was_not_ended(case, tmp_path, always, items, metric):
    path = tmp_path / "counts.npz"
    wanted = evaluate(**case, **OPTIONS, metric=metric)
    seen = end_after(case, path, items, metric=metric)
    first = []
    found = evaluate(
        **case, **OPTIONS, metric=metric, resume=path, progress=lambda done, _: first.append(done)
    )
    assert found == wanted
    assert first[0] == seen
    assert first[-1] == 600
    assert list(tmp_path.iterdir()) == []


def test_it_goes_on_again_and_again(case, tmp_path, always):
    path = tmp_path / "counts.npz"
    stops = [end_after(case, path, items) for items in (100, 250, 251, 500)]
    assert stops == sorted(stops)
    assert evaluate(**case, **OPTIONS, resume=path) == evaluate(**case, **OPTIONS)


CHANGES = {
    "a query": lambda case: case["query_features"].__setitem__((0, 0), 9),
    "a pid": lambda case: case["gallery_pids"].__setitem__(0, 12345),
    "a camera": lambda case: case["query_cameras"].__setitem__(0, 9),
    "the gallery": lambda case: case["gallery_features"].__imul__(2),
    "no cameras": lambda case: case.update(query_cameras=None, gallery_cameras=None),
    "junk": lambda case: case.update(junk=np.arange(600) == 3),
    "ignore": lambda case: case.update(ignore=np.arange(20)),
    "metric": lambda case: case.update(metric="euclidean"),
    "ap": lambda case: case.update(ap="trapezoid"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_counts_of_another_evaluation_are_refused(case, tmp_path, always, change):
    path = tmp_path / "counts.npz"
    end_after(case, path, 300)
    before = path.read_bytes()
    CHANGES[change](case)
    with pytest.raises(UserError, match="holds the counts of another evaluation"):
        evaluate(**case, **OPTIONS, resume=path)
    assert path.read_bytes() == before


def damage(path, kind):
    whole = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "another .npz":
        np.savez(path, x=1)
    else:
        path.write_bytes({"empty": b"", "cut off": whole[:-9], "a text": b"counts"}[kind])


@pytest.mark.parametrize("kind", ["empty", "cut off", "a text", "a folder", "another .npz"])
def test_damaged_counts_are_refused(case, tmp_path, always, kind):
    path = tmp_path / "counts.npz"
    end_after(case, path, 300)
    damage(path, kind)
    with pytest.raises(
        UserError, match=r"counts\.npz' cannot be read .*: delete it to start again"
    ):
        evaluate(**case, **OPTIONS, resume=path)


def test_a_quick_evaluation_writes_nothing(case, tmp_path):
    evaluate(
        **case, **OPTIONS, resume=tmp_path / "counts.npz", progress=lambda *_: written(tmp_path)
    )


def written(folder):
    assert not list(folder.iterdir())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_gallery_in_several_files(case, tmp_path, dtype):
    """As their arrays in memory; a row is read from its own file."""
    features = case["gallery_features"].astype(dtype)
    parts = []
    for number, rows in enumerate(np.split(features, [7, 8, 300])):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(b"head" + rows.tobytes())
        with path.open("rb") as file:
            parts.append(
                RowFile(file.fileno(), name=str(path), data=4, shape=rows.shape, dtype=rows.dtype)
            )
    wanted = evaluate(**case, **OPTIONS)
    case["gallery_features"] = JoinedRows(parts)
    assert evaluate(**case, **OPTIONS) == wanted
    with pytest.warns(match="2 of 20 queries have the same features as a gallery image"):
        evaluate(**case | same_images(case, features), **OPTIONS)


def same_images(case, features):
    """Make two queries images of the gallery, seen by another camera."""
    query, pids = case["query_features"].copy(), case["query_pids"].copy()
    cameras = case["query_cameras"].copy()
    for q in (3, 4):
        place = np.flatnonzero(case["gallery_pids"] == pids[q])[0]
        query[q], cameras[q] = features[place], 77
    return {"query_features": query, "query_cameras": cameras}
