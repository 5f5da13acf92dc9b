"""Images in memory: arrays, tensors, Pillow's modes, orders of colours, and boxes of a frame."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import needs
from support.photos import PHOTO, PIXELS, encode

from batnet_jax.data.files.pixels import read_picture
from batnet_jax.data.loading.loader import decode
from batnet_jax.data.loading.user_arrays import ArrayStore, cut_boxes, paths_or_arrays, to_picture
from batnet_jax.errors import UserError

GREY = np.linspace(0, 65535, 40).astype(np.uint16).reshape(8, 5)


def pixels(image, **options):
    return to_picture(image, "image 0", **options).pixels


# --- Pillow's modes -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_sixteen_bits_of_pillow_are_scaled_by_their_range(mode):
    kind = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (5, 8), GREY.astype(kind).tobytes())
    np.testing.assert_array_equal(pixels(image), (GREY >> 8)[..., None].repeat(3, -1))


@pytest.mark.parametrize(
    ("form", "order"), [("TIFF", "<"), ("TIFF", ">"), ("PNG", "<"), ("PPM", ">")]
)
def test_a_file_of_sixteen_bits_is_read_alike_as_a_file_and_by_pillow(form, order, tmp_path):
    path = tmp_path / "a"
    if form == "PPM":
        path.write_bytes(b"P5 5 8 65535\n" + GREY.astype(">u2").tobytes())
    else:
        mode = "I;16B" if form == "TIFF" and order == ">" else "I;16"
        Image.frombytes(mode, (5, 8), GREY.astype(f"{order}u2").tobytes()).save(path, form)
    with Image.open(path) as image:
        given = pixels(image)
    wanted = (GREY >> 8)[..., None].repeat(3, -1).astype(int)
    np.testing.assert_allclose(given.astype(int), wanted, atol=1)
    # Some versions of OpenCV round instead of cutting.
    np.testing.assert_allclose(read_picture(path.read_bytes()).pixels.astype(int), wanted, atol=1)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pillow_images_without_a_range_are_refused(kind):
    image = Image.fromarray(GREY.astype(kind))
    with pytest.raises(UserError, match=rf"image 0 is Pillow's, of mode {image.mode}, whose"):
        pixels(image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_converted_as_pillow_does(mode):
    image = PHOTO.convert(mode)
    np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "La", "RGBa"])
def test_modes_with_transparency_are_laid_on_white(mode):
    """The left half is transparent. `La` and `RGBa` hold colours multiplied by the opacity."""
    opacity = np.full(PIXELS.shape[:2], 255, np.uint8)
    opacity[:, :24] = 0
    plain = PHOTO.convert("L") if mode in ("LA", "La") else PHOTO
    image = plain.copy()
    image.putalpha(Image.fromarray(opacity))
    if mode == "PA":
        image = image.convert("P").convert("PA")
        image.putalpha(Image.fromarray(opacity))
    elif mode in ("La", "RGBa"):
        image = image.convert(mode)
    picture = to_picture(image, "x")
    assert picture.transparent
    assert (picture.pixels[:, :24] == 255).all()
    if mode != "PA":  # a palette has other colours
        np.testing.assert_array_equal(
            picture.pixels[:, 24:], np.asarray(plain.convert("RGB"))[:, 24:]
        )


def test_a_cut_file_opened_by_pillow_is_one_line(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(encode(PHOTO, "JPEG")[:-300])
    message = r"image 0 is Pillow's, of mode RGB, and cannot be read: image file is truncated"
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(UserError, match=message):
        pixels(image)


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4])
def test_channels_first_has_two_readings(count):
    array = np.zeros((count, 16, 8), np.uint8)
    with pytest.raises(
        UserError, match=rf"may be {count} grey images, or one image with its channels"
    ):
        paths_or_arrays(array)
    _, greys = paths_or_arrays(list(array))
    assert [grey.shape for grey in greys] == [(16, 8)] * count
    _, one = paths_or_arrays(np.moveaxis(array, 0, -1))
    assert [image.shape for image in one] == [(16, 8, count)]


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (5, 1, 16, 8)])
def test_batches_with_channels_first_are_refused_with_the_way_out(shape):
    _, arrays = paths_or_arrays(np.zeros(shape, np.uint8))
    store = ArrayStore(arrays, (16, 8))
    with pytest.raises(UserError, match=r"channels come last, as in np\.moveaxis"):
        store.batch(np.array([0]))


def test_shapes_with_one_reading():
    shapes = {
        (16, 8): 1,
        (16, 8, 3): 1,
        (16, 8, 4): 1,
        (5, 16, 8): 5,
        (2, 16, 8, 3): 2,
        (1, 16, 8): 1,
    }
    for shape, count in shapes.items():
        _, arrays = paths_or_arrays(np.zeros(shape, np.uint8))
        assert len(arrays) == count, shape


def test_big_endian_arrays_are_read():
    np.testing.assert_array_equal(pixels(GREY.astype(">u2")), pixels(GREY))


def test_bgr():
    np.testing.assert_array_equal(pixels(PIXELS[..., ::-1], channels="bgr"), PIXELS)
    np.testing.assert_array_equal(pixels(PIXELS[..., 0], channels="bgr"), pixels(PIXELS[..., 0]))
    with pytest.raises(UserError, match="Pillow's, which knows its colours"):
        pixels(PHOTO, channels="bgr")


def test_tensors_of_torch():
    torch = needs.package("torch")
    tensor = torch.from_numpy(PIXELS.copy())
    for given in (tensor, [tensor], torch.stack([tensor, tensor]), iter([tensor])):
        _, arrays = paths_or_arrays(given)
        for array in arrays:
            np.testing.assert_array_equal(pixels(array), PIXELS)
    with pytest.raises(UserError, match="may be 3 grey images"):
        paths_or_arrays(tensor.permute(2, 0, 1))
    for bad in (tensor.float().requires_grad_(), tensor.to("meta")):
        with pytest.raises(UserError, match="Tensor, cannot become an array of NumPy"):
            paths_or_arrays(bad)


def test_any_object_with_the_array_protocol():
    class Foreign:
        def __array__(self, dtype=None, copy=None):
            return PIXELS

    class Lost:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("is on\nanother device")

    for given in (Foreign(), [Foreign(), Foreign()]):
        _, arrays = paths_or_arrays(given)
        np.testing.assert_array_equal(pixels(arrays[0]), PIXELS)
    with pytest.raises(UserError, match=r"images, Lost, cannot become .*is on another device"):
        paths_or_arrays(Lost())


@pytest.mark.parametrize("make", [lambda names: np.array(names, object), np.array])
def test_arrays_of_paths(make, tmp_path):
    """A column of a table is an array of objects; NumPy may hold names as bytes."""
    names = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert paths_or_arrays(make(names)) == (names, [])
    assert paths_or_arrays(make([name.encode() for name in names])[:0].astype(object))[1] == []
    assert paths_or_arrays(np.array([name.encode() for name in names])) == (names, [])
    assert paths_or_arrays(np.array([tmp_path / "a.png"], object)) == ([names[0]], [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "NoneType, which cv2.imread returns for a file that it cannot read"),
        (io.BytesIO(b"\x89PNG"), "BytesIO, an open file: give its path, or its content, as read"),
        (7, "int, not an image: give paths, a folder, arrays"),
    ],
)
def test_what_is_no_image_is_said(given, message):
    with pytest.raises(UserError, match=message):
        paths_or_arrays(given)
    with pytest.raises(UserError, match=f"image 0 is {message}"):
        pixels(given)


@pytest.mark.parametrize("shape", [(8, 5), (8, 5, 3), (8, 5, 4)])
def test_eight_bits_in_sixteen_are_no_black_image(shape):
    """The upper 8 bits of numbers up to 255 are 0."""
    array = np.full(shape, 255, np.uint16)
    if shape[-1] == 4:
        array[..., 3] = 65535
    with pytest.raises(UserError, match="no number above 255, of which the upper 8 bits are black"):
        pixels(array)
    assert (pixels(np.full(shape, 256, np.uint16)) <= 255).all()
    assert (pixels(np.zeros((8, 5), np.uint16)) == 0).all()
    if len(shape) == 2:
        with pytest.raises(UserError, match="no number above 255"):
            pixels(Image.frombytes("I;16", (5, 8), array.tobytes()))


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def names(tmp_path):
    """Three images of different kinds in folders, and a file that is none."""
    folder = tmp_path / "some photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "notes.txt").write_text("no image")
    found = []
    for name, size in (("a.png", (5, 8)), ("b[1].png", (6, 7)), ("deep/c.PNG", (7, 6))):
        grey = Image.effect_noise(size, 99)
        grey.convert("RGB").save(folder / name, "PNG")
        found.append(str(folder / name))
    return found


def test_patterns_are_images_in_order(names, tmp_path, monkeypatch):
    folder = tmp_path / "some photos"
    assert paths_or_arrays(f"{folder}/*") == (names[:2], [])
    assert paths_or_arrays(folder / "**" / "*") == (names, [])
    assert paths_or_arrays([f"{folder}/deep/*", names[0]]) == ([names[2], names[0]], [])
    assert paths_or_arrays(f"{folder}/b[1].png") == ([names[1]], [])  # there is such a file
    assert paths_or_arrays([f"{folder}/b[1].png"]) == ([names[1]], [])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths_or_arrays("~/some*/a.*") == ([names[0]], [])
    for given in (f"{folder}/*.jpg", [f"{folder}/*.txt"]):
        with pytest.raises(UserError, match=r"no image matches '.*\*.*': correct the pattern"):
            paths_or_arrays(given)


def test_bytes_and_paths_are_read_as_files_are(names):
    contents = [Path(name).read_bytes() for name in names]
    wanted = [decode(content, (8, 4)) for content in contents]
    mixed = [names[0], bytearray(contents[1]), Image.open(names[2]), wanted[0]]
    paths, images = paths_or_arrays(mixed)
    assert paths is None
    store = ArrayStore(images, (8, 4))
    for found, own in zip(store.batch(np.arange(4)), [*wanted, wanted[0]], strict=True):
        np.testing.assert_array_equal(found, own)
    assert paths_or_arrays(contents[0]) == (None, [contents[0]])
    np.testing.assert_array_equal(pixels(memoryview(contents[0])), np.asarray(Image.open(names[0])))
    frame = cut(contents[0], [[0, 0, 5, 8]])[0]
    np.testing.assert_array_equal(frame, np.asarray(Image.open(names[0])))


def test_files_that_are_no_images(names):
    with pytest.raises(UserError, match=r"image 1 cannot be decoded as an image \(.*no image"):
        ArrayStore([names[0], b"no image"], (8, 4)).batch(np.arange(2))
    with pytest.raises(UserError, match=r"nowhere.png' cannot be read"):
        pixels(f"{names[0]}/nowhere.png")
    notes = names[0].replace("a.png", "notes.txt")
    with pytest.raises(UserError, match=r"notes.txt' cannot be decoded as an image"):
        pixels(notes)


# --- boxes ----------------------------------------------------------------------------------------


def cut(frame, boxes, channels="rgb"):
    return cut_boxes(frame, boxes, channels=channels, alpha="white")


def test_boxes_are_cut_rounded_and_kept_inside(tmp_path):
    """The frame has 48 x 96 pixels."""
    path = tmp_path / "a.png"
    path.write_bytes(encode(PHOTO, "PNG"))
    boxes = [
        (0, 0, 48, 96),
        (3, 5, 10, 90),
        (2.6, 4.4, 10.4, 89.6),
        (-7, -1e9, 20, 9),
        (40, 80, 99, 1e300),
    ]
    wanted = [PIXELS, PIXELS[5:90, 3:10], PIXELS[4:90, 3:10], PIXELS[:9, :20], PIXELS[80:, 40:]]
    for frame in (PIXELS, [PIXELS], PHOTO, str(path), path, [path]):
        for found, expected in zip(cut(frame, boxes), wanted, strict=True):
            np.testing.assert_array_equal(found, expected)
    for found, expected in zip(cut(PIXELS[..., ::-1], boxes, "bgr"), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert cut(PIXELS, []) == []
    assert [found.shape for found in cut(PIXELS, iter(boxes[:2]))] == [(96, 48, 3), (85, 7, 3)]
    assert cut(PIXELS, np.empty((0, 4))) == []


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(10, 10, 5, 90)], r"box 0, \[10.*\], has no area: must be x0, y0, x1, y1"),
        ([(0, 0, 9, 9), (4, 4, 4, 9)], "box 1, .* has no area"),
        ([(50, 0, 60, 9)], "box 0, .* holds no pixel of the frame of 48 x 96"),
        ([(1.1, 0, 1.4, 9)], "holds no pixel"),
        ([(0, 0, 9)], r"shape \(1, 3\)"),
        ((0, 0, 9, 9), r"shape \(4,\)"),
        ([(0, 0, 9, float("nan"))], "finite"),
        ([(0, 0, 9, 9), (1, 2)], "not numbers"),
        ([("a", 0, 9, 9)], "not numbers"),
        (None, "boxes"),
        ([(0, 0, 1, 1)], r"boxes lie between 0 and 1: must be in pixels .* multiply fractions"),
        ([(0.1, 0.2, 0.5, 0.9)], "boxes lie between 0.1 and 0.9"),
    ],
)
def test_boxes_that_cannot_be_cut(boxes, message):
    with pytest.raises(UserError, match=message) as info:
        cut(PIXELS, boxes)
    assert "\n" not in str(info.value)


def test_boxes_belong_to_one_frame(tmp_path):
    with pytest.raises(UserError, match="one frame, and images are 2"):
        cut([PIXELS, PIXELS], [(0, 0, 9, 9)])
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"the frame '.*a\.jpg' cannot be read"):
        cut(tmp_path / "a.jpg", [(0, 0, 9, 9)])
