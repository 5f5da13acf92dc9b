"""A changed feature file is refused, or has the features and paths of before."""

import io
import json
import os
import re
import socket
import struct
import threading
import zipfile
import zlib

import numpy as np
import pytest
from support import needs
from support.fuzzing import examples, fuzz_files, survives
from support.fuzzing import limits as limits

from batnet_jax.errors import UserError
from batnet_jax.evaluation.labelled_features import read_arrays
from batnet_jax.inference import block_sums, feature_file
from batnet_jax.inference.block_sums import SumWriter, block_size, read_sums
from batnet_jax.inference.feature_file import (
    FeatureFile,
    open_features,
    read_fingerprint,
    write_features,
)
from batnet_jax.modes.search import write_index
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.runtime import npz

FEATURES = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
PATHS = [f"p/é{i}.jpg" for i in range(40)]
FINGERPRINT = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let the file have eight blocks."""
    monkeypatch.setattr(block_sums, "_LEAST", 256)


def write(path, fingerprint=FINGERPRINT):
    write_features(path, [FEATURES], shape=FEATURES.shape, paths=PATHS, fingerprint=fingerprint)
    return path


def read(path):
    """Return all that a search uses of a file."""
    found = open_features(path)
    return np.asarray(found.features), found.paths


def is_same(found):
    """Return whether a file was read; assert that it has the contents that were written."""
    if isinstance(found, str):
        return False
    assert found[0].dtype == np.float32
    assert found[0].tobytes() == FEATURES.tobytes()
    assert found[1] in (PATHS, None)
    return True


@pytest.mark.parametrize("in_memory", [0, 10**9])
def test_each_byte_of_a_written_file(tmp_path, monkeypatch, in_memory):
    """Every seventh byte, one bit of it: refused, or harmless."""
    monkeypatch.setattr(feature_file, "IN_MEMORY", in_memory)
    whole = write(tmp_path / "F.npz").read_bytes()
    assert is_same(read(tmp_path / "F.npz"))
    path, harmless = tmp_path / "damaged.npz", 0
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        harmless += is_same(survives(read, path))
    assert 0 < harmless < len(whole) // 7 // 4  # dates, attributes and versions of the archive


def npy():
    buffer = io.BytesIO()
    np.save(buffer, FEATURES)
    return buffer.getvalue()


def savez(save, paths=PATHS):
    buffer = io.BytesIO()
    save(buffer, features=FEATURES, paths=paths)
    return buffer.getvalue()


@examples(120, 5_000)
@pytest.mark.parametrize("kind", ["embed", "savez", "compressed"])
def test_damaged_archives(kind, tmp_path, examples):
    path = tmp_path / "F.npz"
    whole = {
        "embed": lambda: write(path).read_bytes(),
        "savez": lambda: savez(np.savez),
        "compressed": lambda: savez(np.savez_compressed),
    }[kind]()

    def reads(content):
        path.write_bytes(content)
        survives(read_arrays, path)
        return is_same(survives(read, path))

    fuzz_files(examples, reads, [whole])


@examples(100, 5_000)
def test_damaged_npy(tmp_path, examples):
    """It has no checksum: only its shape and size are known."""
    path = tmp_path / "F.npy"

    def reads(content):
        path.write_bytes(content)
        survives(read_arrays, path)
        found = survives(read, path)
        return not isinstance(found, str) and found[0].nbytes <= len(content)

    fuzz_files(examples, reads, [npy()])


@examples(100, 5_000)
def test_damaged_indices(tmp_path, examples):
    """faiss would take all memory for some of them."""
    needs.package("faiss")
    path = tmp_path / "F.index"
    write_index(path, FeatureFile(FEATURES, None, FINGERPRINT))
    whole, vectors = path.read_bytes(), read(path)[0]
    np.testing.assert_allclose(np.square(vectors).sum(1), 1, atol=1e-6)  # of float32
    assert read_fingerprint(path) == FINGERPRINT

    def reads(content):
        path.write_bytes(content)
        found = survives(read, path)
        # Without its end, as faiss writes it, nothing tells that a number is another one.
        if not isinstance(found, str) and content[: len(whole)].find(b"batnet_jax") >= 0:
            assert found[0].tobytes() == vectors.tobytes()
        return not isinstance(found, str)

    fuzz_files(examples, reads, [whole])


@pytest.mark.parametrize("missing", range(1, 100))
def test_an_index_that_lacks_bytes_of_its_vectors(missing, tmp_path):
    """Its checksum may then lie among the vectors, and what follows looks like no checksum."""
    needs.package("faiss")
    path = tmp_path / "F.index"
    write_index(path, FeatureFile(FEATURES, None, FINGERPRINT))
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + whole[100 + missing :])
    with pytest.raises(UserError, match="is damaged: write it again with"):
        open_features(path)


def test_indices_of_faiss_itself(tmp_path):
    """Flat ones are read, others are refused, and what follows them is no checksum."""
    faiss = needs.package("faiss")
    path = tmp_path / "F.index"
    for index in (faiss.IndexFlatIP(12), faiss.IndexFlatL2(12)):
        index.add(FEATURES)
        faiss.write_index(index, str(path))
        np.testing.assert_array_equal(read(path)[0], FEATURES)
    whole = path.read_bytes()
    for end in (b"batnet_jax fingerprint " + FINGERPRINT.encode(), b""):  # an older version's
        path.write_bytes(whole + end)
        np.testing.assert_array_equal(read(path)[0], FEATURES)
    for damaged in (
        *(whole[:-1], whole[:40], whole[:4], whole + b"x", whole + b"batnet_jax crc32 "),
        *(whole[:8] + struct.pack("<q", number) + whole[16:] for number in (2**40, -1, 0, 39)),
        *(whole[:4] + struct.pack("<i", number) + whole[8:] for number in (0, -12, 11, 2**31 - 1)),
        whole[:37] + struct.pack("<Q", 2**60) + whole[45:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged: write it again with"):
            open_features(path)
    faiss.write_index(faiss.IndexHNSWFlat(12, 4), str(path))
    with pytest.raises(UserError, match="only flat indices are read, and others that this package"):
        open_features(path)


def test_the_vectors_of_an_index_stay_in_the_file_if_they_are_many(tmp_path, monkeypatch):
    needs.package("faiss")
    path = tmp_path / "F.index"
    write_index(path, FeatureFile(FEATURES, None))
    few = read(path)[0]
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    assert isinstance(open_features(path).features, RowFile)
    np.testing.assert_array_equal(read(path)[0], few)


def member(name, content, **changes):
    """Return an archive with one member; `changes` replace what its directory declares."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", changes.pop("method", zipfile.ZIP_STORED)) as archive:
        archive.writestr(name, content)
        for attribute, value in changes.items():
            setattr(archive.infolist()[0], attribute, value)
    return buffer.getvalue()


