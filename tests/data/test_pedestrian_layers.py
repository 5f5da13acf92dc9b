"""The layers of the drawn pictures, checked against pictures in which a part is not drawn."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from batnet_jax.data import load_dataset, title_of
from batnet_jax.data.pedestrians import draw, figure
from batnet_jax.data.pedestrians.draw import (
    LAYERS,
    SIZES,
    draw_image,
    draw_jpeg,
    draw_layers,
    plan,
)
from batnet_jax.data.pedestrians.identity import make_identity
from batnet_jax.data.pedestrians.plan import make_shot, read_shot
from batnet_jax.data.pedestrians.raster import (
    SUB,
    Canvas,
    capsule,
    ellipse,
    lathe,
    rectangle,
    shadow,
)
from batnet_jax.data.pedestrians.style import EASY, STYLES
from batnet_jax.data.sources import pedestrians

SHAPE = {"height": 128, "width": 64}
# Digest of the layers of 24 images; only a change of the drawing may change it.
PINNED = "a8d69fc9fdffa82b73d9a3f492da90ce503ef90e5a50b90094d585b1c7aa741e"
BACKGROUND, PERSON, OCCLUDER, PASSER_BY = range(4)


# --- The shapes

SHAPES = {
    "ellipse": lambda c: ellipse(c, (30 * SUB, 20 * SUB), (12 * SUB, 9 * SUB), [(9, 9, 9)]),
    "capsule": lambda c: capsule(c, (-40, 90), (300, 200), (60, 20), [(9, 9, 9)]),
    "lathe": lambda c: lathe(c, [(10, 90, 40), (300, 200, 120)], [(9, 9, 9)]),
    "rectangle": lambda c: rectangle(c, (-5, 30), (17, 99), (9, 9, 9)),
    "ellipse beside the canvas": lambda c: ellipse(c, (-999, 50), (40, 40), [(9, 9, 9)]),
    "rectangle beside the canvas": lambda c: rectangle(c, (60, 3), (70, 9), (9, 9, 9)),
    "rectangle turned round": lambda c: rectangle(c, (9, 9), (3, 20), (9, 9, 9)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_writes_its_layer_where_it_colours(name):
    layers = np.full((40, 60), 7, np.uint8)
    canvas = Canvas(np.full((40, 60, 3), 200, np.uint8), 1, layers)
    plain = Canvas(np.full((40, 60, 3), 200, np.uint8), 1)
    for own in (canvas.on_layer(5), plain):
        SHAPES[name](own)
    coloured = (canvas.pixels != 200).any(-1)
    np.testing.assert_array_equal(layers, np.where(coloured, 5, 7))
    np.testing.assert_array_equal(plain.pixels, canvas.pixels)
    assert coloured.any() != ("beside" in name or "turned" in name)


def test_a_shadow_is_of_the_layer_that_it_falls_on():
    layers = np.full((40, 60), 7, np.uint8)
    canvas = Canvas(np.full((40, 60, 3), 200, np.uint8), 1, layers, 5)
    shadow(canvas, (200, 200), (90, 90), 100)
    assert (canvas.pixels != 200).any()
    assert (layers == 7).all()


# --- The pictures


def shots_with(layer, count):
    """Return the first shots of the demo's gallery that show a layer."""
    shots = (s for s in plan(SIZES["demo"], "gallery", 0) if (layers_of(s) == layer).any())
    return list(itertools.islice(shots, count))


def layers_of(shot, **size):
    return draw_layers(*shot[1:], seed=0, **(size or SHAPE))


@pytest.fixture
def raw(monkeypatch):
    """Pictures as the canvas has them: without a camera's effects, averages, and shadows."""
    monkeypatch.setattr(draw, "expose", lambda pixels, *_: pixels)
    monkeypatch.setattr(draw, "OVERSAMPLING", 1)
    monkeypatch.setattr(figure, "shadow", lambda *_: None)
    return {"height": 256, "width": 128}


