"""Transparency is laid on one colour, the same by every reader, and counted."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from support.photos import encode, oriented

from batnet_jax.data import load_dataset
from batnet_jax.data.files.pixels import ALPHA, GROUNDS, from_pillow, read_picture
from batnet_jax.data.loading import loader
from batnet_jax.data.loading.loader import ImageStore, decode
from batnet_jax.data.loading.user_arrays import ArrayStore, to_picture
from batnet_jax.data.loading.user_images import ImageFiles

RNG = np.random.default_rng(3)
COLOURS = RNG.integers(0, 256, (6, 4, 3)).astype(np.uint8)
OPACITY = np.resize([0, 1, 100, 128, 254, 255], (6, 4)).astype(np.uint8)
RGBA = np.dstack([COLOURS, OPACITY])


@pytest.fixture(autouse=True)
def unsaid():
    loader._say_once.cache_clear()


def laid(rgba, ground):
    """Mix each pixel with a colour by the textbook, in float64."""
    colours, share = rgba[..., :3].astype(np.float64), rgba[..., 3:] / 255
    return colours * share + ground * (1 - share)


def cv_png(image):
    order = [2, 1, 0, 3] if image.shape[-1] == 4 else [2, 1, 0]
    return cv2.imencode(".png", image[..., order])[1].tobytes()


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def bmp(rgba):
    """A BMP of 32 bits with a header of version 4, which names the opacity's bits."""
    height, width = rgba.shape[:2]
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, width, -height, 1, 32, 3, 0, 0, 0, 0, 0)
    body = rgba[..., [2, 1, 0, 3]].tobytes()
    start = 14 + 108
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(body), 0, 0, start)
        + head
        + masks
        + bytes(52)
        + body
    )


