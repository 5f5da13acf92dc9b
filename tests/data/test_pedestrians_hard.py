"""The benchmark `pedestrians:hard`: equal bytes everywhere, cameras that training never sees, and
descriptors made by hand that fail."""

import hashlib

import numpy as np
import pytest

from batnet_jax.data.pedestrians import draw, figure
from batnet_jax.data.pedestrians.draw import (
    LAYERS,
    SIZES,
    SPLITS,
    draw_image,
    draw_layers,
    plan,
)
from batnet_jax.data.pedestrians.identity import make_identity
from batnet_jax.data.pedestrians.plan import read_shot
from batnet_jax.data.pedestrians.style import HARD, STYLES
from batnet_jax.retrieval import evaluate

SHAPE = {"height": 128, "width": 64}
# Digest of 24 images; only a change of the drawing may change it.
PINNED = "32c4f85a55edb88b52336adebc60777edbf9d8f0182a758310a611c7778c6e84"
VARIANTS = [name for name, size in SIZES.items() if size.style == "hard"]


def test_images_match_the_pinned_digest():
    total = hashlib.sha256()
    for number in range(24):
        pixels = draw_image(1 + number * 13, 1 + number % 12, number, "hard", seed=0, **SHAPE)
        total.update(pixels.tobytes())
    assert total.hexdigest() == PINNED


def test_a_style_changes_the_picture_and_easy_is_the_default():
    easy, hard = (draw_image(7, 2, 3, style, seed=0, **SHAPE) for style in ("easy", "hard"))
    assert (easy == draw_image(7, 2, 3, seed=0, **SHAPE)).all()
    assert (easy != hard).any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_never_sees_the_last_cameras(variant):
    size = SIZES[variant]
    cameras = {split: {s.camera for s in plan(size, split, 0)} for split in SPLITS}
    assert size.unseen_cameras >= 4
    assert cameras["train"] == set(range(1, size.cameras - size.unseen_cameras + 1))
    assert cameras["query"] == cameras["gallery"] == set(range(1, size.cameras + 1))


def test_filenames_tell_the_style():
    for shot in plan(SIZES["hard"], "query", 0):
        assert read_shot(shot.filename) == shot
        assert shot.style == "hard"
    assert read_shot("0001_c1s1_000001_00.jpg").style == "easy"
    assert [*STYLES] == ["easy", "hard"]  # a new style must come last: names of files count them


def test_six_people_share_their_colours():
    for family in range(1, 20):
        people = [make_identity(0, family * 6 + member, HARD.family) for member in range(6)]
        sets = {frozenset((p.upper_colour, p.accent_colour, p.lower_colour)) for p in people}
        assert len(sets) == 1
        assert len({p.pattern for p in people}) == 6


@pytest.mark.parametrize("pid", [605, 640, 0])
def test_layers_lie_on_the_pixels_of_the_picture(monkeypatch, pid):
    """Without the person, the picture differs where the layer of the person is, and nowhere else.

    Two passes of blur reach two pixels further, and the average of pixels half of one.
    """
    shots = [s for s in plan(SIZES["hard"], "gallery", 0) if s.pid == pid]
    layers = [draw_layers(*s[1:], seed=0, **SHAPE) for s in shots[:40]]
    shot, own = next((s, own) for s, own in zip(shots, layers, strict=False) if own.any())
    monkeypatch.setattr(figure, "shadow", lambda *_: None)
    picture = draw_image(*shot[1:], seed=0, **SHAPE).astype(int)
    original = draw.draw_person

    def draw_others(canvas, *rest):
        if canvas.layer != LAYERS["person"]:
            original(canvas, *rest)

    monkeypatch.setattr(draw, "draw_person", draw_others)
    other = draw_image(*shot[1:], seed=0, **SHAPE).astype(int)
    differs = (np.abs(picture - other) > 12).any(-1)
    person = np.pad(own == LAYERS["person"], 3)
    near = [person[y : y + 128, x : x + 64] for y in range(7) for x in range(7)]
    assert not (differs & ~np.any(near, axis=0)).any()
    assert differs[np.all(near, axis=0)].mean() > 0.6


def striped_histogram(image):
    """Coarse histograms of six stripes of the middle: where colours are, as people see it."""
    cells = (image[:126, 16:48] >> 6).astype(int) @ (16, 4, 1)
    counts = [np.bincount(part.ravel(), minlength=64) for part in np.split(cells, 6)]
    return np.sqrt(np.concatenate(counts)).astype(np.float32)


def raw_pixels(image):
    flat = image.astype(np.float32).ravel()
    return flat - flat.mean()


@pytest.mark.slow
def test_descriptors_made_by_hand_fail():
    """On a seventh of the people, which is easier than on all: docs/pedestrians.md has all."""
    parts = {}
    for split in ("query", "gallery"):
        shots = [s for s in plan(SIZES["hard"], split, 0) if s.pid % 7 == 0 and s.index % 2 == 0]
        images = [draw_image(*s[1:], seed=0, **SHAPE) for s in shots]
        parts[split] = shots, images
    labels = [
        np.array([[s.pid, s.camera] for s in parts[split][0]]).T for split in ("query", "gallery")
    ]

    def score(feature):
        query, gallery = (
            np.stack([feature(image) for image in parts[split][1]]) for split in parts
        )
        return evaluate(query, *labels[0], gallery, *labels[1])["mAP"]

    assert score(striped_histogram) < 0.30
    assert score(raw_pixels) < 0.10
