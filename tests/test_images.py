"""Images, names and archives that are not as they should be: what comes of each.

| what a folder or an archive holds | what becomes of it |
|---|---|
| JPEG that is cut off, or lacks its end | error naming the file |
| JPEG with a small picture in its header, cut after that | error naming the file |
| PNG, BMP, WebP or TIFF that is cut off | error naming the file |
| no bytes; text or HEIC named as an image; more than 2^30 pixels | error naming the file |
| JPEG or PNG with other bytes after its end | read; the bytes stay |
| progressive JPEG; BMP, WebP, TIFF | read |
| a PNG named .jpg, or the like | read: the content counts, not the name |
| upper-case extension | read |
| other extension (.gif, .txt, .db), hidden file, macOS's `._` files and `__MACOSX` | passed over |
| grey, palette or 1-bit image | read; grey is repeated |
| transparency | dropped: the colours below it are read |
| 16 bits a channel | the upper 8 are read |
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
| .tar.gz and its like, also one named .tar; archive within an archive | error: unpack it |
| a missing folder or list | error naming it |
| sizes other than the published ones | warning with both numbers |
| killed while preparing | the next run starts anew |
"""

import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from test_data import MSMT17, contents
from trees import JPG, PNG, fails, jpg, write_tree, write_zip

from batnet_jax.data import load_dataset
from batnet_jax.data.checks import Copies, Count, check_image, count, differences
from batnet_jax.data.loader import decode
from batnet_jax.errors import UserError

REPOSITORY = Path(__file__).parents[1]
ORIENTATION = 0x112  # EXIF's tag


def photo(height=96, width=48):
    """A smooth colourful picture with some noise, so that its JPEG has many bytes of scan."""
    y, x = np.mgrid[:height, :width]
    colours = [255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), (3 * x + 2 * y) % 256]
    noise = np.random.default_rng(0).normal(0, 20, (height, width, 3))
    noisy = (np.stack(colours, -1) + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noisy, (0, 0), 1))


PHOTO = photo()
PIXELS = np.asarray(PHOTO)


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def oriented(form, orientation, image=PHOTO, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, form, exif=exif, **options)


def pillow(encoded):
    """[h, w, 3] uint8: the other decoder's opinion."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def with_segment(jpeg, marker, content):
    """Puts a segment at the beginning of a JPEG's header."""
    return (
        jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]
    )


