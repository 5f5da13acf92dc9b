"""Hostile folders, archives and lists.

Each is read or refused in one line, without hanging, large memory use, running code or writing.
"""

import functools
import io
import os
import tarfile
import zipfile

import pytest
from hypothesis import strategies as st
from support.fuzzing import damaged, examples, fuzz, fuzz_files, refused, survives
from support.fuzzing import limits as limits
from support.tiny_datasets import JPG, MSMT17, market_with, write_tree, write_zip

from batnet_jax.data import DATASETS
from batnet_jax.data.checks import check_image
from batnet_jax.data.files.safe_open import MAX_BYTES
from batnet_jax.data.files.tree import open_tree
from batnet_jax.data.loading.loader import decode
from batnet_jax.data.loading.user_images import ImageFiles, list_files
from batnet_jax.data.prepared import make_builder
from batnet_jax.errors import UserError

# Files.


def test_pipes_devices_folders_and_sparse_files(tmp_path):
    """A pipe blocks, a device never ends, a sparse file takes memory but no disk."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    with (tmp_path / "hole.jpg").open("wb") as file:
        file.truncate(10**12)
    wanted = {"pipe": "a pipe or a device", "zero": "a pipe or a device", "folder": "a folder"}
    wanted["hole"] = f"of which at most {MAX_BYTES:,} are read"
    for name, reason in wanted.items():
        refused(reason, ImageFiles([str(tmp_path / f"{name}.jpg")]).encoded, 0)
    tree = open_tree(tmp_path)
    for name in tree.images():
        refused(f"/{name}' cannot be read", tree.read, name)
        refused(f"/{name}' cannot be opened", tree.open_binary, name) if name != "hole.jpg" else 0


def test_links_in_loops(tmp_path, monkeypatch):
    """20 folders, each with two links to the next, have a million paths."""
    monkeypatch.setattr("batnet_jax.data.files.tree.MAX_FOLDERS", 1000)
    for level in range(20):
        folder = tmp_path / str(level)
        folder.mkdir()
        for name in "ab":
            (folder / name).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "20").mkdir()
    refused("more than 1,000 folders: do links", lambda: open_tree(tmp_path / "0").names)


def test_many_folders_are_no_loop(tmp_path, monkeypatch):
    """A data set may have any number of people, with links to folders elsewhere, too."""
    monkeypatch.setattr("batnet_jax.data.files.tree.MAX_FOLDERS", 20)
    for number in range(50):
        (tmp_path / "m" / f"a{number}").mkdir(parents=True)
        (tmp_path / "far" / str(number)).mkdir(parents=True)
        (tmp_path / "m" / f"b{number}").symlink_to(tmp_path / "far" / str(number))
        for name in (f"a{number}", f"b{number}"):
            (tmp_path / "m" / name / "1.jpg").write_bytes(JPG)
    assert len(open_tree(tmp_path / "m").names) == 100


@pytest.fixture
def deep(tmp_path):
    """Create 1,100 nested folders, whose path is too long to create or remove at once."""
    top, number = tmp_path / "m", 1100
    top.mkdir()
    here = os.getcwd()
    os.chdir(top)
    try:
        for _ in range(number):
            os.mkdir("a")
            os.chdir("a")
        yield top
        for _ in range(number):
            os.chdir("..")
            os.rmdir("a")
    finally:
        os.chdir(here)


@pytest.mark.parametrize("name", ["folder", "market1501"])
def test_nested_folders(deep, tmp_path, name):
    survives(sources, name, tmp_path, folder=tmp_path)
    refused("more than 100 nested folders", lambda: open_tree(deep).names)


builder_of = functools.cache(make_builder)


def sources(name, folder, variant="", manual="m"):
    """Read all images of a data set's builder; return [(split, photo, bytes)]."""
    make = (
        make_builder if name == "folder" else builder_of
    )  # `make_builder` reads the files of `folder`
    builder = make(DATASETS[name], variant, folder / "d", folder / manual)
    found = []
    for split, source in builder.sources().items():
        for photo, content in zip(source.photos, source.encoded, strict=True):
            check_image(content, photo.filename)
            found.append((split, photo, content))
    return found


TREE = market_with({"0002_c1s1_0.jpg": JPG})


