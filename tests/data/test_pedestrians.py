"""The drawn data set: equal bytes everywhere, a sound protocol, and colours that do not suffice."""

import hashlib
import io
import re
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from batnet_jax.data.pedestrians import camera as camera_module
from batnet_jax.data.pedestrians import figure
from batnet_jax.data.pedestrians.dice import ONE, Dice, cosine, noise, sine
from batnet_jax.data.pedestrians.draw import SIZES, SPLITS, draw_image, draw_jpeg, plan
from batnet_jax.data.pedestrians.identity import make_identity
from batnet_jax.data.pedestrians.raster import SUB, Canvas, capsule, ellipse, lathe
from batnet_jax.data.pedestrians.style import EASY, STYLES

SHAPE = {"height": 128, "width": 64}
# Digest of 24 images; only a change of the drawing may change it.
PINNED = "c8e02e3603b3efe9224c6be7e01319412c2752371e685642ad15a5ba040e9882"


def _digest(seed=0):
    total = hashlib.sha256()
    for number in range(24):
        pixels = draw_image(1 + number * 13, 1 + number % 6, number, seed=seed, **SHAPE)
        total.update(pixels.tobytes())
    return total.hexdigest()


# --- Determinism


def test_images_match_the_pinned_digest_of_another_machine():
    assert _digest() == PINNED


def test_fresh_process_draws_the_same_bytes():
    code = (
        "import hashlib; from batnet_jax.data.pedestrians.draw import draw_jpeg;"
        "b = b''.join(draw_jpeg(7, c, 3, seed=5, height=128, width=64) for c in (3, 1));"
        "print(hashlib.sha256(b).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    # In another order, because no image may depend on earlier images.
    first, second = (draw_jpeg(7, c, 3, seed=5, **SHAPE) for c in (1, 3))
    assert there.stdout.strip() == hashlib.sha256(second + first).hexdigest()


def test_each_part_of_the_key_changes_the_image():
    keys = [(7, 2, 3, 0), (8, 2, 3, 0), (7, 3, 3, 0), (7, 2, 4, 0), (7, 2, 3, 1), (0, 2, 3, 0)]
    images = {draw_image(*key[:3], seed=key[3], **SHAPE).tobytes() for key in keys}
    assert len(images) == len(keys)


def test_dice_are_pinned_and_fair():
    dice = Dice(0, "pinned")
    assert [dice.below(1000) for _ in range(5)] == [160, 100, 635, 713, 96]
    counts = Counter(Dice(1, "fair", i).between(-1, 1) for i in range(3000))
    assert sorted(counts) == [-1, 0, 1]
    # Binomial(3000, 1/3) has a standard deviation of 26; the keys are fixed, so this cannot flake.
    assert all(abs(count - 1000) < 130 for count in counts.values())
    assert sorted(Dice(2).shuffled(range(50))) == list(range(50))


def test_sines_and_noise():
    assert (sine(0), sine(30), sine(90), sine(210), cosine(60)) == (0, 512, ONE, -512, 512)
    grain = noise(0, 123, (40, 30, 3))
    assert grain.shape == (40, 30, 3)
    assert grain.dtype == np.int16
    assert abs(grain.mean()) < 10
    assert grain.min() >= -255


# --- The protocol


@pytest.mark.parametrize("name", SIZES)
def test_plan_has_the_counts_of_its_size(name):
    size = SIZES[name]
    shots = {split: list(plan(size, split, 0)) for split in SPLITS}
    assert len(shots["train"]) == size.train_images
    assert len(shots["query"]) == size.query_images
    assert len(shots["gallery"]) == size.gallery_images + size.distractors
    pids = {split: {shot.pid for shot in shots[split]} - {0} for split in SPLITS}
    assert len(pids["train"]) == size.train_identities
    assert pids["query"] == pids["gallery"]
    assert len(pids["query"]) == size.test_identities
    assert pids["train"].isdisjoint(pids["gallery"])
    everything = [shot for split in SPLITS for shot in shots[split]]
    assert {shot.camera for shot in everything} == set(range(1, size.cameras + 1))
    assert len({shot.filename for shot in everything}) == len(everything)


def test_msmt17_has_126441_images_of_4101_people_and_15_cameras():
    size = SIZES["msmt17"]
    shots = [shot for split in SPLITS for shot in plan(size, split, 0)]
    assert len(shots) == 126_441
    assert len({shot.pid for shot in shots}) == 4_101
    assert len({shot.camera for shot in shots}) == 15


@pytest.mark.parametrize("name", SIZES)
def test_every_query_has_a_match_in_another_camera(name):
    size = SIZES[name]
    assert size.cameras >= 6
    gallery = defaultdict(set)
    for shot in plan(size, "gallery", 0):
        gallery[shot.pid].add(shot.camera)
    queries = defaultdict(set)
    for shot in plan(size, "query", 0):
        queries[shot.pid].add(shot.camera)
        assert gallery[shot.pid] - {shot.camera}, shot
    assert all(len(cameras) >= 2 for cameras in queries.values())


def test_train_identities_are_seen_by_several_cameras():
    cameras = defaultdict(set)
    for shot in plan(SIZES["demo"], "train", 0):
        cameras[shot.pid].add(shot.camera)
    assert min(map(len, cameras.values())) >= 2


def test_filenames_say_who_and_where():
    for split in SPLITS:
        for shot in plan(SIZES["demo"], split, 3):
            name = re.fullmatch(r"(\d{4})_c(\d+)s1_(\d{6})_00\.jpg", shot.filename)
            assert name is not None
            assert tuple(map(int, name.groups())) == (shot.pid, shot.camera, shot.index)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"'test'.*train, query, gallery"):
        list(plan(SIZES["demo"], "test", 0))