def png(width, height, data):
    """A PNG of 1 bit a pixel; `data` may be less than it needs."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


JPEG = encode(PHOTO, "JPEG", quality=90)
PROGRESSIVE = encode(PHOTO, "JPEG", quality=90, progressive=True)
PNG_PHOTO = encode(PHOTO, "PNG")
THUMBNAIL = encode(PHOTO.resize((12, 24)), "JPEG")
EXIF_THUMBNAIL = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + THUMBNAIL
WITH_THUMBNAIL = with_segment(JPEG, 0xE1, EXIF_THUMBNAIL)
ALPHA = np.tile(np.arange(48, dtype=np.uint8) * 5, (96, 1))

# --- images that are read -------------------------------------------------------------------------

WHOLE = (
    {
        "baseline": JPEG,
        "progressive": PROGRESSIVE,
        "subsampled": encode(PHOTO, "JPEG", subsampling="4:2:0"),
        "restart markers": encode(PHOTO, "JPEG", restart_marker_blocks=2),
        "trailing bytes": JPEG + b"trailing bytes",
        "trailing scan": JPEG
        + b"\xff\xda and no end",  # a phone's film after its photo has such bytes
        "trailing part of a JPEG": JPEG + JPEG[:900],
        "thumbnail": WITH_THUMBNAIL,
        "markers in a comment": with_segment(JPEG, 0xFE, b"\xff\xd9\xff\xda\xff\xd8"),
        "fill bytes": JPEG[:2] + b"\xff\xff\xff" + JPEG[2:],
        "grey JPEG": encode(PHOTO.convert("L"), "JPEG"),
        "PNG": PNG_PHOTO,
        "PNG, trailing bytes": PNG_PHOTO + bytes(70_000),
        "interlaced bits": encode(PHOTO.convert("1"), "PNG"),
        "grey": encode(PHOTO.convert("L"), "PNG"),
        "grey and alpha": encode(PHOTO.convert("LA"), "PNG"),
        "palette": encode(PHOTO.convert("P"), "PNG"),
        "palette, transparent": encode(PHOTO.convert("P"), "PNG", transparency=3),
        "alpha": encode(Image.fromarray(np.dstack([PIXELS, ALPHA])), "PNG"),
        "BMP": encode(PHOTO, "BMP"),
        "WebP": encode(PHOTO, "WEBP"),
        "lossless WebP": encode(PHOTO, "WEBP", lossless=True),
        "TIFF": encode(PHOTO, "TIFF"),
        "LZW TIFF": encode(PHOTO, "TIFF", compression="tiff_lzw"),
        "1 x 1": encode(photo(1, 1), "JPEG"),
        "1 x 500": encode(photo(1, 500), "JPEG"),
        "500 x 1": encode(photo(500, 1), "PNG"),
    }
    | {f"orientation {way}": oriented("JPEG", way) for way in range(1, 9)}
)


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_images_are_decoded_as_by_pillow(kind):
    expected = pillow(WHOLE[kind])
    check_image(WHOLE[kind], "x")
    found = decode(WHOLE[kind], expected.shape[:2])
    # Equal here: both use libjpeg-turbo. Other versions' inverse transforms, upsampling and colour
    # conversion round otherwise, each by a grey level or two.
    np.testing.assert_allclose(found.astype(int), expected, atol=4)


@pytest.mark.parametrize("way", range(1, 9))
def test_orientations(way):
    """By hand: what the tag says of row 0 and column 0, as EXIF 2.3 defines it."""
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
    assert np.abs(found - expected).mean() < 6  # quality 95's loss; another turn has more than 30


@pytest.mark.parametrize("colour", [False, True])
def test_sixteen_bits_lose_the_lower_ones(colour):
    """Pillow is no oracle here: it clips 16-bit grey at 255."""
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (9, 7, 3)[: 3 if colour else 2])
    encoded = cv2.imencode(".png", pixels.astype(np.uint16))[1].tobytes()
    found = decode(encoded, (9, 7))[..., ::-1]
    upper = pixels >> 8 if colour else (pixels >> 8)[..., None].repeat(3, -1)
    # Some versions round instead.
    np.testing.assert_allclose(found.astype(int), upper, atol=1)


@pytest.mark.parametrize("kind", ["Adobe", "no marker", "YCCK"])
def test_cmyk(kind):
    """Adobe stores ink inverted; YCCK is CMY in JPEG's own colours."""
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
        assert np.abs(found - expected).mean() < 6  # an inverted picture is 100 off


def market_with(files):
    """MARKET with other images, each of which the three splits have one of."""
    folders = ("bounding_box_train", "query", "bounding_box_test")
    tree = {f"{folder}/0001_c{k}s1_0.jpg": jpg(k) for k, folder in enumerate(folders, 1)}
    return tree | {f"query/{name}": content for name, content in files.items()}


def test_stored_as_they_are_and_read_by_content(tmp_path):
    """Orientation and all: the builder keeps the files' bytes."""
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
            decode(query.encoded(row), shape, name).astype(int), pillow(content), atol=4
        )


def test_what_is_no_image_by_its_name_is_passed_over(tmp_path):
    other = ("1_c1s1.gif", "Thumbs.db", ".DS_Store", "._0001_c1s1_0.jpg", ".hidden/1_c1s1.jpg")
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
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
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


# --- copies and counts ----------------------------------------------------------------------------


def complaints(camera=-1, **splits):
    """Of splits [(content, pid), ...]; the files are named by their places."""
    copies = Copies()
    for split, images in splits.items():
        for content, _ in images:
            copies.add(split, content)
    names = {split: [f"{k}.jpg" for k in range(len(images))] for split, images in splits.items()}
    pids = {split: np.array([pid for _, pid in images]) for split, images in splits.items()}
    cameras = {split: np.full(len(images), camera) for split, images in splits.items()}
    return copies.complaints(names, pids, cameras)


def test_no_copies():
    found = complaints(
        train=[(b"a", 1), (b"b", 1)],
        query=[(b"c", 1), (b"d", 2)],
        gallery=[(b"e", 1), (b"f", 2)],
        val=[(b"a", 1)],  # val, multi_query and distractors repeat images on purpose
        multi_query=[(b"c", 1)],
    )
    assert found == []
    assert complaints(train=[(b"a", 1)], query=[], gallery=[(b"b", 1)]) == []


