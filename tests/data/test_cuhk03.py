"""CUHK03: reading its three forms, all with the same tiny world."""

import os
import resource
import tarfile
import time

import cv2
import numpy as np
import pytest
import scipy.io
from support import needs
from support.tiny_cuhk03 import (
    BOXES,
    TEST_SETS,
    draw_world,
    lists_of,
    pid_of,
    write_lists,
    write_mat,
    write_np,
    write_release,
    write_unpacked,
)
from support.tiny_datasets import PNG, fails, write_tree, write_zip

from batnet_jax.data import load_dataset
from batnet_jax.data.sources.cuhk03 import Cuhk03

REAL_SIZES = {"labeled": (7368, 1400, 5328), "detected": (7365, 1400, 5332)}


@pytest.fixture(scope="module")
def worlds():
    return {boxes: draw_world(boxes) for boxes in BOXES}


@pytest.fixture
def release(tmp_path, worlds):
    return write_release(tmp_path / "m" / "cuhk03", worlds)


def load(tmp_path, manual, variant=""):
    where = tmp_path / "data" / str(len(list(tmp_path.glob("data/*"))))
    return load_dataset("cuhk03", variant=variant, data_dir=where, manual_dir=manual)


def decode(encoded):
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def labelled_pixels(dataset):
    """Return the labels and pixels of each split, independent of filenames and order."""
    return [
        sorted(
            (
                int(s.pids[i]),
                int(s.cameras[i]),
                decode(s.encoded(i)).shape,
                decode(s.encoded(i)).tobytes(),
            )
            for i in range(len(s))
        )
        for s in (dataset.train, dataset.query, dataset.gallery)
    ]


def expected(world, variables):
    """Return the same as `labelled_pixels`, directly from the world."""
    rows = [variables[f"{split}_idx"].ravel() - 1 for split in ("train", "query", "gallery")]
    names = [[variables["filelist"].ravel()[row] for row in split] for split in rows]
    return [
        sorted((pid_of(n), int(n[6]), world[n].shape, world[n].tobytes()) for n in split)
        for split in names
    ]


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("form", ["np", "np itself", "mat", "unpacked"])
def test_all_forms_are_equal(tmp_path, worlds, boxes, form):
    manual = tmp_path / "m"
    for name in BOXES:
        variables = lists_of(worlds[name])
        if form.startswith("np"):
            write_np(manual / "cuhk03-np", name, worlds[name], variables)
        else:
            write_lists(manual, name, variables)
        if form == "unpacked":
            write_unpacked(manual, name, worlds[name])
    if form == "mat":
        write_mat(manual / "cuhk-03.mat", worlds)
    if form == "np itself":
        manual = manual / "cuhk03-np" / boxes
    dataset = load(tmp_path, manual, boxes)
    assert labelled_pixels(dataset) == expected(worlds[boxes], lists_of(worlds[boxes]))
    for split in (dataset.train, dataset.query, dataset.gallery):
        assert split.filenames == sorted(split.filenames)
        assert len(split) > 0
    if not form.startswith("np"):
        assert dataset.query.filenames[0] == "1_002_1_01.png"


@pytest.mark.parametrize("archive", ["zip", "tar"])
@pytest.mark.parametrize("form", ["np", "mat", "unpacked"])
def test_archives(tmp_path, worlds, release, form, archive):
    world, variables = worlds["detected"], lists_of(worlds["detected"])
    if form == "np":
        release = write_np(tmp_path / "np", "detected", world, variables)
    elif form == "unpacked":
        (release / "cuhk03_release" / "cuhk-03.mat").unlink()
        write_unpacked(release, "detected", world)
    manual = tmp_path / "packed"
    manual.mkdir()
    files = {str(p.relative_to(release.parent)): p for p in release.rglob("*") if p.is_file()}
    if archive == "zip":
        write_zip(manual / "any.zip", {name: path.read_bytes() for name, path in files.items()})
    else:
        with tarfile.open(manual / "any.tar", "w") as tar:
            tar.add(release, arcname=release.name)
    assert labelled_pixels(load(tmp_path, manual, "detected")) == expected(world, variables)


@pytest.mark.parametrize("number", [1, 2])
def test_classic(tmp_path, worlds, release, number):
    """All images of the test people are query and gallery; pids count over all pairs."""
    for boxes, world in worlds.items():
        dataset = load(tmp_path, release, f"{boxes}-classic-{number}")
        tested = {f"{pair}_{person:03}" for pair, person in TEST_SETS[number - 1]}
        names = [sorted(n for n in world if (n[:5] in tested) == test) for test in (False, True)]
        splits = (dataset.train, dataset.query, dataset.gallery)
        assert [s.filenames for s in splits] == [names[0], names[1], names[1]]
        for split in splits:
            assert split.pids.tolist() == [pid_of(name) for name in split.filenames]
            assert split.cameras.tolist() == [int(name[6]) for name in split.filenames]
            for i, name in enumerate(split.filenames):
                np.testing.assert_array_equal(decode(split.encoded(i)), world[name])


def test_preferred_form_and_default_labeled(tmp_path, worlds, release):
    """CUHK03-NP is preferred to cuhk-03.mat, and cuhk-03.mat to unpacked images."""
    black = dict.fromkeys(worlds["labeled"], np.zeros((4, 4, 3), np.uint8))
    write_unpacked(release, "labeled", black)
    variables = lists_of(worlds["labeled"])
    assert labelled_pixels(load(tmp_path, release.parent)) == expected(worlds["labeled"], variables)
    other = {name: 255 - pixels for name, pixels in worlds["labeled"].items()}
    write_np(release.parent / "cuhk03-np", "labeled", other, variables)
    assert labelled_pixels(load(tmp_path, release.parent)) == expected(other, variables)


