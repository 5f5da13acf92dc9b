"""Formats and suffixes of image files: those read, those counted, those of systems passed over."""

import cv2
import numpy as np
import pytest
from PIL import Image
from support.photos import PHOTO, PIXELS, encode
from support.tiny_datasets import write_tar, write_tree, write_zip

from batnet_jax.data import load_dataset
from batnet_jax.data.checks import check_image
from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.files.tree import IMAGE_SUFFIXES, is_hidden, open_tree
from batnet_jax.data.loading.loader import decode
from batnet_jax.data.loading.user_images import list_files
from batnet_jax.errors import UserError

EXACT = {
    "PPM": encode(PHOTO, "PPM"),
    "PPM, in words": b"P3 48 96 255 " + " ".join(map(str, PIXELS.ravel().tolist())).encode(),
    "PPM, 4 bits": b"P6\n48 96\n15\n" + (PIXELS >> 4).tobytes(),
    "PPM, 16 bits": b"P6\n48 96\n65535\n" + (PIXELS.astype(">u2") * 257).tobytes(),
    "JPEG 2000": encode(PHOTO, "JPEG2000"),
}


@pytest.mark.parametrize("kind", EXACT)
def test_formats_without_loss(kind):
    """Four bits have 16 levels, 17 apart."""
    wanted = (PIXELS >> 4) * 17 if kind == "PPM, 4 bits" else PIXELS
    check_image(EXACT[kind], "x")
    np.testing.assert_allclose(decode(EXACT[kind], PIXELS.shape[:2]).astype(int), wanted, atol=1)


def test_grey_of_ten_and_sixteen_bits_uses_its_range():
    grey = np.linspace(0, 1023, 96 * 48).reshape(96, 48)
    for most in (1023, 65535):
        levels = (grey * most / 1023).astype(">u2")
        found = read_picture(b"P5 48 96 %d\n" % most + levels.tobytes()).pixels
        np.testing.assert_allclose(found[..., 0], levels / most * 255, atol=1.01)


def test_formats_with_loss():
    wanted = PIXELS.astype(int)
    for form, most in (("AVIF", 6), ("GIF", 12)):  # mean difference; another picture has over 50
        found = decode(encode(PHOTO, form), PIXELS.shape[:2]).astype(int)
        assert np.abs(found - wanted).mean() < most, form


def test_the_first_picture_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "AVIF"):
        encoded = encode(frames[0], form, save_all=True, append_images=frames[1:])
        assert decode(encoded, (8, 8))[4, 4].argmax() == 0, form


@pytest.mark.parametrize("form", ["GIF", "AVIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_files_are_refused(form, share):
    encoded = encode(PHOTO, form)
    with pytest.raises(UserError, match="cut off, or no image"):
        read_picture(encoded[: int(share * len(encoded))])


def test_formats_that_are_not_read_are_named():
    for content, name in ((b"\xff\x0a" + bytes(99), "JPEG XL"), (b"8BPS", "PSD")):
        with pytest.raises(UserError, match=f"{name}, which is not read: convert it"):
            read_picture(content)


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_without_a_known_range_is_refused_with_the_reason(kind, channels):
    """0 to 1 or 0 to 255: a TIFF of 32 bits does not say."""
    if kind == np.uint32 or channels == 3:
        image = np.ones((8, 5, channels), np.float32 if kind != np.float64 else kind)
        encoded = cv2.imencode(".tiff", image)[1].tobytes()
    else:
        encoded = encode(Image.fromarray(np.ones((8, 5), np.float32).astype(kind)), "TIFF")
    with pytest.raises(UserError, match=r"a TIFF of (32|64) bits a sample, whose numbers have no"):
        read_picture(encoded)


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".JFIF", ".Gif"])
def test_every_suffix_is_listed(suffix, tmp_path):
    write_tree(tmp_path, {f"a/1{suffix}": b"x"})
    assert list_files(tmp_path) == [str(tmp_path / f"a/1{suffix}")]
    assert list_files(tmp_path / f"a/1{suffix}") == [str(tmp_path / f"a/1{suffix}")]


