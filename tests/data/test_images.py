"""Unusual and damaged images, filenames and archives, and their outcomes.

| content of a folder or an archive | result |
|---|---|
| JPEG that is cut off, or lacks its end | error naming the file |
| JPEG with a small picture in its header, cut after that | error naming the file |
| PNG, BMP, WebP or TIFF that is cut off | error naming the file |
| no bytes; text, or a format that is not read, such as PSD | error naming the file |
| more than 10^8 pixels, 100 scans, 3*10^8 bytes | error naming the file and the numbers |
| pipe, device | error naming the file |
| JPEG or PNG with other bytes after its end | read; the bytes stay |
| progressive JPEG; BMP, WebP, TIFF, GIF, AVIF, JPEG 2000, PNM | read; of several, the first |
| a PNG named .jpg, or the like | read: the content counts, not the name |
| upper-case extension | read |
| other extension (.txt), or none | passed over; a line counts the files of each extension |
| hidden file; what systems make (`__MACOSX`, `@eaDir`, `Thumbs.db`) | passed over |
| grey, palette or 1-bit image | read; grey is repeated |
| transparency | laid on white, or as `data.alpha` says; a line counts the images |
| 16 bits a channel | the upper 8 are read |
| TIFF of 32 bits a sample | error naming the file |
| CMYK JPEG | converted as Pillow does |
| EXIF orientation of a JPEG | applied (the stored bytes stay as they are) |
| 1 x 1 or 1 x 500 pixels | read, and stretched to the configured size |
| the same bytes in train and in query or gallery | warning with an example |
| the same bytes under two identities | warning with an example |
| the same bytes in query and gallery | warning with an example |
| the same bytes twice in a split | warning with an example |
| a file listed twice in MSMT17's lists | error naming list and line |
| name without pid and camera | error naming the file |
| name in Unicode, with spaces or a line break | read |
| name that is not UTF-8 | error naming the file |
| symbolic link to a file or a folder | followed; one that leads back up is passed over |
| symbolic link that leads nowhere, file without permission | error naming the file |
| archive with `../` or absolute members | read inside the archive; nothing is written outside |
| archive with Windows's `\\` in its names | error: the data set is not found |
| two members of one name | the last one is read, as after unpacking |
| encrypted .zip, damaged .zip | error naming the member |
| .tar with links | error saying how to pack it |
| .tar.gz and its like | error: unpack it |
| one of these named .tar | error: it cannot be read |
| archive within an archive | error: the data set is not found |
| a missing folder or list | error naming it |
| sizes other than the published ones | warning with both numbers |
| killed while preparing | the next run starts again |
"""

import cv2
import numpy as np
import pytest
from PIL import Image
from support.photos import (
    EXIF_THUMBNAIL,
    JPEG,
    PHOTO,
    PIXELS,
    PNG_PHOTO,
    PROGRESSIVE,
    WHOLE,
    WITH_THUMBNAIL,
    encode,
    oriented,
    pillow,
    png,
    with_segment,
)
from support.tiny_datasets import fails, market_with, write_tree

from batnet_jax.data import load_dataset
from batnet_jax.data.checks import check_image
from batnet_jax.data.loading.loader import decode
from batnet_jax.errors import UserError

# --- images that are read -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_images_are_decoded_as_by_pillow(kind):
    expected = pillow(WHOLE[kind])
    check_image(WHOLE[kind], "x")
    found = decode(WHOLE[kind], expected.shape[:2], alpha="drop")
    # Here the images are equal, because both libraries use libjpeg-turbo. Other versions round in
    # the inverse transform, upsampling and colour conversion, each by a grey level or two.
    np.testing.assert_allclose(found.astype(int), expected, atol=4)


@pytest.mark.parametrize("way", range(1, 9))
def test_orientations(way):
    """Transforms by hand, from the meaning of row 0 and column 0 in EXIF 2.3."""
    turn = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[:, ::-1],
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p.swapaxes(0, 1)[::-1],
    }[way]
    encoded = oriented("JPEG", way, quality=95)
    expected = turn(PIXELS.astype(int))
    found = decode(encoded, expected.shape[:2]).astype(int)
    assert (
        np.abs(found - expected).mean() < 6
    )  # the loss of quality 95; a wrong transform has more than 30


@pytest.mark.parametrize("colour", [False, True])
def test_sixteen_bits_lose_the_lower_ones(colour):
    """Pillow is not the reference, because it clips 16-bit grey at 255."""
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (9, 7, 3)[: 3 if colour else 2])
    encoded = cv2.imencode(".png", pixels.astype(np.uint16))[1].tobytes()
    found = decode(encoded, (9, 7))[..., ::-1]
    upper = pixels >> 8 if colour else (pixels >> 8)[..., None].repeat(3, -1)
    # Some versions round instead.
    np.testing.assert_allclose(found.astype(int), upper, atol=1)


