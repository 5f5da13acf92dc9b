"""Boxes of a stream of frames: fixed shapes, no compilation after the first, the same features."""

import jax
import numpy as np
import pytest
from support.tiny_run import write_run

import batnet_jax
from batnet_jax.errors import UserError
from batnet_jax.inference import model as model_module

rng = np.random.default_rng(0)
FRAME = rng.integers(0, 256, (120, 160, 3), np.uint8)
CORNERS = rng.integers(0, (100, 70), (40, 2))
BOXES = np.concatenate([CORNERS, CORNERS + rng.integers(5, 40, (40, 2))], axis=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def prepared(run):
    model = batnet_jax.load(run)
    model.prepare_boxes(8)
    return model


class Compilations:
    """Counts what JAX compiles, by its own events."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self.hear)

    def hear(self, event, _seconds, **_):
        self.count += event.endswith("backend_compile_duration")


def test_features_are_those_of_the_boxes(run, prepared):
    """Also for more boxes than a step holds, and for none."""
    wanted = batnet_jax.load(run).embed(FRAME, boxes=BOXES)
    for count in (1, 3, 8, 9, 40):
        got = prepared.embed(FRAME, boxes=BOXES[:count])
        # Another batch rounds otherwise.
        np.testing.assert_allclose(got, wanted[:count], atol=1e-5)
    assert prepared.embed(FRAME, boxes=[]).shape == (0, prepared.dim)
    bgr = prepared.embed(FRAME[..., ::-1], boxes=BOXES[:2], channels="bgr")
    np.testing.assert_allclose(bgr, wanted[:2], atol=1e-5)


def test_nothing_is_compiled_after_the_preparation(prepared):
    seen = Compilations()
    prepared.embed(FRAME, boxes=BOXES[:2])
    assert seen.count == 0
    for count in [*range(1, 33), 1, 40]:
        frame = rng.integers(0, 256, (100 + count, 140 + count, 3), np.uint8)
        prepared.embed(frame, boxes=BOXES[:count])
    assert seen.count == 0
    jax.jit(lambda x: x * 3 + 1)(np.ones(3))
    assert seen.count == 1  # so the count can tell


def test_steps_are_the_smallest_that_hold_the_boxes(prepared, monkeypatch):
    assert prepared._box_steps.sizes == (1, 2, 4, 8)
    sizes = []

    def embed(images):
        sizes.append(len(images))
        return np.zeros((len(images), prepared.dim), np.float32)

    monkeypatch.setattr(prepared._box_steps, "_embed", embed)
    for count in (1, 2, 3, 5, 8, 19):
        prepared.embed(FRAME, boxes=BOXES[:count])
    assert sizes == [1, 2, 4, 8, 8, 8, 8, 4]


def test_images_without_boxes_keep_their_batch(run, prepared):
    """The features of an evaluation, to the last bit."""
    wanted = batnet_jax.load(run).embed(FRAME)
    np.testing.assert_array_equal(prepared.embed(FRAME), wanted)


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, (1,)), (6, (1, 2, 4, 6)), (32, (1, 2, 4, 8, 16, 32))]
)
def test_the_steps_for_a_number_of_boxes(most, sizes, run, monkeypatch):
    made = []

    def make_embed(*_, **_options):
        return lambda images: made.append(len(images))

    monkeypatch.setattr(model_module, "make_embed", make_embed)
    model = batnet_jax.load(run)
    model.prepare_boxes(most)
    assert tuple(made) == sizes


@pytest.mark.parametrize("most", [0, 33])
def test_a_step_of_too_many_boxes_is_refused(most, prepared):
    with pytest.raises(UserError, match=f"most={most} must be 1 to 32: more boxes take several"):
        prepared.prepare_boxes(most)