FILES = {
    "PNG": cv_png(RGBA),
    "PNG, 16 bits": cv_png(RGBA.astype(np.uint16) * 257),
    "WebP": encode(Image.fromarray(RGBA), "WEBP", lossless=True, exact=True),
    "WebP with EXIF": encode(
        Image.fromarray(RGBA),
        "WEBP",
        lossless=True,
        exact=True,
        exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0",
    ),
    "TIFF": encode(Image.fromarray(RGBA), "TIFF"),
    "TIFF, packed": encode(Image.fromarray(RGBA), "TIFF", compression="tiff_lzw"),
    "BMP": bmp(RGBA),
    "JPEG 2000": encode(Image.fromarray(np.resize(RGBA, (32, 32, 4))), "JPEG2000"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_files_are_laid_on_a_colour(kind, ground):
    rgba = np.resize(RGBA, (32, 32, 4)) if kind == "JPEG 2000" else RGBA
    picture = read_picture(FILES[kind], ground)
    assert picture.transparent
    assert picture.pixels.dtype == np.uint8
    # Rounding, once.
    np.testing.assert_allclose(picture.pixels, laid(rgba, GROUNDS[ground]), atol=0.501)


@pytest.mark.parametrize("kind", FILES)
def test_dropping_shows_the_hidden_colours(kind):
    """As before the setting, when OpenCV read all: it lays a TIFF on black."""
    rgba = np.resize(RGBA, (32, 32, 4)) if kind == "JPEG 2000" else RGBA
    picture = read_picture(FILES[kind], "drop")
    assert picture.transparent
    wanted = laid(rgba, 0) if kind.startswith("TIFF") else rgba[..., :3]
    np.testing.assert_allclose(picture.pixels.astype(int), wanted, atol=1)  # of rounding 16 bits


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette(form):
    indices = np.array([[0, 1], [1, 2]], np.uint8)
    image = Image.fromarray(indices, "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture = read_picture(encode(image, form, transparency=0))
    assert picture.transparent
    wanted = [[[255] * 3, [40, 50, 60]], [[40, 50, 60], [70, 80, 90]]]
    np.testing.assert_array_equal(picture.pixels, wanted)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_grey_level(bits):
    kind, key = (np.uint8, 7) if bits == 8 else (">u2", 7 * 257)
    grey = np.array([[key, key * 5]], kind)
    data = zlib.compress(b"\0" + grey.tobytes())
    head = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", struct.pack(">H", key)), (b"IDAT", data), (b"IEND", b"")]
    encoded = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    picture = read_picture(encoded)
    assert picture.transparent
    np.testing.assert_array_equal(picture.pixels, [[[255] * 3, [35] * 3]])


def test_grey_with_opacity():
    image = Image.fromarray(np.dstack([COLOURS[..., 0], OPACITY]), "LA")
    wanted = laid(np.dstack([COLOURS[..., :1]] * 3 + [OPACITY]), 255)
    for picture in (read_picture(encode(image, "PNG")), from_pillow(image)):
        np.testing.assert_allclose(picture.pixels, wanted, atol=0.501)


def test_an_opaque_image_with_a_fourth_channel_is_not_counted_and_not_changed():
    opaque = np.dstack([COLOURS, np.full_like(OPACITY, 255)])
    for alpha in ALPHA:
        for picture in (
            read_picture(cv_png(opaque), alpha),
            to_picture(opaque, "x", alpha=alpha),
            from_pillow(Image.fromarray(opaque), alpha),
        ):
            np.testing.assert_array_equal(picture.pixels, COLOURS)
        assert not to_picture(opaque, "x", alpha=alpha).transparent


def test_a_transparent_image_is_turned_upright():
    found = read_picture(oriented("PNG", 6, Image.fromarray(RGBA))).pixels
    np.testing.assert_allclose(found, np.rot90(laid(RGBA, 255), -1), atol=0.501)


def test_all_readers_agree(tmp_path, capsys):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["PNG"])
    for alpha in ALPHA:
        with ImageStore(ImageFiles([str(path)]), image_size=(6, 4), alpha=alpha) as store:
            wanted = store.batch(np.array([0]))[0]
        stores = [RGBA, Image.fromarray(RGBA), RGBA.astype(np.uint16) * 257]
        for image in stores:
            store = ArrayStore([image], (6, 4), alpha=alpha)
            np.testing.assert_array_equal(store.batch(np.array([0]))[0], wanted)
        bgra = ArrayStore([RGBA[..., [2, 1, 0, 3]]], (6, 4), alpha=alpha, channels="bgr")
        np.testing.assert_array_equal(bgra.batch(np.array([0]))[0], wanted)
        np.testing.assert_array_equal(decode(FILES["PNG"], (6, 4), alpha=alpha), wanted)
    assert "note: the image has transparency: laid on white" in capsys.readouterr().err


def test_images_are_counted_once_each_and_said_once(tmp_path, capsys):
    for number in range(5):
        rgb = number < 2
        (tmp_path / f"{number}.png").write_bytes(cv_png(COLOURS if rgb else RGBA))
    paths = sorted(map(str, tmp_path.iterdir()))
    for _ in range(2):
        with ImageStore(ImageFiles(paths), image_size=(6, 4)) as store:
            store.batch(np.array([0, 1, 2, 3, 4, 4, 4]))
    assert capsys.readouterr().err == "note: 3 of 5 images have transparency: laid on white\n"


def test_each_treatment_has_its_cache_on_the_disk(tmp_path):
    class One:
        filenames = ("a",)

        def __len__(self):
            return 1

        def encoded(self, i):
            return FILES["PNG"]

    found = {}
    for alpha in (*ALPHA, *ALPHA):
        options = {"cache_gb": 0.0, "disk_cache": tmp_path, "disk_cache_gb": 1.0}
        with ImageStore(One(), image_size=(6, 4), alpha=alpha, **options) as store:
            image = store.batch(np.array([0]))[0]
        np.testing.assert_array_equal(image, found.setdefault(alpha, image))
    assert len({image.tobytes() for image in found.values()}) == len(ALPHA)


def test_preparing_says_how_many(tmp_path, capsys):
    for person in range(8):
        for number in range(4):
            image = COLOURS + np.uint8(person * 4 + number)
            opacity = OPACITY if number else np.full_like(OPACITY, 255)
            path = tmp_path / "m" / f"p{person}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv_png(np.dstack([image, opacity])))
    load_dataset("folder", data_dir=tmp_path / "d", manual_dir=tmp_path / "m")
    line = "24 of 32 images have transparency: laid on white, unless data.alpha says otherwise"
    assert line in capsys.readouterr().err


def test_a_file_is_read_as_pillow_shows_it():
    """Pillow's own composition, of a photo-like picture."""
    y, x = np.mgrid[:40, :30]
    rgba = np.stack([x * 8, y * 6, x + y, (x * y) % 256], -1).astype(np.uint8)
    image = Image.fromarray(rgba)
    white = Image.new("RGBA", image.size, "white")
    wanted = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(int)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    np.testing.assert_allclose(read_picture(buffer.getvalue()).pixels, wanted, atol=1)
