"""Odd or hostile filenames, links and archives.

The table in test_images.py lists the outcomes.
"""

import io
import os
import shutil
import tarfile
import zipfile

import pytest
from support.tiny_datasets import (
    FOLDERS,
    JPG,
    LAYOUTS,
    MSMT17,
    fails,
    jpg,
    market_with,
    write_tree,
    write_zip,
)

from batnet_jax.data import load_dataset


@pytest.mark.parametrize(
    "name", ["0001.jpg", "c1_0001.jpg", "p1_c1s1.jpg", "0001-c1.jpg", "_c1.jpg"]
)
@pytest.mark.parametrize("dataset", ["market1501", "dukemtmc_reid", "cuhk03"])
def test_names_without_labels(tmp_path, dataset, name):
    folder = "labeled/query" if dataset == "cuhk03" else "query"
    write_tree(tmp_path / "m", LAYOUTS[dataset] | {f"{folder}/{name}": JPG})
    message = f"/{folder}/{name}' does not begin with PID_cCAMERA"
    fails(message, dataset, tmp_path, manual_dir=tmp_path / "m")


def test_listed_twice(tmp_path):
    """Twice in one list, and in both lists of the training split."""
    line = MSMT17["list_val.txt"]
    for name, number in (("list_val.txt", 3), ("list_train.txt", 1)):
        files = MSMT17 | {name: MSMT17[name] + line}
        manual = write_tree(tmp_path / name, files)
        message = rf"list_val\.txt', line {number}: .*_001_02_.* is listed twice: restore the list"
        fails(message, "msmt17", tmp_path, manual_dir=manual)


@pytest.mark.parametrize("archive", [False, True])
def test_any_unicode_name(tmp_path, archive):
    tops = ("é", "e\u0301", "汉字", "😀 with spaces", "'quoted'", "line\nbreak", "a\\b", "%s{}")
    files = market_with({f"{top}/{k:04}_c1s1 {top}.jpg": jpg(k) for k, top in enumerate(tops, 10)})
    place = "汉字 é" if archive else "汉字\n é"
    if archive:
        write_zip(tmp_path / place / "é.zip", files)
    else:
        write_tree(tmp_path / place, files)
    query = load_dataset("market1501", data_dir=tmp_path / "d ü", manual_dir=tmp_path / place).query
    expected = {name.removeprefix("query/"): c for name, c in files.items() if name[0] == "q"}
    assert query.filenames == sorted(expected)
    assert [query.encoded(i) for i in range(len(query))] == [expected[n] for n in query.filenames]


@pytest.mark.parametrize("name", ["market1501", "folder"])
@pytest.mark.parametrize("place", ["query/0001_c1s1_\udcff.jpg", "query/\udcff/0001_c1s1_0.jpg"])
def test_a_name_that_is_not_utf8(tmp_path, name, place):
    write_tree(tmp_path / "m", market_with({}) | {place: JPG})
    message = r"the file name '.*\\udcff.*' is not UTF-8: rename it"
    fails(message, name, tmp_path, manual_dir=tmp_path / "m")


def test_links_to_files_and_folders(tmp_path):
    write_tree(tmp_path / "far", {"1.jpg": jpg(1), "more/0003_c1s1_0.jpg": jpg(2)})
    write_tree(tmp_path / "m", market_with({}))
    (tmp_path / "m" / "query" / "0002_c1s1_0.jpg").symlink_to(tmp_path / "far" / "1.jpg")
    (tmp_path / "m" / "query" / "more").symlink_to("../../far/more")
    query = load_dataset("market1501", data_dir=tmp_path / "d", manual_dir=tmp_path / "m").query
    assert query.filenames == ["0001_c2s1_0.jpg", "0002_c1s1_0.jpg", "more/0003_c1s1_0.jpg"]
    assert [query.encoded(i) for i in range(3)] == [jpg(2), jpg(1), jpg(2)]


@pytest.mark.parametrize("name", ["market1501", "folder"])
@pytest.mark.parametrize("target", ["nowhere.jpg", "0009_c1s1_0.jpg"])
def test_links_that_lead_nowhere(tmp_path, name, target):
    write_tree(tmp_path / "m", market_with({}))
    (tmp_path / "m" / "query" / "0009_c1s1_0.jpg").symlink_to(target)  # the second links to itself
    message = r"/query/0009_c1s1_0\.jpg' cannot be read \(.*\): restore or remove it"
    fails(message, name, tmp_path, manual_dir=tmp_path / "m")


@pytest.mark.parametrize("name", ["market1501", "folder"])
def test_no_permission(tmp_path, name):
    write_tree(tmp_path / "m", market_with({"0009_c1s1_0.jpg": JPG}))
    path = tmp_path / "m" / "query" / "0009_c1s1_0.jpg"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    fails(r"/query/0009_c1s1_0\.jpg' cannot be read", name, tmp_path, manual_dir=tmp_path / "m")
    path.chmod(0o600)
    (tmp_path / "m" / "query").chmod(0)
    try:
        fails("/query.* cannot be read", name, tmp_path, manual_dir=tmp_path / "m")
    finally:
        (tmp_path / "m" / "query").chmod(0o700)


