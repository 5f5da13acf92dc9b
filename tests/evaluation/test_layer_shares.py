"""Shares of energy on layers: by hand, and against slow loops over pixels and cells."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fast_jit import jit

from batnet_jax.config import default_config
from batnet_jax.data import load_dataset
from batnet_jax.data.pedestrians.draw import LAYERS, draw_layers, read_shot
from batnet_jax.errors import UserError
from batnet_jax.evaluation import layer_shares
from batnet_jax.evaluation.attention import attention_step, energy_step
from batnet_jax.evaluation.layer_shares import (
    LayerShares,
    cell_areas,
    energy_shares,
    measure_layers,
    share_layers,
    shares_elsewhere,
    summarise,
)
from batnet_jax.models import BATNet
from batnet_jax.models.init_variables import draw_variables

PIDS = np.array([1, 2, 3])
TINY = {"num_parts": 0, "width": 1 / 16, "embedding_dim": 8}
SIZE = (64, 32)


# --- Areas and shares


def slow_areas(layers, grid):
    """Cut pixels and cells of each image into pieces that fit both, and count the pieces."""
    n, height, width = layers.shape
    rows, columns = math.lcm(height, grid[0]), math.lcm(width, grid[1])
    counts = np.zeros((n, len(LAYERS), *grid))
    for i, y, x in np.ndindex(n, rows, columns):
        layer = layers[i, y * height // rows, x * width // columns]
        counts[i, layer, y * grid[0] // rows, x * grid[1] // columns] += 1
    return counts / (rows // grid[0]) / (columns // grid[1])


def test_areas_by_hand():
    layers = np.array([[[0, 1, 1], [0, 0, 2]]], np.uint8)
    areas = cell_areas(layers, (1, 2))[0, :, 0]
    # Each of two cells is a pixel and a half wide and two pixels high.
    np.testing.assert_allclose(areas, [[2.5 / 3, 0.5 / 3], [0.5 / 3, 1.5 / 3], [0, 1 / 3], [0, 0]])


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 11)] * 2), st.integers(0, 99)
)
def test_areas_and_shares_match_loops(size, grid, seed):
    rng = np.random.default_rng(seed)
    layers = rng.integers(0, len(LAYERS), (2, *size)).astype(np.uint8)
    areas = cell_areas(layers, grid)
    expected = slow_areas(layers, grid)
    np.testing.assert_allclose(areas, expected, atol=1e-12)  # float64, sums of at most 9 terms
    energy = rng.random((2, *grid)).astype(np.float32)
    shares = energy_shares(energy, areas)
    for i in range(2):
        total = sum(float(e) for e in energy[i].ravel())
        for layer in range(len(LAYERS)):
            own = sum(
                float(energy[i, y, x]) * expected[i, layer, y, x] for y, x in np.ndindex(grid)
            )
            assert shares[i, layer] == pytest.approx(own / total, abs=1e-12)


def test_many_images_have_the_areas_of_each(rng, monkeypatch):
    monkeypatch.setattr(layer_shares, "_AT_ONCE", 4)
    layers = rng.integers(0, 4, (11, 6, 4)).astype(np.uint8)
    together = cell_areas(layers, (3, 3))
    alone = [cell_areas(own[None], (3, 3))[0] for own in layers]
    np.testing.assert_array_equal(together, alone)


def test_a_flat_map_has_the_shares_of_the_area():
    layers = np.random.default_rng(0).integers(0, 4, (3, 12, 6)).astype(np.uint8)
    shares = energy_shares(np.full((3, 4, 2), 7.0), cell_areas(layers, (4, 2)))
    expected = [[(own == layer).mean() for layer in range(4)] for own in layers]
    np.testing.assert_allclose(shares, expected)


def test_a_map_without_energy_has_no_shares():
    energy = np.array([[[0.0, 0.0]], [[0.0, 2.0]]])
    shares = energy_shares(energy, cell_areas(np.ones((2, 4, 4), np.uint8), (1, 2)))
    assert np.isnan(shares[0]).all()
    np.testing.assert_array_equal(shares[1], [0, 1, 0, 0])


def test_shares_on_others_match_a_loop(rng):
    energy, areas = rng.random((5, 3, 2)), rng.random((5, 3, 2)).astype(np.float32)
    found = shares_elsewhere(energy.astype(np.float32), areas)
    for i in range(5):
        own = [(energy[i] * areas[j]).sum() / energy[i].sum() for j in range(5) if j != i]
        assert found[i] == pytest.approx(np.mean(own), rel=1e-6)  # float32 energies
    assert np.isnan(shares_elsewhere(energy[:1], areas[:1])).all()
    assert np.isnan(shares_elsewhere(0 * energy, areas)).all()


def test_a_map_that_follows_the_person_has_less_on_others():
    layers = np.zeros((3, 4, 6), np.uint8)
    for i in range(3):
        layers[i, :, 2 * i : 2 * i + 2] = LAYERS["person"]
    follows = (layers == LAYERS["person"]).astype(float)
    found = share_layers({"p2": {"before": follows, "after": np.ones((3, 4, 6))}}, layers, PIDS)
    np.testing.assert_array_equal(found.maps["p2"]["before"][:, LAYERS["person"]], 1)
    np.testing.assert_array_equal(found.elsewhere["p2"]["before"], 0)
    np.testing.assert_allclose(found.elsewhere["p2"]["after"], 1 / 3)
    np.testing.assert_allclose(found.areas[:, LAYERS["person"]], 1 / 3)
    figures = summarise(found, samples=20)["positions"]["p2"]
    assert figures["before"]["elsewhere"] == {"value": 0, "interval": [0, 0]}


# --- The energies of a network


@pytest.mark.usefixtures("short_backbone")
def test_energies_are_those_of_the_maps(rng):
    model = BATNet(3, position="p2,p3", **TINY)
    variables = draw_variables(model, SIZE, 0)
    images = rng.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    maps = jit(partial(attention_step, model=model))(variables, images)
    positions = ("p1", "p2", "p3")
    found = jit(partial(energy_step, model=model, positions=positions))(variables, images)
    assert found.keys() == set(positions)
    assert found["p1"].keys() == {"before"}
    for position in ("p2", "p3"):
        around = {name: np.asarray(x, np.float64) for name, x in maps[position].items()}
        expected = {
            "before": around["input"],
            "mask": around["mask"],
            "excess": around["mask"] - 0.5,
            "after": around["input"] * around["mask"],
        }
        assert found[position].keys() == expected.keys()
        for name, whole in expected.items():
            # float32: a few rounding errors; the excess is a small difference of values near 1/2
            close = {"rtol": 1e-4, "atol": 1e-9} if name != "excess" else {"rtol": 1e-2}
            energy = (whole**2).sum(-1)
            assert energy.max() > 0
            np.testing.assert_allclose(found[position][name], energy, **close, err_msg=name)


@pytest.mark.usefixtures("short_backbone")
def test_without_an_attention_the_maps_at_all_positions_are_measured(rng):
    with_attention, without = (
        BATNet(3, position="p2", attention=attention, **TINY) for attention in ("aia", "none")
    )
    variables = draw_variables(with_attention, SIZE, 0)
    images = rng.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    everywhere = ("p1", "p2", "p3", "p4")
    step = jit(partial(energy_step, model=without, positions=everywhere))
    # Variables of the attention are left unused.
    found = jax.device_get(step(variables, images))
    assert {p: list(maps) for p, maps in found.items()} == {p: ["before"] for p in everywhere}
    heights = [found[p]["before"].shape[1] for p in everywhere]
    assert heights == sorted(heights, reverse=True)
    other = jit(partial(energy_step, model=with_attention, positions=("p2",)))(variables, images)
    np.testing.assert_allclose(found["p2"]["before"], other["p2"]["before"], rtol=1e-5)
    assert not np.allclose(other["p2"]["after"], other["p2"]["before"])


# --- The measurement


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    config = default_config()
    config.data.dir = str(tmp_path_factory.mktemp("data"))
    config.data.image_size = SIZE
    config.eval.batch = 5
    dataset = load_dataset("pedestrians:tiny", data_dir=config.data.dir)
    return config, dataset.query.take(np.array([3, 0, 9, 4, 15, 6, 7]))


def brightness(variables, images, *, model, positions):
    """An energy that the test knows: the red of blocks of 16 x 8 pixels."""
    del model
    red = images[..., 0].astype(np.float32).reshape(-1, 4, 16, 4, 8).mean((2, 4))
    return {p: {"before": red, "after": red**2 * variables["scale"]} for p in positions}


def test_all_images_are_measured_in_their_order(drawn, monkeypatch):
    config, split = drawn
    monkeypatch.setattr(layer_shares, "energy_step", brightness)
    found = measure_layers(config, None, {"scale": 2.0}, split, positions=("p1", "p2"))
    np.testing.assert_array_equal(found.pids, split.pids)
    with layer_shares.open_store(config, split, keep=False) as store:
        images = store.batch(np.arange(len(split)))
    for i, name in enumerate(split.filenames):
        layers = draw_layers(*read_shot(name)[1:], seed=0, height=128, width=64)
        red = images[i, ..., 0].astype(float)
        cells = [[red[16 * y : 16 * y + 16, 8 * x : 8 * x + 8].mean() for x in range(4)]
                 for y in range(4)]  # fmt: skip
        for layer in range(len(LAYERS)):
            assert found.areas[i, layer] == pytest.approx((layers == layer).mean())
            for p in ("p1", "p2"):
                for energy, name in ((np.array(cells), "before"), (np.array(cells) ** 2, "after")):
                    # Cells of 32 x 16 pixels of the picture, which is twice as large as the image.
                    inside = (layers == layer).reshape(4, 32, 4, 16).mean((1, 3))
                    share = (energy * inside).sum() / energy.sum()
                    assert found.maps[p][name][i, layer] == pytest.approx(share, rel=1e-5)


def test_a_map_that_is_not_finite_is_refused(drawn, monkeypatch):
    config, split = drawn
    monkeypatch.setattr(layer_shares, "energy_step", brightness)
    with pytest.raises(UserError, match="map 'after' at p3 holds values that are not finite"):
        measure_layers(config, None, {"scale": np.nan}, split, positions=("p3",))


# --- The averages


def shares_of(pids, person, area=0.25, **maps):
    def rows(values):
        values = np.broadcast_to(np.asarray(values, float), len(pids))
        return np.stack([1 - values, values, 0 * values, 0 * values], 1)

    maps = {"before": rows(person)} | {name: rows(values) for name, values in maps.items()}
    elsewhere = {name: own[:, 1] / 2 for name, own in maps.items()}
    return LayerShares(np.asarray(pids), rows(area), {"p2": maps}, {"p2": elsewhere})


def test_averages_by_hand():
    shares = shares_of([1, 1, 2, 2], [0.2, 0.4, 0.5, 0.7], after=[0.3, 0.4, 0.7, 0.8])
    found = summarise(shares, samples=200)
    assert (found["num_image"], found["num_identity"], found["level"]) == (4, 2, 0.95)
    assert found["area"] == {"background": 0.75, "person": 0.25, "occluder": 0, "passer-by": 0}
    before, gain = found["positions"]["p2"]["before"], found["positions"]["p2"]["gain"]
    assert before["num_image"] == 4
    assert before["share"]["person"] == before["person"]["value"] == pytest.approx(0.45)
    assert before["share"]["background"] == pytest.approx(0.55)
    # Of two identities a draw has one twice, with the mean 0.3 or 0.6, or both.
    assert before["person"]["interval"] == pytest.approx([0.3, 0.6])
    assert before["elsewhere"]["value"] == pytest.approx(0.225)
    assert before["elsewhere"]["interval"] == pytest.approx([0.15, 0.3])
    assert before["lift"]["value"] == pytest.approx(1.8)
    assert before["lift"]["interval"] == pytest.approx([1.2, 2.4])
    assert gain["person"]["value"] == pytest.approx(0.1)
    assert gain["person"]["interval"] == pytest.approx([0.05, 0.15])
    assert "gain" not in summarise(shares_of([1], [0.5]))["positions"]["p2"]


def test_the_lift_is_that_of_the_means():
    """The mean of lifts would let an image with few pixels of the person decide."""
    found = summarise(shares_of([1, 2], [0.4, 0.2], area=[0.8, 0.1]), samples=9)
    assert found["positions"]["p2"]["before"]["lift"]["value"] == pytest.approx(0.3 / 0.45)


def test_a_distractor_is_a_person_of_its_own():
    person = np.linspace(0, 1, 40)
    crowd, one = (
        summarise(shares_of([pid] * 40, person), samples=400)["positions"]["p2"]["before"]
        for pid in (0, 7)
    )
    assert one["person"]["interval"] == [pytest.approx(0.5)] * 2
    low, high = crowd["person"]["interval"]
    # The standard error of a mean of 40 such values is 0.047.
    assert 0.3 < low < 0.45
    assert 0.55 < high < 0.7
    assert summarise(shares_of([0, 0, 5, 5], 0.5), samples=2)["num_identity"] == 3


def test_images_whose_map_has_no_energy_are_left_out():
    shares = shares_of([1, 2, 3], [0.2, 0.4, 0.6], area=[0.1, 0.2, 0.9], after=[np.nan, 0.5, 0.7])
    found = summarise(shares, samples=50)["positions"]["p2"]
    assert [found[name]["num_image"] for name in ("before", "after", "gain")] == [3, 2, 2]
    assert found["after"]["lift"]["value"] == pytest.approx(0.6 / 0.55)
    assert found["gain"]["person"]["value"] == pytest.approx(0.1)
    nothing = summarise(shares_of([1, 2], np.nan, after=0.5), samples=50)["positions"]["p2"]
    assert nothing["before"]["num_image"] == 0
    assert nothing["before"]["person"] == nothing["before"]["lift"] == {
        "value": None, "interval": None,
    }  # fmt: skip
    assert set(nothing["before"]["share"].values()) == {None}
    assert nothing["gain"]["person"]["value"] is None
    assert nothing["after"]["person"]["value"] == 0.5


def test_the_same_seed_gives_the_same_intervals():
    shares = shares_of(np.arange(30), np.random.default_rng(0).random(30))
    assert summarise(shares, seed=4) == summarise(shares, seed=4)
    assert summarise(shares, seed=4) != summarise(shares, seed=5)
