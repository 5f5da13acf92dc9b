"""Damaged prepared data is refused in one line, or has the labels and images of before."""

import json

import pytest
from hypothesis import strategies as st
from support.fuzzing import damaged, examples, fuzz, survives
from support.fuzzing import limits as limits
from support.tiny_datasets import contents, market_with, write_tree

from batnet_jax.data import load_dataset
from batnet_jax.errors import UserError

KINDS = ["index.npz", "dataset_info.json", "features.json", "query.array_record"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return the folder of a prepared data set, and its contents."""
    place = tmp_path_factory.mktemp("prepared")
    files = {f"{k:04}_c{c}s1_1.jpg": b"" for k in range(2, 6) for c in (1, 2)}
    tree = market_with({})
    tree |= {f"{f}/{name}": next(iter(tree.values())) for f in FOLDERS for name in files}
    write_tree(place / "market", tree)
    load(place)
    return place, contents(load(place))


FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def load(place):
    return load_dataset("market1501", data_dir=place / "data", manual_dir=place / "market")


def read(place):
    """Return labels and images of the data set, or the line that refuses it."""

    def read_all():
        try:
            return contents(load(place))
        except OSError as error:  # the loader of images names the image
            raise UserError(str(error)) from error

    return survives(read_all, folder=place)


def file_of(place, kind):
    (path,) = [p for p in (place / "data").rglob("*") if kind in p.name]
    return path


@examples(20, 1_000)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes(prepared, kind, examples):
    place, whole = prepared
    path = file_of(place, kind)
    content = path.read_bytes()
    try:
        assert read(place) == whole  # otherwise a reader that refuses everything would pass

        def check(changed):
            path.write_bytes(changed)
            found = read(place)
            assert isinstance(found, str) or found == whole

        fuzz(examples, check, damaged([content]))
    finally:
        path.write_bytes(content)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(st.text(max_size=5), VALUES)


def places_of(tree, path=()):
    """Yield the keys that lead to each value of JSON."""
    if path:
        yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places_of(value, (*path, key))


@examples(20, 1_000)
@pytest.mark.parametrize("kind", ["dataset_info.json", "features.json"])
def test_other_json(prepared, kind, examples):
    """A value of the file is replaced by another one, or taken away."""
    place, whole = prepared
    path = file_of(place, kind)
    content = path.read_bytes()
    places = sorted(places_of(json.loads(content)), key=repr)

    def check(keys, value):
        tree = inner = json.loads(content)
        for key in keys[:-1]:
            inner = inner[key]
        if value == "taken away" and isinstance(inner, dict):
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        path.write_text(json.dumps(tree))
        found = read(place)
        assert isinstance(found, str) or found == whole

    try:
        fuzz(examples, check, st.sampled_from(places), VALUES | st.just("taken away"))
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_another_data_set(prepared, tmp_path, kind):
    """With the same names and numbers."""
    place, _ = prepared
    other = market_with({})
    first, *_ = other.values()
    changed = bytearray(first)
    changed[13] ^= 1  # the density unit: another image of the same size
    names = {f"{f}/{k:04}_c{c}s1_1.jpg" for f in FOLDERS for k in range(2, 6) for c in (1, 2)}
    write_tree(tmp_path / "market", other | dict.fromkeys(names, bytes(changed)))
    load(tmp_path)
    theirs = contents(load(tmp_path))
    path = file_of(tmp_path, kind)
    path.write_bytes(file_of(place, kind).read_bytes())
    found = read(tmp_path)
    if kind in ("index.npz", "query.array_record"):
        assert "does not match its checksum" in found
    else:
        assert found == theirs