def test_kinds_of_copies():
    a, b, c = b"a", b"b", b"c"
    rest = {"query": [(b"q", 5)], "gallery": [(b"g", 5)]}
    assert complaints(train=[(b, 1), (a, 1), (a, 1)], **rest) == [
        "1 images are in one split twice, 'train/1.jpg' and 'train/2.jpg' for one"
    ]
    assert complaints(train=[(a, 1), (b, 1), (a, 2)], **rest) == [
        "1 images bear another identity in a second file, 'train/0.jpg' and 'train/2.jpg' for one"
    ]
    assert complaints(train=[(a, 1)], query=[(b, 1)], gallery=[(c, 2), (b, 3)]) == [
        "1 images bear another identity in a second file, 'query/0.jpg' and 'gallery/1.jpg' for one"
    ]
    assert complaints(train=[(a, 1)], query=[(b, 1)], gallery=[(c, 2), (b, 1)]) == [
        "1 images in query are also in gallery: each would find itself, 'query/0.jpg' and "
        "'gallery/1.jpg' for one"
    ]
    # From the same camera it is removed before ranking; CUHK03's classic splits are so.
    assert complaints(train=[(a, 1)], query=[(b, 1)], gallery=[(b, 1)], camera=2) == []
    # Pids of training and test may be other people's: MSMT17 counts anew.
    (line,) = complaints(
        train=[(c, 1), (a, 1), (b, 2)], query=[(a, 7)], gallery=[(b"d", 7), (b, 2)]
    )
    what, examples = line.split(", ")
    assert what == "2 images in train are also in query or gallery: results would flatter"
    assert examples in (
        "'train/1.jpg' and 'query/0.jpg' for one",
        "'train/2.jpg' and 'gallery/1.jpg' for one",
    )
    everywhere = complaints(train=[(a, 1)], query=[(a, 1)], gallery=[(a, 1), (a, 2)])
    assert [line.split(",")[0].split(":")[0] for line in everywhere] == [
        "1 images in train are also in query or gallery",
        "1 images bear another identity in a second file",
        "1 images in query are also in gallery",
    ]


def test_copies_are_said_while_preparing(tmp_path, capfd):
    files = market_with({}) | {
        "bounding_box_train/0003_c1s1_0.jpg": jpg(8),
        "bounding_box_train/0003_c1s1_1.jpg": jpg(8),
        "bounding_box_train/0003_c1s1_2.jpg": jpg(9),
        "bounding_box_test/0001_c1s1_5.jpg": jpg(9),
    }
    write_tree(tmp_path / "m", files)
    load_dataset("market1501", data_dir=tmp_path / "d", manual_dir=tmp_path / "m")
    said = [line for line in capfd.readouterr().err.splitlines() if "for one" in line]
    assert said == [
        "warning: Market-1501: 1 images in train are also in query or gallery: results would "
        "flatter, 'train/0003_c1s1_2.jpg' and 'gallery/0001_c1s1_5.jpg' for one",
        "warning: Market-1501: 1 images are in one split twice, 'train/0003_c1s1_0.jpg' and "
        "'train/0003_c1s1_1.jpg' for one",
    ]


def test_count():
    pids, cameras = np.array([0, 0, 4, 4, 9]), np.array([1, 2, 2, 2, 7])
    assert count(pids, cameras, distractor=0, junk=3) == Count(5, 2, 3, 2, 3)
    assert count(pids, cameras, distractor=None, junk=0) == Count(5, 3, 3, 0, 0)
    assert count(pids, np.full(5, -1), distractor=None, junk=0) == Count(5, 3, 0, 0, 0)


def test_differences_from_what_was_published():
    published = {"train": Count(12_936, 751, 6), "query": Count(3_368, 750, 6)}
    assert differences(published, published) == []
    assert differences({}, published) == []
    assert differences(published | {"val": Count(1, 1)}, published) == []
    found = {"train": Count(12_935, 751, 6), "query": Count(3_369, 750, 5, 1, 2)}
    assert differences(found, published) == [
        "train has 12,935 images (published: 12,936): is the copy whole?",
        "query has 3,369 images (published: 3,368), 5 cameras (published: 6), 1 distractors "
        "(published: 0), 2 junk (published: 0): is the copy whole?",
    ]


FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
LAYOUTS = {
    "market1501": {f"{f}/0001_c{k}s1_0.jpg": jpg(k) for k, f in enumerate(FOLDERS, 1)},
    "dukemtmc_reid": {f"{f}/0001_c{k}_f0046182.jpg": jpg(k) for k, f in enumerate(FOLDERS, 1)},
    "cuhk03": {f"labeled/{f}/0001_c1_{k}.png": PNG + b"%d" % k for k, f in enumerate(FOLDERS, 1)},
    "msmt17": MSMT17,
}


