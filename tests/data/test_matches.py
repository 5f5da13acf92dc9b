"""A test in which no query can have a match is refused before anything is trained."""

import numpy as np
import pytest
from support.run_main import call_main
from support.tiny_datasets import jpg, write_tree

from batnet_jax.data.dataset import Split
from batnet_jax.data.matches import check_matches
from batnet_jax.errors import UserError

TRAIN = ["train/cid/1_c1.jpg", "train/dan/2_c2.jpg"]
NFD, NFC = "Ame\u0301lie", "Am\xe9lie"


def run(tmp_path, names, *words, layout="m"):
    manual = write_tree(tmp_path / layout, {name: jpg(i) for i, name in enumerate(names)})
    status, text = call_main(
        "--config=configs/folder.py",
        f"--workdir={tmp_path / 'w'}",
        f"--config.data.dir={tmp_path / 'd'}",
        f"--config.data.manual_dir={manual}",
        *words,
    )
    assert status == 2
    assert not list((tmp_path / "w").rglob("*"))  # nothing is trained
    return next(line for line in text.splitlines() if line.startswith("error: "))


@pytest.mark.parametrize(
    ("query", "gallery", "reason"),
    [
        ("Ann", "ann", "'Ann', 'ann' differ only by case or Unicode form"),
        (NFD, NFC, r"'Ame\u0301lie', 'Am\xe9lie' differ only by case or Unicode form"),
        ("STRASSE", "stra\xdfe", "differ only by case or Unicode form"),
        ("7", "8", "(query: 7; gallery: 8)"),
        ("ann", "bob", "(query: ann; gallery: bob)"),
    ],
)
def test_no_identity_is_shared(tmp_path, query, gallery, reason):
    names = [*TRAIN, f"query/{query}/1_c1.jpg", f"gallery/{gallery}/2_c2.jpg"]
    error = run(tmp_path, names)
    assert "no query of the test of folder can have a match: none of its 1 identities is" in error
    assert reason in error


def test_one_camera(tmp_path):
    names = [*TRAIN, "query/ann/1_c7.jpg", "gallery/ann/2_c7.jpg", "gallery/bob/1_c7.jpg"]
    error = run(tmp_path, names)
    assert "as all images are of camera 7" in error
    assert "--config.eval.same_camera=keep" in error


def test_each_identity_in_one_camera(tmp_path):
    names = [*TRAIN, "query/ann/1_c1.jpg", "gallery/ann/2_c1.jpg", "gallery/bob/1_c2.jpg"]
    error = run(tmp_path, names)
    assert "by the query's own camera alone, and such images are left out" in error


def test_every_test_set_is_checked(tmp_path):
    """The data set that is trained on is good, the other test is not."""
    bad = [*TRAIN, "query/Ann/1_c1.jpg", "gallery/ann/2_c2.jpg"]
    write_tree(tmp_path / "bad", {name: jpg(50 + i) for i, name in enumerate(bad)})
    good = [*TRAIN, "query/ann/1_c1.jpg", "gallery/ann/2_c2.jpg"]
    error = run(tmp_path, good, f"--config.eval.datasets='folder','folder:{tmp_path / 'bad'}'")
    assert "no query of the test of folder-bad can have a match" in error


def split(pids, cameras):
    n = len(pids)
    return Split(np.array(pids), np.array(cameras), [""] * n, np.arange(n), [b""] * n, "")


@pytest.mark.parametrize("same_camera", ["remove", "keep"])
@pytest.mark.parametrize("seed", range(60))
def test_agrees_with_a_count_of_all_pairs(seed, same_camera):
    rng = np.random.default_rng(seed)
    sets = [
        split(rng.integers(-1, 4, n), rng.integers(-1 if seed % 3 == 0 else 0, 3, n))
        for n in rng.integers(1, 4, 2)
    ]
    known = all((s.cameras >= 0).all() for s in sets)
    matches = [
        p == q and p >= 0 and (same_camera == "keep" or not known or c != d)
        for p, c in zip(sets[0].pids, sets[0].cameras, strict=True)
        for q, d in zip(sets[1].pids, sets[1].cameras, strict=True)
    ]
    if any(matches):
        check_matches("x", *sets, same_camera, [])
    else:
        with pytest.raises(UserError, match="no query of x can have a match"):
            check_matches("x", *sets, same_camera, [])