# --- archives -------------------------------------------------------------------------------------


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def list_files(folder):
    """List the files outside the prepared data."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(str(path) for path in paths if path.parts[0] != "data")


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize(
    "evil", ["../../evil.jpg", "/tmp/evil.jpg", "query/../../evil.jpg", "//x.jpg"]
)
def test_members_that_point_outside_are_not_followed(tmp_path, write, evil):
    """Other members are read; files outside are neither read nor written."""
    manual = tmp_path / "m"
    path = write(manual / f"m.{write.__name__[-3:]}", market_with({}) | {evil: b"evil"})
    (tmp_path / "evil.jpg").write_bytes(JPG)
    before = list_files(tmp_path)
    dataset = load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=manual)
    assert len(dataset.query) == 1
    assert list_files(tmp_path) == before
    assert path.exists()


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("prefix", ["/data/", "../", "./", "a//b/"])
def test_a_layout_at_any_depth_in_an_archive(tmp_path, write, prefix):
    files = {prefix + name: content for name, content in market_with({}).items()}
    path = write(tmp_path / f"m.{write.__name__[-3:]}", files)
    query = load_dataset("market1501", data_dir=tmp_path / "data", manual_dir=path).query
    assert [query.encoded(i) for i in range(len(query))] == [jpg(2)]
    assert list_files(tmp_path) == [path.name]


def test_backslashes_in_an_archive(tmp_path):
    files = {name.replace("/", "\\"): content for name, content in market_with({}).items()}
    path = write_zip(tmp_path / "m.zip", files, "..\\")
    fails("Market-1501 not found in", "market1501", tmp_path, manual_dir=path)
    assert list_files(tmp_path) == ["m.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path):
    name = "query/0001_c2s1_0.jpg"
    path = write_zip(tmp_path / "m.zip", market_with({}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, jpg(77))
    query = load_dataset("market1501", data_dir=tmp_path / "d", manual_dir=path).query
    assert [query.encoded(i) for i in range(len(query))] == [jpg(77)]
    with tarfile.open(write_tar(tmp_path / "m.tar", market_with({})), "a") as archive:
        info = tarfile.TarInfo("./" + name)
        info.size = len(jpg(78))
        archive.addfile(info, io.BytesIO(jpg(78)))
    manual = tmp_path / "m.tar"
    query = load_dataset("market1501", data_dir=tmp_path / "e", manual_dir=manual).query
    assert [query.encoded(i) for i in range(len(query))] == [jpg(78)]


def test_an_archive_of_folders_alone(tmp_path):
    path = write_zip(tmp_path / "m.zip", {f"{folder}/": b"" for folder in FOLDERS})
    message = "Market-1501 not found in|is missing or holds no images"
    fails(message, "market1501", tmp_path, manual_dir=path)


def test_encrypted(tmp_path):
    path = write_zip(tmp_path / "m.zip", market_with({}))
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            content[start + place] |= 1
    path.write_bytes(content)
    message = r"_0\.jpg' cannot be read \(.*encrypted.*\): restore or remove it"
    fails(message, "market1501", tmp_path, manual_dir=path)


@pytest.mark.parametrize("how", ["hard link", "soft link"])
def test_links_in_a_tar(tmp_path, how):
    with tarfile.open(write_tar(tmp_path / "m.tar", market_with({})), "a") as archive:
        info = tarfile.TarInfo("query/0009_c1s1_0.jpg")
        info.type = tarfile.LNKTYPE if how == "hard link" else tarfile.SYMTYPE
        info.linkname = "/etc/passwd"
        archive.addfile(info)
    message = r"m\.tar' cannot be read \(it holds the link query/0009_c1s1_0\.jpg; pack it with"
    fails(message, "market1501", tmp_path, manual_dir=tmp_path / "m.tar")


def test_compressed_and_nested_archives(tmp_path):
    write_tree(tmp_path / "tree", market_with({}))
    for name in ("m.tar.gz", "m.tgz"):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            archive.add(tmp_path / "tree", ".")
        message = f"'.*{name}' is compressed as a whole.*: unpack it"
        fails(message, "market1501", tmp_path, manual_dir=tmp_path / name)
    path = shutil.copy(tmp_path / "m.tgz", tmp_path / "n.tar")  # with a wrong suffix
    fails(r"n\.tar' cannot be read \(", "market1501", tmp_path, manual_dir=path)
    inner = write_zip(tmp_path / "inner.zip", market_with({}))
    path = write_zip(tmp_path / "outer.zip", {"inner.zip": inner.read_bytes()})
    fails(r"not found in '.*outer\.zip'", "market1501", tmp_path, manual_dir=path)