def archives():
    """Return the bytes of .zip files with different packing and .tar files with one data set."""
    made = []
    for packing in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", packing) as archive:
            for name, content in TREE.items():
                archive.writestr(name, content)
        made.append(buffer.getvalue())
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, content in TREE.items():
                info = tarfile.TarInfo(f"{'x' * 90}/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        made.append(buffer.getvalue())
    return made


@examples(80, 1_500)
def test_damaged_archives(tmp_path, examples):
    def reads(content):
        name = "m.zip" if content.startswith(b"PK") or b"PK\5\6" in content else "m.tar"
        (tmp_path / name).write_bytes(content)
        found = survives(sources, "market1501", tmp_path, "", name, folder=tmp_path)
        return not isinstance(found, str)

    fuzz_files(examples, reads, archives())


def refused_archive(message, folder):
    """Assert that Market-1501 in `m.zip` in a folder is refused."""
    refused(message, sources, "market1501", folder, "", "m.zip", folder=folder)


def test_a_zip_bomb(tmp_path):
    """A small archive that unpacks to 400 MB."""
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in TREE.items():
            archive.writestr(name, content)
        with archive.open("query/0003_c1s1_0.jpg", "w", force_zip64=True) as member:
            for _ in range(400):
                member.write(bytes(10**6))
    refused_archive("400,000,000 bytes, of which at most", tmp_path)


@pytest.mark.parametrize("name", ["query/" * 10_000 + "x.jpg", "a/" * 30_000 + "query/1_c1_1.jpg"])
def test_names_in_an_archive_that_are_very_long(tmp_path, name):
    write_zip(tmp_path / "m.zip", {name: JPG})
    refused_archive("a name of more than 4,096 characters", tmp_path)
    write_zip(tmp_path / "m.zip", {name[:4090] + str(i): JPG for i in range(50)})
    survives(sources, "market1501", tmp_path, "", "m.zip", folder=tmp_path)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)
NAMED = st.from_regex(r"-?[0-9]{0,12}_?c?[0-9]{0,12}(s1)?[_.\-\n]?.{0,3}", fullmatch=True)


@examples(16, 500)
@pytest.mark.parametrize("name", ["market1501", "dukemtmc_reid", "cuhk03", "folder"])
def test_names_of_any_kind(tmp_path, name, examples):
    folder = tmp_path / "m" / ("labeled/" if name == "cuhk03" else "")
    duke = name == "dukemtmc_reid"  # its names have a frame in place of Market-1501's sequence
    tree = {path.replace("s1_", "_f") if duke else path: TREE[path] for path in TREE}
    write_tree(folder, tree)

    def reads(given):
        path = folder / "query" / f"{given.replace('/', '_')}.jpg".replace("\0", "_")
        try:
            path.write_bytes(JPG)
        except OSError:  # too long
            return False
        try:
            found = survives(sources, name, tmp_path, folder=tmp_path)
        finally:
            path.unlink()
        assert isinstance(found, str) or all(photo.pid >= 0 for _, photo, _ in found)
        return not isinstance(found, str)

    assert reads("0003_c1_f0046182" if duke else "0003_c1s1_000001_00")

    def check(given):
        reads(given)

    fuzz(examples, check, NAMES | NAMED)


# Lists.

REACHING = ["../../../etc/passwd", "/etc/passwd", "a\0b.jpg", "x" * 10**6, "..", "/", "~/x.jpg"]
REACHING += ["/dev/zero", "/dev/stdin", "\udcff.jpg", "http://x/y.jpg", "\x1b[2J\x1b]0;x\x07.jpg"]


@examples(60, 1_500)
def test_damaged_lists(tmp_path, examples):
    """A line of MSMT17's lists can only name images in its folder."""
    write_tree(tmp_path / "m", MSMT17)
    (tmp_path / "out.jpg").write_bytes(JPG)
    names = {name.partition("/")[2] for name in MSMT17}
    whole = MSMT17["list_query.txt"]
    lines = [f"{name} 0\n".encode(errors="surrogateescape") for name in REACHING]
    lines += [b"0000/../../../out.jpg 0\n", whole.replace(b" ", b" " + b"9" * 5000)]

    def reads(content):
        (tmp_path / "m" / "list_query.txt").write_bytes(content)
        found = survives(sources, "msmt17", tmp_path, folder=tmp_path)
        assert isinstance(found, str) or {photo.filename for _, photo, _ in found} <= names
        return not isinstance(found, str)

    fuzz_files(examples, reads, [whole], *(whole + line for line in lines))


@pytest.mark.parametrize("line", REACHING)
def test_lists_that_reach_out(tmp_path, line):
    """A user's own list may name any image; other files are neither read nor shown."""
    path = tmp_path / "list.txt"
    path.write_bytes(line.encode(errors="surrogateescape") + b"\n")
    found = survives(list_files, path)
    if isinstance(found, str):
        assert "nor a text file" in found
        return
    message = survives(lambda: decode(ImageFiles(found).encoded(0), (16, 8), found[0]))
    assert isinstance(message, str)
    assert "root:" not in message


@examples(60, 1_500)
def test_own_lists_of_any_bytes(tmp_path, examples):
    path = tmp_path / "list.txt"

    def reads(content):
        path.write_bytes(content)
        found = survives(list_files, path)
        if isinstance(found, list):
            for i in range(len(found)):
                survives(ImageFiles(found).encoded, i)
        return found

    whole = b"a.jpg\nb/c.png\n# no\n\xef\xbb\xbf../x.jpg\r\n"
    assert len(reads(whole)) == 3

    def check(content):
        reads(content)

    fuzz(examples, check, st.binary() | damaged([whole]))


def test_messages_are_one_line_of_bounded_length():
    error = UserError("a\nb\x1b[2J\udcff\u202e" + "x" * 10_000)
    assert str(error).startswith(r"a\nb\x1b[2J\udcff\u202exxx")
    assert 1000 < len(str(error)) < 2000
    assert str(UserError("'\u6c49\u5b57 \xe9'")) == "'\u6c49\u5b57 \xe9'"