def picture_without(monkeypatch, shot, layer, size):
    """Draw a shot without the person, or without what is drawn before or after the person.

    The dice fall as if it were drawn. The layers of the canvas are not consulted.
    """
    person = make_identity(0, shot.pid if shot.pid else 1_000_000 + shot.index)
    now = [PASSER_BY]

    def wrap(name):
        original = getattr(draw, name)

        def drawn(canvas, *rest):
            is_person = name == "draw_person" and rest[0] == person
            part = PERSON if is_person else now[0]
            apart = canvas._replace(pixels=canvas.pixels.copy())
            original(apart if part == layer else canvas, *rest)
            now[0] = OCCLUDER if is_person else now[0]

        monkeypatch.setattr(draw, name, drawn)

    wrap("draw_person")
    wrap("occlude")
    picture = draw_image(*shot[1:], seed=0, **size)
    assert now == [OCCLUDER]  # the person has been drawn
    return picture


@pytest.mark.parametrize("layer", [PERSON, OCCLUDER, PASSER_BY])
def test_a_picture_without_a_layer_differs_in_this_layer_only(raw, monkeypatch, layer):
    """It differs nearly everywhere in this layer: a few colours are also those behind it."""
    shots = shots_with(layer, 6)
    whole = [draw_image(*shot[1:], seed=0, **raw) for shot in shots]
    layers = [layers_of(shot, **raw) for shot in shots]
    share = []
    for shot, picture, own in zip(shots, whole, layers, strict=True):
        with monkeypatch.context() as patch:
            other = picture_without(patch, shot, layer, raw)
        differs = (picture != other).any(-1)
        assert set(own[differs]) == {layer}, shot
        share.append(differs[own == layer].mean())
    assert min(share) > 0.8
    assert np.mean(share) > 0.97


def test_every_kind_of_occluder_is_the_occluders_layer(monkeypatch):
    for kind in draw.OCCLUDERS:
        monkeypatch.setitem(STYLES, "easy", EASY._replace(occlusion=100))
        monkeypatch.setattr(draw, "OCCLUDERS", (kind,))
        shots = list(plan(SIZES["tiny"], "query", 0))[:6]
        shares = [(layers_of(shot) == OCCLUDER).mean() for shot in shots]
        assert min(shares) > 0.005, kind
        assert max(shares) < 0.5, kind
        monkeypatch.setitem(STYLES, "easy", EASY._replace(occlusion=0))
        assert not any((layers_of(shot) == OCCLUDER).any() for shot in shots)


def test_passers_by_stand_at_the_edge():
    for shot in shots_with(PASSER_BY, 4):
        layers = layers_of(shot)
        _, columns = np.nonzero(layers == PASSER_BY)
        assert np.abs(columns - 31.5).mean() > 12
        assert (layers == PASSER_BY).mean() < 0.4
        assert (layers == PERSON).mean() > 0.1