@pytest.mark.parametrize(
    ("name", "title", "split", "want"),
    [
        ("market1501", "Market-1501", "query", "3,368"),
        ("dukemtmc_reid", "DukeMTMC-reID", "gallery", "17,661"),
        ("cuhk03", "CUHK03", "train", "7,368"),
        ("msmt17", "MSMT17", "train", "32,621"),
    ],
)
def test_small_copies_are_said(tmp_path, capfd, name, title, split, want):
    write_tree(tmp_path / "m", LAYOUTS[name])
    dataset = load_dataset(name, data_dir=tmp_path / "d", manual_dir=tmp_path / "m")
    images = len(getattr(dataset, split))
    (line,) = [
        line for line in capfd.readouterr().err.splitlines() if f": {split} has {images} " in line
    ]
    assert line.startswith(f"warning: {title}")
    assert f"{split} has {images} images (published: {want})" in line


@pytest.mark.parametrize(
    ("name", "missing"),
    [(name, f) for name in ("market1501", "dukemtmc_reid") for f in FOLDERS]
    + [("cuhk03", f"labeled/{folder}") for folder in FOLDERS]
    + [("msmt17", f"list_{split}.txt") for split in ("train", "val", "query", "gallery")],
)
def test_a_missing_split_or_list_is_named(tmp_path, name, missing):
    tree = {k: v for k, v in LAYOUTS[name].items() if not k.startswith(missing)}
    assert len(tree) < len(LAYOUTS[name])
    write_tree(tmp_path / "m", tree)
    fails(rf"{missing}' is missing", name, tmp_path, manual_dir=tmp_path / "m")


# --- names and links ------------------------------------------------------------------------------


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
    """Within a list, and in the two that make up training."""
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
    (tmp_path / "m" / "query" / "0009_c1s1_0.jpg").symlink_to(target)  # the second: to itself
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
    """What lies beside the prepared data."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(str(path) for path in paths if path.parts[0] != "data")


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize(
    "evil", ["../../evil.jpg", "/tmp/evil.jpg", "query/../../evil.jpg", "//x.jpg"]
)
def test_members_that_point_outside_are_not_followed(tmp_path, write, evil):
    """The rest is read; what lies outside is neither read nor written."""
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
def test_a_layout_that_lies_anywhere_in_an_archive(tmp_path, write, prefix):
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
    path = shutil.copy(tmp_path / "m.tgz", tmp_path / "n.tar")  # under a wrong name
    fails(r"n\.tar' cannot be read \(", "market1501", tmp_path, manual_dir=path)
    inner = write_zip(tmp_path / "inner.zip", market_with({}))
    path = write_zip(tmp_path / "outer.zip", {"inner.zip": inner.read_bytes()})
    fails(r"not found in '.*outer\.zip'", "market1501", tmp_path, manual_dir=path)


# --- killed ---------------------------------------------------------------------------------------

KILLER = """
import os, signal, sys, time
from pathlib import Path
from batnet_jax.data import load_dataset

def prepare(number):
    pid = os.fork()  # so that the imports are paid for once
    if not pid:
        load_dataset("market1501", data_dir=f"{sys.argv[1]}/{number}", manual_dir=sys.argv[2])
        os._exit(0)
    return pid

start = time.perf_counter()
os.waitpid(prepare("whole"), 0)
seconds = time.perf_counter() - start
for number in range(int(sys.argv[3])):
    pid = prepare(number)
    time.sleep(seconds * 1.1 * (number + 0.5) / int(sys.argv[3]))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path, kills):
    """From right after the start to about the end, in even steps."""
    files = {f"{number:04}_c1s1_0.jpg": jpg(number) for number in range(10, 160)}
    write_tree(tmp_path / "m", market_with(files))
    command = [sys.executable, "-c", KILLER, tmp_path / "data", tmp_path / "m", str(kills)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=300)
    whole = load_dataset("market1501", data_dir=tmp_path / "data" / "whole")
    expected = contents(whole)
    assert [len(split[0]) for split in expected] == [1, 151, 1]
    half = 0
    for number in range(kills):
        data = tmp_path / "data" / str(number)
        half += any(data.rglob("incomplete*"))
        again = load_dataset("market1501", data_dir=data, manual_dir=tmp_path / "m")
        assert contents(again) == expected
        assert list(data.rglob("incomplete*")) == []
    assert half > 0  # some were in the middle of it