def header(shape, descr="<f4", **more):
    """Return the header of an .npy."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape} | more).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


DEFLATED = zipfile.ZIP_DEFLATED


def features(content, **changes):
    return member("features.npy", content, **changes)


ROWS = bytes(64)
HOSTILE = {
    "bomb": (features(header((10**7, 1)) + bytes(4 * 10**7), method=DEFLATED), "at most"),
    "terabytes": (features(header((10**6, 10**6)) + ROWS), "declares"),
    "terabytes, packed": (features(header((10**6, 10**6)) + ROWS, method=DEFLATED), "declares"),
    "declared size": (features(ROWS, file_size=2**31 - 9, method=DEFLATED), "at most"),
    "negative": (features(header((-1, 4)) + bytes(16)), "of shape"),
    "huge and none": (features(header((10**30, 0))), "cannot be read"),
    "no numbers": (features(header((4, "4")) + ROWS), "is damaged"),
    "too few rows": (features(header((3, 4)) + ROWS), "declares"),
    "objects": (features(header((4, 4), "|O") + ROWS), "Python's objects"),
    "no bytes": (features(header((4, 4), "|V0")), "of type"),
    "records": (features(header((4,), [("a", "<f4")]) + bytes(16)), "of type"),
    "code": (features(header((4, 4), "__import__('os')") + ROWS), "is damaged"),
    "deep": (features(header((4, 4)).replace(b"<f4", b"(" * 9000)), "is damaged"),
    "long header": (features(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + ROWS), "is damaged"),
    "version": (features(b"\x93NUMPY\x09\x00" + ROWS), "is damaged"),
    "lzma": (features(npy(), method=zipfile.ZIP_LZMA), "in another way"),
    "many members": (b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 9, 9, 2**30, 0, 0), "list of arrays"),
    "no archive": (b"PK", "is not an .npz"),
    "empty": (b"", "is not an .npz"),
    "nothing": (npy() + b"PK\5\6" + bytes(18), "holds nothing"),
    "paths of numbers": (savez(np.savez, paths=np.arange(40)), "holds paths of shape"),
    "paths in rows": (savez(np.savez, paths=np.array([PATHS])), "holds paths of shape"),
    "few paths": (savez(np.savez, paths=PATHS[1:]), "40 features and 39 paths"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(name, tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "UNPACKED_BYTES", 10**7)
    content, message = HOSTILE[name]
    path = tmp_path / "F.npz"
    path.write_bytes(content)
    assert re.search(message, survives(read, path))
    if "paths" not in name and name != "nothing":
        assert isinstance(survives(read_arrays, path), str)


def test_strings_that_are_no_characters(tmp_path):
    numbers = np.full(40, 0x110000, "<u4")
    paths = header((40,), "<U1") + numbers.tobytes()
    with zipfile.ZipFile(tmp_path / "F.npz", "w") as archive:
        archive.writestr("features.npy", npy())
        archive.writestr("paths.npy", paths)
    assert "are not characters" in survives(read, tmp_path / "F.npz")


def test_compressed_arrays_may_be_small(tmp_path, monkeypatch):
    """Those that were all the same compress a thousandfold, and are read within the limit."""
    path = tmp_path / "F.npz"
    np.savez_compressed(path, features=np.ones((50_000, 4), np.float32))
    assert read(path)[0].shape == (50_000, 4)
    monkeypatch.setattr(npz, "UNPACKED_BYTES", 10_000)
    assert "its arrays take 800,128 bytes, and at most" in survives(read, path)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".index", ".csv", ".mat"])
def test_pipes_sockets_and_folders_are_refused_at_once(tmp_path, suffix):
    reads = [read_arrays] if suffix in (".csv", ".mat") else [open_features]
    reads += [read_arrays] if suffix in (".npz", ".npy") else []
    path = tmp_path / f"F{suffix}"
    for kind in ("pipe", "folder", "socket", "device", "loop"):
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        else:
            path.symlink_to("/dev/zero" if kind == "device" else path)
        for function in reads:
            message = survives(function, path)
            assert isinstance(message, str)
            assert "cannot be read" in message
        path.rmdir() if kind == "folder" else path.unlink()


def test_sums_of_blocks_by_hand():
    writer = SumWriter(4)
    for part in (b"ab", b"", memoryview(b"cdefgh"), b"i"):
        assert writer.add(part) == part
    comment = writer.comment(b"mark")
    found = read_sums(comment, 100, 109)
    assert found is not None
    assert (found.start, found.end, found.size) == (100, 109, 4)
    assert found.sums.tolist() == [zlib.crc32(part) for part in (b"abcd", b"efgh", b"i")]
    assert comment.endswith(b"mark")
    assert read_sums(b"", 0, 9) is None
    assert read_sums(b"batnet_jax fingerprint 12", 0, 9) is None
    for damaged in (comment.replace(b" 4 ", b" 5 "), comment[:-1], comment[:20]):
        with pytest.raises(ValueError, match="its list of checksums is damaged"):
            read_sums(damaged, 100, 109)
    with pytest.raises(ValueError, match="its checksums are of other features"):
        read_sums(comment, 100, 113)
    assert len(SumWriter(8).comment(b"")) < 60


def test_a_comment_has_room_for_the_sums_of_any_file(monkeypatch):
    monkeypatch.undo()
    for nbytes in (1, 2**20, 2**32, 2**32 + 1, 2**40, 10**14):
        size = block_size(nbytes)
        assert size >= 2**20
        blocks = -(-nbytes // size)
        assert blocks * 8 + 100 < 2**16
        assert nbytes <= 2**32 or blocks > 2000


def test_other_files_have_no_sums_and_their_one_checksum_is_compared(tmp_path, monkeypatch):
    """NumPy's files, and those of older versions; large ones stay in the file."""
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    path = tmp_path / "F.npz"
    content = bytearray(savez(np.savez))
    path.write_bytes(content)
    assert is_same(read(path))
    content[content.index(FEATURES.tobytes()) + 999] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match="its features do not match their checksum"):
        open_features(path)


def test_two_writers_of_one_path_leave_one_whole_file(tmp_path):
    path, seen = tmp_path / "F.npz", set()

    def embed(number):
        rows = np.full((500, 12), number, np.float32)
        parts = (rows[i : i + 50] for i in range(0, 500, 50))
        write_features(path, parts, shape=(500, 12), paths=[str(number)] * 500)

    for _ in range(5):
        threads = [threading.Thread(target=embed, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        features, paths = read(path)
        assert set(paths) == {str(int(features[0, 0]))}
        assert (features == features[0, 0]).all()
        seen.add(paths[0])
        assert [p.name for p in tmp_path.iterdir()] == ["F.npz"]
    assert seen <= set("0123")


def test_files_in_the_way_of_a_temporary_one_are_not_followed(tmp_path):
    """Its name cannot be guessed, and an existing one is not opened."""
    victim = tmp_path / "victim"
    victim.write_text(json.dumps("mine"))
    for name in ("F.npz.partial", "F.partial", ".F.npz.partial", "F.npz.tmp"):
        (tmp_path / name).symlink_to(victim)
    write(tmp_path / "F.npz")
    assert victim.read_text() == json.dumps("mine")
