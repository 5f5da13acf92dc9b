"""Several galleries in one search: as one gallery of all, and each hit names its own."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mean_colour_model import Colours, config, png, use_colours

from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import FeatureFile, open_features, write_features
from batnet_jax.inference.joined_galleries import join_galleries, places_of, split_paths
from batnet_jax.inference.search import Searcher
from batnet_jax.modes import search

FEATURES = np.random.default_rng(0).uniform(1, 255, (40, 3)).astype(np.float32)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=3))
def test_joined_galleries_are_one(cuts):
    bounds = [0, *sorted(cuts), 40]
    files = [
        FeatureFile(FEATURES[a:b], [f"{i}.png" for i in range(a, b)] if n % 2 else None, None,
                    {"camera": np.arange(a, b)} if n % 2 else {})
        for n, (a, b) in enumerate(itertools.pairwise(bounds))
    ]  # fmt: skip
    names = [f"g{n}" for n in range(len(files))]
    joined, places = join_galleries(files, names), places_of(files, names)
    np.testing.assert_array_equal(joined.features, FEATURES)
    for n, (a, b) in enumerate(itertools.pairwise(bounds)):
        for i in range(a, b):
            assert places.find(i) == (f"g{n}", i - a)
            known = n % 2 == 1
            if joined.paths is not None:
                assert joined.paths[i] == (f"{i}.png" if known else f"row {i - a}")
            if "camera" in joined.columns:
                np.testing.assert_equal(joined.columns["camera"][i], i if known else np.nan)


@pytest.fixture
def world(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("q.png").write_bytes(png((200, 8, 8)))
    for name, part in (("a.npz", slice(0, 15)), ("b,c.npz", slice(15, 40))):
        columns = {"number": np.arange(40)[part]}
        paths = [f"{i}.png" for i in range(40)][part]
        features = FEATURES[part]
        write_features(Path(name), [features], shape=features.shape, paths=paths, columns=columns)
    return tmp_path


def test_the_lists_are_those_of_one_gallery(world, monkeypatch, capsys):
    """By float64 cosines; in memory and from the files."""
    arguments = {"query": Path("q.png"), "top": 12, "output": Path("F.json"), "faiss": None}
    query = Colours().embed(["q.png"])[0].astype(float)
    cosines = FEATURES @ query / np.linalg.norm(FEATURES, axis=1) / np.linalg.norm(query)
    for in_memory in (10**9, 0):
        for module in ("feature_file", "joined_galleries"):
            monkeypatch.setattr(f"batnet_jax.inference.{module}.IN_MEMORY", in_memory)
        for where, passing in ((None, range(40)), ("number>=10 and number<30", range(10, 30))):
            search.run(
                config(), Path("run"), gallery=Path("a.npz,b,c.npz"), where=where, **arguments
            )
            hits = json.loads(Path("F.json").read_text())["results"][0]["hits"]
            best = sorted(passing, key=lambda i: -cosines[i])[:12]
            assert [hit["index"] for hit in hits] == best
            places = [("a.npz", i) if i < 15 else ("b,c.npz", i - 15) for i in best]
            assert [(hit["gallery"], hit["row"]) for hit in hits] == places
            assert [hit["path"] for hit in hits] == [f"{i}.png" for i in best]
            assert f"{best[0]}.png  ({places[0][0]})" in capsys.readouterr().out


def test_files_that_do_not_fit_are_refused(world):
    for features, mark, message in [
        (np.ones((2, 4), np.float32), None, "'a.npz' holds features of 3 dimensions, and 'd.npz'"),
        (np.ones((2, 3), np.float32), "b" * 32, "'e.npz' and 'd.npz' were embedded by different"),
    ]:
        common = {"shape": features.shape, "paths": ["x", "y"]}
        write_features(Path("d.npz"), [features], fingerprint=mark, **common)
        first = "a.npz"
        if mark:
            first = "e.npz"
            write_features(Path(first), [features], fingerprint="a" * 32, **common)
        with pytest.raises(UserError, match=message):
            Searcher(config(), Path("run"), [Path(first), Path("d.npz")])


def test_commas_divide_paths_unless_they_are_in_names(world):
    for name in ("a", "b", "a,b", "c,d", "e", "x,,y"):
        Path(name).mkdir()
    cases = {
        "a": ["a"],
        "a,b": ["a,b"],
        "b,a": ["b", "a"],
        "a,c,d": ["a", "c,d"],
        "c,d,e": ["c,d", "e"],
        "e,x,,y,a,b": ["e", "x,,y", "a,b"],
        "none": ["none"],  # whoever opens it says so
    }
    for text, paths in cases.items():
        assert split_paths(text) == [Path(path) for path in paths], text
    for text in ("a,none,b", "none,a", "a,", ",a", ",", "a,\n,b"):
        with pytest.raises(UserError, match="does not exist: name galleries, as in A,B") as info:
            split_paths(text)
        assert "\n" not in str(info.value)
    with pytest.raises(UserError, match="more than 1000 galleries"):
        split_paths("a,b," * 600)


def test_in_python(world):
    from batnet_jax.inference.gallery import open_gallery
    from batnet_jax.inference.hits import GalleryHit, RankedHits

    class Model(Colours):
        fingerprint = "a" * 32

    opened, places = open_gallery(Model(), ["a.npz", Path("b,c.npz")], "rgb")
    assert len(opened.features) == 40
    scores = [np.array([0.5], np.float32)]
    hits = RankedHits(["q"], [np.array([17])], scores, opened.paths, places)
    assert hits[0] == [GalleryHit(1, 0.5, 17, "17.png", "b,c.npz", 2)]
    assert open_features(Path("b,c.npz")).paths[2] == "17.png"