@pytest.mark.parametrize("kind", ["Adobe", "no marker", "YCCK"])
def test_cmyk(kind):
    """Adobe stores inverted ink; YCCK is CMY in the YCbCr colours of JPEG."""
    encoded = encode(PHOTO.convert("CMYK"), "JPEG", quality=95, subsampling="4:4:4")
    expected = PIXELS.astype(int)
    start = encoded.index(b"\xff\xee\x00\x0eAdobe")
    if kind == "no marker":
        encoded = encoded[:start] + encoded[start + 16 :]
    if kind == "YCCK":
        ycc = 255 - np.asarray(PHOTO.convert("YCbCr"))
        inks = np.dstack([ycc, np.zeros_like(ycc[..., 0])])
        image = Image.frombytes("CMYK", PHOTO.size, inks.tobytes())
        encoded = bytearray(encode(image, "JPEG", quality=95, subsampling="4:4:4"))
        encoded[encoded.index(b"Adobe") + 11] = 2
        encoded = bytes(encoded)
        expected = 255 - expected
    found = decode(encoded, PIXELS.shape[:2]).astype(int)
    # (255 - C)(255 - K) / 255 rounds in other places.
    np.testing.assert_allclose(found, pillow(encoded), atol=3)
    if kind != "YCCK":
        assert np.abs(found - expected).mean() < 6  # an inverted picture differs by 100


def test_stored_as_they_are_and_read_by_content(tmp_path):
    """The builder keeps the files' bytes, with the orientation."""
    suffixes = (".jpg", ".JPG", ".jpeg", ".PNG", ".png", ".Bmp", ".webp", ".TIF", ".tiff")
    files = {
        f"{number:04}_c1s1_0{suffixes[number % len(suffixes)]}": WHOLE[kind]
        for number, kind in enumerate(WHOLE, 2)
    }
    write_tree(tmp_path / "m", market_with(files))
    query = load_dataset("market1501", data_dir=tmp_path / "d", manual_dir=tmp_path / "m").query
    assert query.filenames == ["0001_c2s1_0.jpg", *files]
    for row, (name, content) in enumerate(files.items(), 1):
        assert query.encoded(row) == content
        shape = pillow(content).shape[:2]
        np.testing.assert_allclose(
            decode(query.encoded(row), shape, name, alpha="drop").astype(int),
            pillow(content),
            atol=4,
        )


def test_files_without_an_image_suffix_are_skipped(tmp_path):
    other = (
        "1_c1s1.psd",
        "Thumbs.db",
        "@eaDir/1_c1s1.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".DS_Store",
        "._0001_c1s1_0.jpg",
        ".hidden/1_c1s1.jpg",
    )
    files = {name: b"\0" for name in other} | {"__MACOSX/0001_c1s1_0.jpg": b"\0"}
    write_tree(tmp_path / "m", market_with(files))
    query = load_dataset("market1501", data_dir=tmp_path / "d", manual_dir=tmp_path / "m").query
    assert query.filenames == ["0001_c2s1_0.jpg"]


# --- images that are refused ----------------------------------------------------------------------


def part(encoded, share):
    return encoded[: int(len(encoded) * share)]


BROKEN = {
    "empty": b"",
    "text": b"this is no image\n",
    "web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "PSD": b"8BPS" + bytes(200),
    "start of a JPEG": JPEG[:2],
    "JPEG, within the header": JPEG[:200],
    "JPEG, no end": JPEG[:-2],
    "JPEG, half of its end": JPEG[:-1],
    "thumbnail whole, header cut": WITH_THUMBNAIL[: len(EXIF_THUMBNAIL) + 100],
    "thumbnail whole, scan cut": WITH_THUMBNAIL[:-300],
    "comment with an end, cut": with_segment(JPEG, 0xFE, b"\xff\xda\xff\xd9")[:-300],
    "PNG, start": PNG_PHOTO[:8],
    "PNG, no end": PNG_PHOTO[:-12],
    "PNG, damaged": PNG_PHOTO[:3000] + b"\0" * 50 + PNG_PHOTO[3050:],
    "too many pixels": png(40_000, 40_000, b"\0"),
    "no pixels": png(0, 5, b"\0"),
    "BMP": part(encode(PHOTO, "BMP"), 0.5),
    "WebP": part(encode(PHOTO, "WEBP"), 0.5),
    "TIFF": part(encode(PHOTO, "TIFF"), 0.5),
}
BROKEN |= {f"JPEG, {share}": part(JPEG, share) for share in (0.25, 0.5, 0.9)}
BROKEN |= {f"progressive, {share}": part(PROGRESSIVE, share) for share in (0.25, 0.5, 0.9)}
BROKEN |= {f"PNG, {share}": part(PNG_PHOTO, share) for share in (0.25, 0.5, 0.9)}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_are_named(kind, tmp_path):
    write_tree(tmp_path / "m", market_with({"0007_c1s1_0.jpg": BROKEN[kind]}))
    what = "is empty" if kind == "empty" else "cannot be decoded"
    message = rf"'0007_c1s1_0\.jpg' {what}.*: restore or remove it, then run again"
    fails(message, "market1501", tmp_path, manual_dir=tmp_path / "m")


@pytest.mark.parametrize("whole", [JPEG, PROGRESSIVE, WITH_THUMBNAIL, PNG_PHOTO])
def test_a_cut_is_noticed_wherever_it_is_even_if_opencv_fills_the_rest(whole, monkeypatch):
    """OpenCV up to 4.x gave a cut JPEG a grey rest; the versions after return nothing."""
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((1, 1, 3), np.uint8))
    check_image(whole, "x")
    for length in range(1, len(whole)):
        if length > 8:  # what starts like neither is left to OpenCV
            with pytest.raises(UserError, match="'x' cannot be decoded"):
                check_image(whole[:length], "x")