def test_a_pixels_layer_is_the_most_common_of_its_four_parts(monkeypatch):
    shots = [*shots_with(OCCLUDER, 1), *shots_with(PASSER_BY, 1)]
    small = [layers_of(shot) for shot in shots]
    monkeypatch.setattr(draw, "OVERSAMPLING", 1)
    ties = Counter()
    for shot, layers in zip(shots, small, strict=True):
        large = layers_of(shot, height=256, width=128)
        for y, x in np.ndindex(layers.shape):
            parts = large[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
            counts = Counter(parts)
            most = {value for value, count in counts.items() if count == max(counts.values())}
            assert layers[y, x] in most
            if len(most) > 1 and parts[0] in most:
                assert layers[y, x] == parts[0]
                ties[parts[0] == PERSON] += 1
        assert abs((layers == PERSON).mean() - (large == PERSON).mean()) < 0.004
    assert min(ties.values()) > 50  # both sides of an edge gain by ties


@pytest.mark.parametrize("shot", [make_shot(305, 2, 1), make_shot(0, 3, 8)])
def test_layers_lie_on_the_pixels_of_the_final_picture(monkeypatch, shot):
    """A camera's blur reaches one pixel further, and an average half of one."""
    monkeypatch.setattr(figure, "shadow", lambda *_: None)
    layers, picture = layers_of(shot), draw_image(*shot[1:], seed=0, **SHAPE).astype(int)
    with monkeypatch.context() as patch:
        other = picture_without(patch, shot, PERSON, SHAPE)
    differs = (np.abs(picture - other) > 12).any(-1)
    person = np.pad(layers == PERSON, 1)
    near = [person[y : y + 128, x : x + 64] for y in range(3) for x in range(3)]
    assert not (differs & ~np.any(near, axis=0)).any()
    assert differs[np.all(near, axis=0)].mean() > 0.9
    assert layers.dtype == np.uint8
    assert layers.shape == (128, 64)


def test_layers_match_the_pinned_digest_of_another_machine():
    total = hashlib.sha256()
    for number in range(24):
        layers = draw_layers(1 + number * 13, 1 + number % 6, number, seed=0, **SHAPE)
        total.update(layers.tobytes())
    assert total.hexdigest() == PINNED


def test_names():
    assert list(LAYERS.values()) == [BACKGROUND, PERSON, OCCLUDER, PASSER_BY]


# --- The way back from a filename


@pytest.mark.parametrize("size", ["demo", "tiny"])
def test_a_filename_gives_its_shot_back(size):
    for split in draw.SPLITS:
        for shot in plan(SIZES[size], split, 0):
            assert read_shot(shot.filename) == shot
    assert read_shot("12345_c15s1_1234567_00.jpg") == make_shot(12345, 15, 1234567)


@pytest.mark.parametrize(
    "name",
    [
        "", "0001_c1s1_000001_00.png", "0001_c1s3_000001_00.jpg", "0001_c1s0_000001_00.jpg",
        "1_c1s1_000001_00.jpg",
        "-1_c1s1_000001_00.jpg", "0001_c01s1_000001_00.jpg", "0001_c1s1_000001_01.jpg",
        "x/0001_c1s1_000001_00.jpg", "0001_c1s1_000001_00.jpg\n", "\u0660001_c1s1_000001_00.jpg",
    ],
)  # fmt: skip
def test_another_filename_is_refused(name):
    with pytest.raises(ValueError, match="is not the filename of a drawn image"):
        read_shot(name)


@pytest.mark.parametrize("height", [128, 60])
def test_prepared_images_lead_to_their_layers(tmp_path, monkeypatch, height):
    size = SIZES["tiny"]._replace(height=height, train_images=24, gallery_images=20)
    monkeypatch.setitem(SIZES, "tiny", size)
    dataset = load_dataset("pedestrians:tiny", data_dir=tmp_path)
    options = {"seed": pedestrians.SEED, "height": height, "width": 64}
    for split in (dataset.query, dataset.gallery, dataset.train.take(np.array([9, 2, 17]))):
        rows = np.array([len(split) - 1, 0, 2])
        found = pedestrians.layers_of(split, rows)
        assert found.shape == (3, height, 64)
        for row, layers in zip(rows, found, strict=True):
            shot = read_shot(split.filenames[row])
            # The stored image is that shot.
            assert draw_jpeg(*shot[1:], **options) == split.encoded(row)
            assert (shot.pid, shot.camera) == (split.pids[row], split.cameras[row])
            np.testing.assert_array_equal(layers, draw_layers(*shot[1:], **options))


def test_drawn_data_sets_are_known_by_their_titles():
    for name in ("pedestrians", "pedestrians:medium"):
        assert pedestrians.is_drawn(title_of(name))
    assert pedestrians.is_drawn("pedestrians-2")  # the second of two data sets with one title
    for name in ("market1501", "folder:pedestrians", "folder:x/pedestrians-2", "folder"):
        assert not pedestrians.is_drawn(title_of(name))
