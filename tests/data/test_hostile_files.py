"""Hostile MATLAB files of CUHK03, and hostile weights: .pth and .safetensors."""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
from safetensors.numpy import load_file, save_file
from support import needs
from support.fuzzing import examples, fuzz_files, refused, survives
from support.fuzzing import limits as limits
from support.tiny_cuhk03 import draw_world, lists_of, write_lists, write_mat

from batnet_jax.config import default_config
from batnet_jax.data.files.matlab_v5 import read_mat
from batnet_jax.data.files.tree import open_tree
from batnet_jax.data.sources.cuhk03_mat import MatImages, Release, read_protocol
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.weights.read_tensors import read_tensors

WANTED = ("filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx")
HOW = {"compressed": True, "plain": False}

# MATLAB v5: CUHK03's lists.


def lists(how):
    buffer = io.BytesIO()
    variables = lists_of(draw_world("labeled")) | {"other": np.ones((2, 2), np.uint8)}
    scipy.io.savemat(buffer, variables, do_compression=HOW[how])
    return buffer.getvalue()


@pytest.mark.parametrize("how", HOW)
def test_lists_are_read_as_scipy_does(how):
    theirs, ours = scipy.io.loadmat(io.BytesIO(lists(how))), read_mat(lists(how), WANTED)
    assert ours.keys() == set(WANTED)
    assert ours["filelist"] == [str(cell[0]) for cell in theirs["filelist"].ravel("F")]
    for name in WANTED[1:]:
        np.testing.assert_array_equal(ours[name], theirs[name].ravel("F"))


@examples(200, 5_000)
def test_damaged_lists_of_cuhk03(tmp_path, examples):
    name = "lists.mat"

    def reads(content):
        (tmp_path / name).write_bytes(content)
        found = survives(read_protocol, open_tree(tmp_path), name, folder=tmp_path)
        if not isinstance(found, str):
            assert found.keys() == {"train", "query", "gallery"}
        return not isinstance(found, str)

    fuzz_files(examples, reads, [lists(how) for how in HOW])


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def cell(content, name=b""):
    head = element(6, struct.pack("<II", 1, 0)) + element(5, struct.pack("<ii", 1, 1))
    return element(14, head + element(1, name) + content)


def test_nested_cells_and_decompression_bombs(tmp_path):
    """SciPy recurses to any depth, so the nested cells crash the process."""
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    head = cell(b"")[8:]
    sizes = [len(head) + depth * (len(head) + 8) for depth in range(100_000)]
    nested = b"".join(struct.pack("<II", 14, size) + head for size in reversed(sizes))
    bomb = zlib.compress(bytes(10**8))
    cases = {
        "a cell that holds no string": cell(nested, b"filelist"),
        "holds more than 20,000,000 bytes": struct.pack("<II", 15, len(bomb)) + bomb,
    }
    for message, content in cases.items():
        (tmp_path / "lists.mat").write_bytes(header + content)
        refused(message, read_protocol, open_tree(tmp_path), "lists.mat")


# HDF5: CUHK03's images.


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    path = tmp_path_factory.mktemp("mat") / "cuhk-03.mat"
    return write_mat(path, {"labeled": draw_world("labeled")})


def images(folder):
    """Return all images in a folder's `cuhk-03.mat`, and its first test set."""
    opened = Release(open_tree(folder), "cuhk-03.mat")
    found = MatImages(opened, "labeled")
    content = {name: found.read(name) for name in found.names}
    return content, opened.test_set(1)


def changed(release, folder, change):
    shutil.copy(release, folder)
    with h5py.File(folder / "cuhk-03.mat", "r+") as file:
        change(file)
    return folder


def put(file, dataset):
    """Make a dataset the first image of the first person."""
    file[file["labeled"][0, 0]][0, 0] = dataset.ref


def outside(file):
    """Add an image whose bytes are in another file."""
    place = [("/etc/passwd", 0, 3 * 8 * 4)]
    put(file, file["#refs#"].create_dataset("x", (3, 8, 4), np.uint8, external=place))


def virtual(file):
    layout = h5py.VirtualLayout((3, 8, 4), np.uint8)
    layout[:] = h5py.VirtualSource("../other.mat", "x", (3, 8, 4))
    put(file, file["#refs#"].create_virtual_dataset("x", layout))


def linked(file):
    del file["labeled"]
    file["labeled"] = h5py.ExternalLink("../other.mat", "/labeled")


def large(file):
    del file["labeled"]
    file.create_dataset("labeled", (10**6, 10**6), h5py.ref_dtype, chunks=(1000, 1000))


def chunk(file):
    shape, unlimited = (20_000, 20_000, 2), (None,) * 3
    keywords = {"chunks": shape, "maxshape": unlimited, "compression": "gzip"}
    put(file, file["#refs#"].create_dataset("x", (3, 8, 4), np.uint8, **keywords))


def pairs(file):
    first = file["labeled"][0, 0]
    del file["labeled"]
    file.create_dataset("labeled", data=[[first] * 12], dtype=h5py.ref_dtype)


MADE = {
    outside: "takes its content from another file",
    virtual: "takes its content from another file",
    linked: "is a link, maybe into another file",
    large: "is of an absurd size",
    chunk: "is of an absurd size",
    pairs: "has more than 9 pairs of cameras",
}


@pytest.mark.parametrize("change", MADE)
def test_hdf5_with_links_to_other_files_or_huge_arrays(release, tmp_path, change):
    (tmp_path / "m").mkdir()
    shutil.copy(release, tmp_path / "other.mat")
    refused(MADE[change], images, changed(release, tmp_path / "m", change))


