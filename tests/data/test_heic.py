"""HEIC, the photos of many phones: read with the package pillow-heif, else counted and named."""

import numpy as np
import pytest
from PIL import Image
from support import needs
from support.photos import ORIENTATION, PHOTO, encode
from support.tiny_datasets import write_tree

from batnet_jax.data.checks import check_image
from batnet_jax.data.files import heic
from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.loading.user_images import list_files
from batnet_jax.errors import UserError

HEADER = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
NAMES = ("a/1.heic", "a/2.HEIC", "a/3.heif", "b/4.hif")


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(heic, "reads_heic", lambda: False)


def test_without_the_package_files_are_counted_with_what_reads_them(without, tmp_path, capsys):
    write_tree(tmp_path, dict.fromkeys(("0.jpg", *NAMES), b"x"))
    assert list_files(tmp_path) == [str(tmp_path / "0.jpg")]
    text = capsys.readouterr().err
    assert "4 files are left out" in text
    assert "pip install 'batnet-jax[heic]' reads HEIC" in text


def test_without_the_package_a_file_of_another_name_is_refused(without):
    message = r"HEIC, which is not read: pip install 'batnet-jax\[heic\]', or convert it"
    with pytest.raises(UserError, match=message):
        read_picture(HEADER + bytes(200))


def test_with_the_package_files_are_listed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(heic, "reads_heic", lambda: True)
    write_tree(tmp_path, dict.fromkeys(NAMES, b"x"))
    assert list_files(tmp_path) == [str(tmp_path / name) for name in NAMES]
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def coded():
    """Return photos in HEIC by their EXIF orientation."""
    needs.package("pillow_heif")
    heic.register()
    photos = {}
    for turn in (1, 6):
        exif = Image.Exif()
        exif[ORIENTATION] = turn
        photos[turn] = encode(PHOTO, "HEIF", quality=95, exif=exif.tobytes())
    return photos


@pytest.mark.parametrize("turn", [1, 6])
def test_photos_are_read_upright(coded, turn):
    check_image(coded[turn], "x")
    wanted = np.asarray(PHOTO.rotate(-90, expand=True) if turn == 6 else PHOTO).astype(int)
    found = read_picture(coded[turn]).pixels.astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 8  # another picture has over 50


def test_transparency_of_heic_is_laid_on_white(coded):
    photo = PHOTO.copy()
    photo.putalpha(Image.new("L", PHOTO.size, 0))
    picture = read_picture(encode(photo, "HEIF"))
    assert picture.transparent
    assert picture.pixels.min() >= 250  # lossy


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_heic_is_refused(coded, share):
    whole = coded[1]
    with pytest.raises(UserError, match="cut off, or no image"):
        read_picture(whole[: int(share * len(whole))])


def test_too_many_pixels_are_refused_before_they_are_decoded(coded, monkeypatch):
    monkeypatch.setattr("batnet_jax.data.files.image_headers.MAX_PIXELS", 1000)
    with pytest.raises(UserError, match="48 x 96 pixels, of which at most 1,000 are read"):
        read_picture(coded[1])