# --- The pictures


@pytest.mark.parametrize(("height", "width"), [(128, 64), (60, 32), (256, 128)])
def test_image_has_the_size_asked_for(height, width):
    image = draw_image(3, 2, 1, seed=0, height=height, width=width)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.std() > 15
    decoded = Image.open(io.BytesIO(draw_jpeg(3, 2, 1, seed=0, height=height, width=width)))
    assert decoded.format == "JPEG"
    assert decoded.size == (width, height)
    # JPEG loses only noise and colour detail.
    assert np.abs(np.asarray(decoded).astype(int) - image).mean() < 12


def test_shapes_cover_their_area():
    canvas = Canvas(np.zeros((100, 100, 3), np.uint8), 1)
    ellipse(canvas, (50 * SUB, 50 * SUB), (20 * SUB, 10 * SUB), [(255, 255, 255)])
    # Pi times 20 times 10 is 628; a boundary of about 97 pixels is rounded.
    assert abs(np.count_nonzero(canvas.pixels[..., 0]) - 628) < 30
    canvas.pixels[:] = 0
    lathe(canvas, [(10 * SUB, 50 * SUB, 0), (50 * SUB, 50 * SUB, 40 * SUB)], [(9, 9, 9)])
    assert abs(np.count_nonzero(canvas.pixels[..., 0]) - 1600) < 60  # the area of a triangle
    canvas.pixels[:] = 0
    capsule(canvas, (20 * SUB, 50 * SUB), (80 * SUB, 50 * SUB), (80, 80), [(9, 9, 9)])
    assert abs(np.count_nonzero(canvas.pixels[..., 0]) - (60 * 20 + 314)) < 50
    before = canvas.pixels.copy()
    ellipse(canvas, (-999, 50), (40, 40), [(255, 0, 0)])  # outside: nothing to draw
    assert (canvas.pixels == before).all()


def test_families_share_colours_and_differ_in_layout():
    for family in range(1, 40):
        people = [make_identity(0, family * EASY.family + member) for member in range(EASY.family)]
        sets = {frozenset((p.upper_colour, p.accent_colour, p.lower_colour)) for p in people}
        layouts = {(p.upper_colour, p.lower_colour) for p in people}
        assert len(sets) == 1
        assert len(layouts) == EASY.family
        assert len({p.pattern for p in people}) == EASY.family


def test_no_two_identities_of_the_demo_look_alike():
    people = [make_identity(0, pid) for pid in range(1, 376)]
    looks = {
        (
            p.upper,
            p.pattern,
            p.upper_colour,
            p.accent_colour,
            p.lower,
            p.lower_colour,
            p.hairstyle,
            p.hat,
            p.bag,
        )
        for p in people
    }
    assert len(looks) == len(people)