@examples(60, 3_000)
def test_damaged_hdf5(release, tmp_path, examples):
    whole = images(release.parent)

    def reads(content):
        (tmp_path / "cuhk-03.mat").write_bytes(content)
        found = survives(images, tmp_path, folder=tmp_path)
        assert isinstance(found, str) or found[0].keys() <= whole[0].keys()
        return not isinstance(found, str)

    fuzz_files(examples, reads, [release.read_bytes()])


# Weights.


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    names = ("features.conv.conv1.0.weight", "features.conv.conv1.1.bias", "fc.weight")
    return {name: rng.normal(size=(4, 3)).astype(np.float32) for name in names}


def import_of(path):
    config = default_config()
    config.data.image_size, config.model.width = (64, 32), 1 / 16
    return import_weights(config, path, path.parent / "run")


@examples(100, 4_000)
def test_damaged_safetensors(tensors, tmp_path, examples):
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)

    def reads(content):
        path.write_bytes(content)
        found = survives(read_tensors, path, folder=tmp_path)
        assert isinstance(found, str) or sum(t.nbytes for t in found.values()) <= len(content)
        assert isinstance(survives(import_of, path, folder=tmp_path), str)
        return not isinstance(found, str)

    fuzz_files(examples, reads, [path.read_bytes()])
    assert list(tmp_path.iterdir()) == [path]


HEADERS = {
    "length": (2**63, "{}"),
    "long": (100_000_001, "{}"),
    "deep": (None, '{"a":' * 50_000),
    "negative": (None, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
    "far": (None, {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "overlap": (
        None,
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in ("a", "b")},
    ),
    "product": (None, {"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}),
    "beyond 64 bits": (None, {"a": {"dtype": "F32", "shape": [2**80], "data_offsets": [0, 0]}}),
    "NaN": (None, '{"a": NaN}'),
    "escape": (None, {"../../x\x1b[2J\n": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    "no size": (
        None,
        {
            "classifier_global.1.weight": {
                "dtype": "F32",
                "shape": [2**30, 0],
                "data_offsets": [0, 0],
            },
            "features.conv.conv1.0.weight": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        },
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_hostile_headers(tmp_path, kind):
    length, header = HEADERS[kind]
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(8))
    assert isinstance(survives(import_of, path, folder=tmp_path), str)
    assert list(tmp_path.iterdir()) == [path]


def test_a_classifier_of_no_numbers_and_many_classes(tmp_path, monkeypatch):
    """A classifier with a billion classes of 0 numbers each."""
    many = {"classifier_global.1.weight": np.zeros((10**9, 0), np.float32)}
    path = tmp_path / "a.safetensors"
    save_file(many, path)
    monkeypatch.setattr("batnet_jax.modes.import_weights.check_agrees", lambda *_, **__: None)
    monkeypatch.setattr("batnet_jax.weights.sources.guess_format", lambda _: "BAT-net")
    refused("has classifier_global.1.weight of shape", import_of, path, folder=tmp_path)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_pth(path, content, packing=zipfile.ZIP_STORED):
    """Write a file as torch.save does, without PyTorch; `content` is an object or a pickle."""
    pickled = content if isinstance(content, bytes) else pickle.dumps(content, 2)
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", "3\n")
        archive.writestr("a/data/0", bytes(10**6))
    return path


EVIL = {
    "system": Calls(os.system, "touch hacked"),
    "eval": Calls(eval, "open('hacked', 'w')"),
    "exec": {"state_dict": Calls(exec, "open('hacked', 'w')")},
    "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
    "bytearray": Calls(bytearray, 10**12),
    "breakpoint": [Calls(breakpoint)],
    "instance": b"(S'touch hacked'\nios\nsystem\n.",
    "protocol 4": pickle.dumps(Calls(os.system, "touch hacked"), 4),
}


@pytest.mark.parametrize("name", EVIL)
def test_pickles_that_run_are_refused(tmp_path, monkeypatch, name):
    needs.package("torch")
    monkeypatch.chdir(tmp_path)
    path = write_pth(tmp_path / "a.pth", EVIL[name])
    refused("run code when they are read; refused", import_of, path, folder=tmp_path)
    bare = EVIL[name] if isinstance(EVIL[name], bytes) else pickle.dumps(EVIL[name], 2)
    path.write_bytes(bare * 5)  # the format before PyTorch 1.6
    refused("run code when they are read; refused", import_of, path, folder=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_packed_pth_and_tensors_of_one_number(tmp_path):
    torch = needs.package("torch")
    path = write_pth(tmp_path / "a.pth", {}, zipfile.ZIP_DEFLATED)
    refused("is compressed, as no file of torch.save is", import_of, path)
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path)
    refused("has tensors of 4,000,000,000,000 bytes, more than 2 times", import_of, path)


@examples(60, 3_000)
def test_damaged_pth(tensors, tmp_path, examples):
    torch = needs.package("torch")
    path, wholes = tmp_path / "a.pth", []
    for zipped in (True, False):
        named = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        torch.save({"state_dict": named}, path, _use_new_zipfile_serialization=zipped)
        wholes.append(path.read_bytes())
        for name, tensor in read_tensors(path).items():
            np.testing.assert_array_equal(tensor, tensors[name])

    def reads(content):
        path.write_bytes(content)
        return not isinstance(survives(read_tensors, path, folder=tmp_path), str)

    fuzz_files(examples, reads, wholes)


def test_the_fixtures_are_read_when_whole(release, tensors, tmp_path):
    content, tested = images(release.parent)
    assert content.keys() == draw_world("labeled").keys()
    assert tested
    path = write_lists(tmp_path, "labeled", lists_of(draw_world("labeled")))
    assert set(read_protocol(open_tree(tmp_path), path.name)) == {"train", "query", "gallery"}
    save_file(tensors, tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors").keys() == tensors.keys()