@pytest.mark.parametrize("place", ["beside", "one up", "below", "above manual_dir", "archive"])
def test_places_of_the_lists(tmp_path, worlds, place):
    world = worlds["labeled"]
    folder = tmp_path / "m" / "any" / "cuhk03_release"
    write_mat(folder / "cuhk-03.mat", worlds)
    places = {"beside": folder, "one up": folder.parent, "below": folder / "new" / "lists"}
    lists = write_lists(places.get(place, folder.parent), "labeled", lists_of(world))
    manual = tmp_path / "m"
    if place == "above manual_dir":
        manual = folder
    if place == "beside":  # the nearest lists are used
        write_tree(folder, {f"other/{lists.name}": b"no lists"})
        write_tree(folder.parent, {lists.name: b"no lists"})
    if place == "archive":
        write_zip(manual / "lists.zip", {f"a/{lists.name}": lists.read_bytes()})
        lists.unlink()
    assert labelled_pixels(load(tmp_path, manual)) == expected(world, lists_of(world))


def test_other_data_sets_in_the_same_place(tmp_path, worlds, release):
    """Archives of other data sets are not opened, so damaged ones cause no error."""
    (release.parent / "other.tar.gz").write_bytes(b"")
    (release.parent / "other.zip").write_bytes(b"no zip")
    write_tree(release.parent / "market", {"query/0001_c1s1_000001_00.jpg": PNG})
    assert len(load(tmp_path, release.parent).train) > 0
    (release / "cuhk03_new_protocol_config_labeled.mat").unlink()
    message = "'cuhk03_new_protocol_config_labeled.mat' is missing, which lists .* put it beside"
    fails(message, "cuhk03", tmp_path / "x", manual_dir=release.parent)


def test_nothing_stays_open(tmp_path, release):
    packed = write_zip(
        tmp_path / "p" / "a.zip", {p.name: p.read_bytes() for p in release.rglob("*.mat")}
    )
    before = os.listdir("/proc/self/fd")
    for manual in (release, packed):
        load(tmp_path, manual)
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in set(os.listdir("/proc/self/fd")) - {*before}
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert [name for name in held if "mat" in name or "deleted" in name] == []


def test_published_counts():
    for boxes, (train, query, gallery) in REAL_SIZES.items():
        counts = published_counts(boxes)
        assert [counts[s].images for s in ("train", "query", "gallery")] == [train, query, gallery]
        assert [counts[s].identities for s in ("train", "query", "gallery")] == [767, 700, 700]
    assert published_counts("labeled-classic-20") == {}


def published_counts(variant, tmp="/nonexistent"):
    return Cuhk03(data_dir=tmp, config=variant, file_format="array_record").published_counts()


# --- true scale -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_true_scale(tmp_path, capfd):
    """The real lists, and a different image of 8x4 pixels for each entry."""
    people = (843, 440, 77, 58, 49)
    manual = tmp_path / "m"
    worlds = {}
    for number, boxes in enumerate(BOXES):
        lists = needs.shared("protocols", "cuhk03", f"cuhk03_new_protocol_config_{boxes}.mat")
        write_tree(manual, {lists.name: lists.read_bytes()})
        variables = scipy.io.loadmat(lists)
        names = [str(cell[0]) for cell in variables["filelist"].ravel()]
        assert [pid_of(name, people) for name in names] == variables["labels"].ravel().tolist()
        pixels = np.random.default_rng(number).integers(0, 256, (len(names), 8, 4, 3))
        worlds[boxes] = dict(zip(names, pixels.astype(np.uint8), strict=True))
    rng = np.random.default_rng(0)
    everyone = [(pair, p) for pair in (1, 2, 3) for p in range(1, people[pair - 1] + 1)]
    sets = [[everyone[i] for i in rng.choice(len(everyone), 100, False)] for _ in range(20)]
    write_mat(manual / "cuhk03_release" / "cuhk-03.mat", worlds, people, sets)
    for boxes, sizes in REAL_SIZES.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.monotonic()
        dataset = load(tmp_path, manual, boxes)
        seconds = time.monotonic() - start
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        splits = (dataset.train, dataset.query, dataset.gallery)
        assert tuple(map(len, splits)) == sizes
        assert [len(set(s.pids)) for s in splits] == [767, 700, 700]
        assert [set(s.cameras) for s in splits] == [{1, 2}] * 3
        for split in splits:
            for i in range(0, len(split), 97):
                image = worlds[boxes][split.filenames[i]]
                np.testing.assert_array_equal(decode(split.encoded(i)), image)
        out, err = capfd.readouterr()
        assert out == ""
        assert "warning" not in err
        with capfd.disabled():
            print(f"\ncuhk03:{boxes}: {seconds:.1f} s, {more:.0f} MiB more at the peak")
    dataset = load(tmp_path, manual, "detected-classic-20")
    assert len(set(dataset.train.pids)) == 1367
    assert len(set(dataset.query.pids)) == 100
    assert dataset.query.filenames == dataset.gallery.filenames
    assert len(dataset.train) + len(dataset.query) == len(worlds["detected"])