def test_files_left_out_are_counted_by_suffix(tmp_path, capsys):
    others = ["1.nef", "2.NEF", "3.nef", "4.cr2", "notes.txt", "plain"]
    write_tree(tmp_path, {name: b"x" for name in ("0.jpg", *others)})
    assert list_files(tmp_path) == [str(tmp_path / "0.jpg")]
    line = capsys.readouterr().err
    assert "6 files are left out, whose suffix is not an image's" in line
    assert "(3 .nef, 1 .cr2, 1 .txt, 1 without a suffix)" in line
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"holds no image .*6 files are left out.*3 \.nef"):
        list_files(tmp_path)


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, capsys):
    write_tree(tmp_path, {"0.jpg": b"x", ".DS_Store": b"x", "Thumbs.db": b"x"})
    list_files(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("packed", [False, True])
def test_preparing_reads_and_counts(packed, tmp_path, capsys):
    """Half of the people have photos that only Pillow reads, and each has a raw photo."""
    files = {}
    for person in range(8):
        form, suffix = ("GIF", "gif") if person % 2 else ("JPEG", "jfif")
        for number in range(3):
            turned = PHOTO.rotate(20 * person + number)
            files[f"p{person}/{number}.{suffix}"] = encode(turned, form)
        files[f"p{person}/3.nef"] = b"x"
        files[f"p{person}/@eaDir/0.{suffix}/SYNOPHOTO_THUMB_XL.jpg"] = encode(PHOTO, "JPEG")
    place = tmp_path / ("m.zip" if packed else "m")
    (write_zip if packed else write_tree)(place, files)
    data = load_dataset("folder", data_dir=tmp_path / "d", manual_dir=place)
    splits = (data.train, data.query, data.gallery)
    names = [name for split in splits for name in split.filenames]
    assert sorted(set(names)) == sorted(
        n for n in files if n.endswith(("gif", "jfif")) and "@" not in n
    )
    assert (
        "8 files are left out, whose suffix is not an image's (8 .nef)" in capsys.readouterr().err
    )


SYSTEM = [
    "@eaDir/a.jpg",
    "x/@eaDir/a.jpg/SYNOPHOTO_THUMB_B.jpg",
    "#recycle/a.jpg",
    "@Recycle/a.jpg",
]
SYSTEM += [".@__thumb/s100a.jpg", "@__thumb/a.jpg", "#snapshot/d/a.jpg", "$RECYCLE.BIN/S-1/a.jpg"]
SYSTEM += ["__MACOSX/a.jpg", "._a.jpg", ".Trash-1000/a.jpg", "lost+found/a.jpg", "@tmp/a.jpg"]
SYSTEM += ["System Volume Information/a.jpg", "@Recently-Snapshot/a.jpg", "SYNOFILE_THUMB_M.png"]


@pytest.mark.parametrize("name", SYSTEM)
def test_thumbnails_and_deleted_files_are_passed_over(name, tmp_path):
    assert is_hidden(name)
    files = {name: b"x", "people/a.jpg": b"x"}
    folder = write_tree(tmp_path / "m", files)
    write_tar(tmp_path / "m.tar", folder)
    for place in (folder, write_zip(tmp_path / "m.zip", files), tmp_path / "m.tar"):
        tree = open_tree(place)
        assert tree.images() == ["people/a.jpg"]
        assert not tree.left_out()


@pytest.mark.parametrize(
    "name", ["tmp/a.jpg", "recycle/a.jpg", "eaDir/a.jpg", "@anna/a.jpg", "#1/a.jpg"]
)
def test_names_of_people_are_not_passed_over(name):
    assert not is_hidden(name)


def test_an_image_without_a_suffix_is_known_by_its_content(tmp_path):
    path = tmp_path / "photo"
    for form in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"):
        path.write_bytes(encode(PHOTO, form))
        assert list_files(path) == [str(path)], form
