"""Lists of paths: what ends a line, what a name may hold, what is no list, and their memory."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.photos import PHOTO, encode

from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.loading.name_list import NameList, read_names
from batnet_jax.data.loading.user_arrays import paths_or_arrays
from batnet_jax.data.loading.user_images import ImageFiles, list_files
from batnet_jax.errors import UserError


def read(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    return [name.removeprefix(f"{tmp_path}/") for name in list_files(path)]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r"])
def test_only_a_newline_ends_a_line(mark, tmp_path):
    name = f"a{mark}b.jpg"
    assert read(tmp_path, f"{name}\nc.jpg\n".encode()) == [name, "c.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks(encoding, tmp_path):
    text = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    assert read(tmp_path, f"{text}ä.jpg\r\n猫.png\r\n".encode(encoding)) == ["ä.jpg", "猫.png"]


def test_a_mark_before_a_comment(tmp_path):
    assert read(tmp_path, "\ufeff# mine\na.jpg\n".encode()) == ["a.jpg"]


def test_comments_blank_lines_and_spaces(tmp_path):
    text = b"# mine\n\n \t \r\n  a b.jpg \t\r\n#c.jpg\nd.jpg"
    assert read(tmp_path, text) == ["a b.jpg", "d.jpg"]


def test_a_file_that_begins_with_a_number_sign(tmp_path):
    (tmp_path / "#1.jpg").write_bytes(b"x")
    assert read(tmp_path, b"#1.jpg\n#2.jpg\n./#2.jpg\n# 1.jpg\n") == ["#1.jpg", "./#2.jpg"]


def test_absolute_paths_and_names_that_are_not_utf8(tmp_path):
    assert read(tmp_path, b"/x/a.jpg\n\xff\xfe.jpg\n") == ["/x/a.jpg", "\udcff\udcfe.jpg"]
    folder = os.fsencode(tmp_path)
    content = encode(PHOTO, "PNG")
    with open(folder + b"/\xe4.png", "wb") as file:
        file.write(content)
    (tmp_path / "list.txt").write_bytes(b"\xe4.png\n")
    names = list_files(tmp_path / "list.txt")
    with ImageStore(ImageFiles(names), image_size=(8, 4)) as store:
        assert store.batch(np.array([0])).shape == (1, 8, 4, 3)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# a\n", b"\xef\xbb\xbf", b" \r\n"])
def test_lists_of_nothing(content, tmp_path):
    with pytest.raises(UserError, match="lists no image"):
        read(tmp_path, content)


@pytest.mark.parametrize("content", [b"a\0b\n", bytes(100), b"\xff\xfea", b"PK\x03\x04\0\0"])
def test_files_that_are_no_text(content, tmp_path):
    with pytest.raises(UserError, match="neither an image of a known format nor a text file"):
        read(tmp_path, content)


LINE = st.text(st.characters(blacklist_characters="\n\0", codec="utf-8"), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINE), st.booleans())
def test_every_line_is_found(lines, last):
    """Against the obvious way; no file of these names exists."""
    text = "\n".join(lines) + ("\n" if last else "")
    stripped = [line.strip(" \t\r") for line in text.encode().decode().split("\n")]
    wanted = [f"/nowhere/{line}" for line in stripped if line and not line.startswith("#")]
    wanted = [line if not line[9:].startswith("/") else line[9:] for line in wanted]
    found = NameList(text.encode(), Path("/nowhere"))
    assert list(found) == wanted
    assert found == wanted
    assert found[1:] == wanted[1:]
    if wanted:
        assert found[-1] == wanted[-1]


def test_a_large_list_takes_little_memory(tmp_path):
    """30 MB: the bytes, and 16 bytes a line."""
    path = tmp_path / "list.txt"
    path.write_bytes(b"".join(b"folder/sub/%09d_c1_x.jpg\n" % i for i in range(1_000_000)))
    tracemalloc.start()
    try:
        names = read_names(path)
        files = ImageFiles(names)
        paths, _ = paths_or_arrays(names)
        assert len(files) == len(paths or ()) == 1_000_000
        assert files.filenames[999_999] == f"{tmp_path}/folder/sub/000999999_c1_x.jpg"
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 60e6
    assert peak < 150e6
