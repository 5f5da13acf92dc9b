"""Augmentation: invariants, OpenCV, and frequencies to five standard deviations (fixed keys)."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from support import training_oracle

from batnet_jax.step import augment

SHAPE = (64, 32, 3)
MANY = 4000


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def over_keys(function, image, count=MANY, **kwargs):
    run = jax.jit(jax.vmap(partial(function, **kwargs), in_axes=(0, None)))
    return np.asarray(run(keys(count), image))


def assert_frequency(hits, probability):
    deviation = np.sqrt(probability * (1 - probability) / len(hits))
    assert abs(np.mean(hits) - probability) <= 5 * deviation


@pytest.fixture
def image():
    return np.random.default_rng(0).random(SHAPE, np.float32) + 0.1


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (8, *SHAPE)).astype(np.uint8)


def test_normalise_by_hand():
    white, black = np.full((1, 1, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)
    # (1 - 0.485) / 0.229, ..., and - 0.485 / 0.229, ...; rounding of float32.
    np.testing.assert_allclose(
        augment.normalise(white)[0, 0], [2.2489083, 2.4285714, 2.64], rtol=1e-6
    )
    np.testing.assert_allclose(
        augment.normalise(black)[0, 0], [-2.1179039, -2.0357143, -1.8044444], rtol=1e-6
    )


def test_normalise_equals_numpy(images):
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    got = augment.normalise(images)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_flip_is_identity_or_mirror_each_half_of_the_time(image):
    flipped = over_keys(augment.flip, image)
    mirrored = (flipped == image[:, ::-1]).all((1, 2, 3))
    same = (flipped == image).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert_frequency(mirrored, 0.5)


def test_crop_of_a_constant_image_is_the_image():
    constant = np.full(SHAPE, 0.7, np.float32)
    crops = over_keys(augment.enlarge_and_crop, constant, 50, probability=1.0)
    np.testing.assert_allclose(crops, np.broadcast_to(constant, crops.shape), rtol=1e-6)


@pytest.mark.parametrize("shape", [(64, 32, 3), (48, 20, 3)])
def test_crop_is_one_of_opencvs(shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    height, width, _ = shape
    large = (round(height * 9 / 8), round(width * 9 / 8))
    enlarged = cv2.resize(image, large[::-1], interpolation=cv2.INTER_LINEAR)
    offsets = np.array(list(np.ndindex(large[0] - height + 1, large[1] - width + 1)))
    candidates = np.stack([enlarged[r : r + height, c : c + width] for r, c in offsets])
    crops = over_keys(augment.enlarge_and_crop, image, 600, probability=1.0)
    errors = np.array([np.abs(candidates - crop).max((1, 2, 3)) for crop in crops])
    # OpenCV's weights are float32 too, so values up to 1 are rounded.
    assert (errors.min(1) < 1e-5).all()
    assert ((errors < 1e-5).sum(1) == 1).all()
    found = np.bincount(errors.argmin(1), minlength=len(offsets))
    assert found.min() > 0  # every offset occurs, including the borders
    # All about equally often: chi-squared has mean n - 1 and variance 2 (n - 1).
    chi_squared = ((found - found.mean()) ** 2 / found.mean()).sum()
    degrees = len(offsets) - 1
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_crop_probability(image, probability):
    crops = over_keys(augment.enlarge_and_crop, image, 1000, probability=probability)
    assert_frequency((crops != image).any((1, 2, 3)), probability)


def rectangles(erased, image):
    """Return heights, widths and corners of the erased rectangles; check their shape."""
    holes = (erased == 0).all(-1)
    assert ((erased == image) | holes[..., None]).all()  # the rest is unchanged
    rows, columns = holes.any(2), holes.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    tops, lefts = rows.argmax(1), columns.argmax(1)
    filled = rows[:, :, None] & columns[:, None, :]
    np.testing.assert_array_equal(holes, filled)
    for flags, first, size in ((rows, tops, heights), (columns, lefts, widths)):
        at = np.arange(flags.shape[1])
        run = (at >= first[:, None]) & (at < (first + size)[:, None])
        np.testing.assert_array_equal(flags, run)
    return heights, widths, tops, lefts


def test_erased_rectangles(image):
    height, width, _ = image.shape
    erased = over_keys(augment.random_erasing, image, probability=1.0)
    h, w, top, left = rectangles(erased, image)
    assert (h > 0).all()  # every image
    # Sides are rounded, so the limits of area and aspect hold for sides changed by half a pixel.
    assert ((h + 0.5) * (w + 0.5) >= 0.02 * height * width).all()
    assert ((h - 0.5) * (w - 0.5) <= 0.4 * height * width).all()
    assert ((h + 0.5) / (w - 0.5) >= 0.3).all()
    assert ((h - 0.5) / (w + 0.5) <= 1 / 0.3).all()
    assert (h * w / (height * width)).min() < 0.03
    assert (h * w / (height * width)).max() > 0.37
    # Rectangles reach all four borders.
    assert top.min() == 0
    assert left.min() == 0
    assert (top + h).max() == height
    assert (left + w).max() == width
    room = left / np.maximum(width - w, 1)
    assert abs(room[w < width - 4].mean() - 0.5) < 0.03


@pytest.mark.parametrize("shape", [(64, 32, 3), (32, 64, 3)], ids=str)
def test_erased_sizes_have_the_published_distribution(shape):
    # The first that fits of all attempts has the distribution of drawing until one fits.
    image = np.ones(shape, np.float32)
    erased = over_keys(augment.random_erasing, image, probability=1.0)
    h, w, _, _ = rectangles(erased, image)
    rng = np.random.default_rng(0)
    expected = np.array([training_oracle.erasing_size(rng, *shape[:2]) for _ in range(MANY)]).T
    for got, law in ((h, expected[0]), (w, expected[1]), (h * w, expected[0] * expected[1])):
        # Kolmogorov-Smirnov: 1.95 sqrt(2 / n) is the 0.1 % level; 2.5 leaves room.
        at = np.union1d(got, law)
        apart = [np.mean(got <= x) - np.mean(law <= x) for x in at]
        assert np.abs(apart).max() < 2.5 * np.sqrt(2 / MANY)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_erasing_probability(image, probability):
    erased = over_keys(augment.random_erasing, image, probability=probability)
    assert_frequency((erased != image).any((1, 2, 3)), probability)


# Both probabilities traced, so that all tests of a batch size share one compilation.
compiled_augment = jax.jit(augment.augment)


def run_augment(keys, images, erasing=0.5, enlarge=0.5):
    probabilities = {"erasing_probability": erasing, "enlarge_probability": enlarge}
    return np.asarray(compiled_augment(keys, images, **probabilities))


def test_augment_is_a_function_of_the_key(images):
    first = run_augment(keys(8), images)
    np.testing.assert_array_equal(run_augment(keys(8), images), first)
    assert (run_augment(keys(8, seed=1), images) != first).any((1, 2, 3)).all()
    # And it differs between the images of a batch.
    same = run_augment(keys(8), np.repeat(images[:1], 8, axis=0))
    assert len(np.unique(same.reshape(8, -1), axis=0)) > 4


def test_augment_does_not_depend_on_how_the_batch_is_split(images):
    whole = run_augment(keys(8), images)
    halves = [run_augment(keys(8)[half], images[half]) for half in (slice(4), slice(4, 8))]
    # Another batch size may be vectorised differently, so values up to 3 are rounded.
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-5)
    order = np.random.default_rng(0).permutation(8)
    np.testing.assert_allclose(run_augment(keys(8)[order], images[order]), whole[order], atol=1e-5)


def test_augment_without_erasing_and_enlarging_normalises_and_flips(images):
    got = run_augment(keys(8), images, erasing=0.0, enlarge=0.0)
    plain = np.asarray(augment.normalise(images))
    straight = np.isclose(got, plain, atol=1e-6).all((1, 2, 3))
    mirrored = np.isclose(got, plain[:, :, ::-1], atol=1e-6).all((1, 2, 3))
    assert (straight ^ mirrored).all()
    assert straight.any()
    assert mirrored.any()


def test_augment_erases_to_the_mean_colour(images):
    # No byte is 0 after normalisation, as the mean is not a multiple of 1 / 255.
    assert not (augment.normalise(images) == 0).any()
    got = run_augment(keys(8), images, erasing=1.0)
    share = (got == 0).all(-1).mean((1, 2))
    assert (share > 0.01).all()
    assert (share < 0.45).all()


# Other colours, which are off in the paper's configs.


def colours_by_loops(image, brightness, contrast, saturation):
    """The three changes in float64, by pixel."""

    def grey(pixel):
        return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]

    image = np.clip(np.float64(image) * brightness, 0, 255)
    mean = np.mean([grey(pixel) for pixel in image.reshape(-1, 3)])
    image = np.clip(contrast * image + (1 - contrast) * mean, 0, 255)
    for row in image:
        for x, pixel in enumerate(row.copy()):
            row[x] = np.clip(saturation * pixel + (1 - saturation) * grey(pixel), 0, 255)
    return image


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("factors", [(1, 1, 1), (0.5, 1.3, 1), (1.9, 1, 0), (0.8, 0, 2), (0, 1, 1)])
def test_colours_equal_the_loops(images, factors):
    image = images[0, :9].astype(np.float64)
    got = augment.change_colours(image, *map(float, factors))
    np.testing.assert_allclose(got, colours_by_loops(image, *factors), atol=1e-10)


@pytest.mark.parametrize(
    ("place", "kind"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4])
def test_colours_are_pillows(images, place, kind, factor):
    """Pillow rounds the mean, the grey values and the result: by at most half a level each."""
    factors = [1.0, 1.0, 1.0]
    factors[place] = factor
    got = augment.change_colours(images[0].astype(np.float32), *factors)
    pillows = np.float32(kind(Image.fromarray(images[0])).enhance(factor))
    assert np.abs(got - pillows).max() <= 2


def test_recoloured_images_have_three_factors_of_their_own():
    """Read off two pixels in grey, whose distance shows contrast, and off a plain colour."""
    shares = np.array([0.299, 0.587, 0.114])
    two = np.array([[[100.0] * 3, [140.0] * 3]], np.float32)
    plain = np.full((1, 2, 3), [120.0, 60.0, 90.0], np.float32)
    pair, colour = (
        over_keys(augment.recolour, image, jitter=0.2, grey_probability=0.0)[:, 0].astype(float)
        for image in (two, plain)
    )
    brightness = pair.mean((1, 2)) / 120
    np.testing.assert_allclose(
        brightness, colour[:, 0] @ shares / (plain[0, 0] @ shares), rtol=1e-5
    )
    contrast = (pair[:, 1, 0] - pair[:, 0, 0]) / 40 / brightness
    saturation = np.ptp(colour[:, 0], -1) / 60 / brightness / contrast
    factors = np.stack([brightness, contrast, saturation])
    assert factors.min() > 0.8 - 1e-4
    assert factors.max() < 1.2 + 1e-4
    deviation = 0.4 / np.sqrt(12)  # of a uniform law of this width
    np.testing.assert_allclose(factors.mean(1), 1, atol=5 * deviation / np.sqrt(MANY))
    np.testing.assert_allclose(factors.std(1), deviation, rtol=0.05)
    assert np.abs(np.corrcoef(factors) - np.eye(3)).max() < 5 / np.sqrt(MANY)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_grey_probability(probability):
    plain = np.full((1, 2, 3), [120.0, 60.0, 90.0], np.float32)
    found = over_keys(augment.recolour, plain, jitter=0.2, grey_probability=probability)
    assert_frequency(np.ptp(found, -1).max((1, 2)) < 1e-3, probability)


def test_other_colours_do_not_change_the_other_random_numbers(images):
    """Flips, crops and holes stay where they are."""
    options = {"enlarge_probability": 0.5, "erasing_probability": 0.5}
    run = partial(jax.jit(partial(augment.augment, **options), static_argnums=()), keys(8))
    plain = np.asarray(run(images))
    grey = np.asarray(
        jax.jit(partial(augment.augment, grey_probability=1.0, **options))(keys(8), images)
    )
    shares = np.array([0.299, 0.587, 0.114])
    values = (images @ shares)[..., None].repeat(3, -1)
    expected = np.asarray(jax.jit(partial(augment.augment, **options))(keys(8), values))
    np.testing.assert_allclose(grey, expected, atol=1e-4)
    np.testing.assert_array_equal((grey == 0).all(-1), (plain == 0).all(-1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recoloured_images_keep_the_type_and_the_range(images, dtype):
    options = {"enlarge_probability": 0.0, "erasing_probability": 0.0, "dtype": dtype}
    got = augment.augment(keys(8), images, jitter=1.0, grey_probability=0.5, **options)
    assert got.dtype == dtype
    black, white = (augment.normalise(np.full((1, 1, 3), v, np.uint8)) for v in (0, 255))
    assert (np.float32(got) >= np.asarray(black) - 0.02).all()
    assert (np.float32(got) <= np.asarray(white) + 0.02).all()
    assert len(np.unique(np.float32(got)[:, 0, 0, 0])) > 4