def test_people_face_all_ways_and_most_walk():
    poses = [figure.make_pose(Dice(i), pitch=0, top=(0, 0), height=1000) for i in range(400)]
    facings = Counter(pose.facing for pose in poses)
    assert set(facings) == set(figure.FACINGS)
    assert min(facings.values()) > 60
    assert 20 < sum(pose.swing == 0 for pose in poses) < 110


def test_backpack_shows_from_the_back():
    person = make_identity(0, 1)._replace(bag="backpack", bag_colour=(250, 10, 250))
    seen = {}
    for facing, yaw in figure.FACINGS.items():
        canvas = Canvas(np.zeros((256, 128, 3), np.uint8), 1)
        pose = figure.make_pose(Dice(1), pitch=0, top=(64 * SUB, 8 * SUB), height=230 * SUB)
        figure.draw_person(canvas, person, pose._replace(facing=facing, yaw=yaw))
        red, green, blue = np.moveaxis(canvas.pixels.astype(int), -1, 0)
        seen[facing] = np.count_nonzero((red > 100) & (blue > 100) & (green < 20))
    assert seen["back"] > 2 * seen["front"] > 0
    assert seen["left"] > seen["front"]
    assert seen["right"] > seen["front"]


def test_occlusion_is_partial_and_not_too_frequent(monkeypatch):
    shots = list(plan(SIZES["demo"], "gallery", 0))[:110]
    drawn = [draw_image(*shot[1:], seed=0, **SHAPE).astype(int) for shot in shots]
    monkeypatch.setitem(STYLES, "easy", EASY._replace(occlusion=0))
    covered = []
    for shot, image in zip(shots, drawn, strict=True):
        clear = draw_image(*shot[1:], seed=0, **SHAPE)
        covered.append((np.abs(image - clear).max(axis=-1) > 12).mean())
    share = np.mean(np.array(covered) > 0)
    assert 0.08 < share < 0.28
    assert max(covered) < 0.45  # fraction of the picture with its background
    assert np.mean([c for c in covered if c > 0]) < 0.25


def test_cameras_differ_in_cast_and_every_cast_is_mild():
    cameras = [camera_module.make_camera(0, number) for number in range(1, 7)]
    casts = np.array([camera.gains for camera in cameras], float)
    casts /= casts.mean(axis=1, keepdims=True)
    assert 0.04 < np.abs(casts - 1).max() < 0.2
    assert len({tuple(np.argsort(cast)) for cast in casts}) >= 3


# --- The difficulty


def _mean_average_precision(distances, queries, gallery):
    """Compute mAP without same-camera images, as on Market-1501, in a slow and obvious way."""
    precisions = []
    for row, query in zip(distances, queries, strict=True):
        hits, seen, found = 0, 0, []
        for column in np.argsort(row, kind="stable"):
            other = gallery[column]
            if other.pid == query.pid and other.camera == query.camera:
                continue
            seen += 1
            if other.pid == query.pid:
                hits += 1
                found.append(hits / seen)
        precisions.append(np.mean(found))
    return np.mean(precisions)


def _histogram(image):
    """Return a histogram of 8 x 8 x 8 RGB cells, normalised to unit length."""
    cells = (image >> 5).astype(int) @ (64, 8, 1)
    counts = np.bincount(cells.ravel(), minlength=512).astype(float)
    return counts / np.linalg.norm(counts)


def _striped_histogram(image):
    """Return coarse histograms of six stripes of the middle, for the position of colours."""
    cells = (image[:126, 16:48] >> 6).astype(int) @ (16, 4, 1)
    counts = [np.bincount(part.ravel(), minlength=64) for part in np.split(cells, 6)]
    root = np.sqrt(np.concatenate(counts))
    return root / np.linalg.norm(root)


def test_counting_colours_fails_and_layout_helps():
    queries = list(plan(SIZES["demo"], "query", 0))
    gallery = list(plan(SIZES["demo"], "gallery", 0))
    images = [[draw_image(*s[1:], seed=0, **SHAPE) for s in shots] for shots in (queries, gallery)]

    def score(feature):
        query, other = (np.stack([feature(image) for image in part]) for part in images)
        return _mean_average_precision(-query @ other.T, queries, gallery)

    def pixels(image):
        flat = image.astype(float).ravel() - image.mean()
        return flat / np.linalg.norm(flat)

    colours = score(_histogram)
    assert colours < 0.15
    assert score(pixels) < 0.25
    # The positions of the colours tell identities apart.
    assert score(_striped_histogram) > 3 * colours
