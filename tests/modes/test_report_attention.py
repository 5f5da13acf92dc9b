"""The choice of the images and positions that the report measures."""

import numpy as np
import pytest

from batnet_jax.config import default_config
from batnet_jax.data.dataset import Split
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.evaluation.layer_shares import LayerShares
from batnet_jax.models import BATNet
from batnet_jax.modes import report_attention
from batnet_jax.modes.report_attention import MEASURED, layer_figures


@pytest.fixture
def measured(monkeypatch):
    """The calls of `measure_layers`, which is not run."""
    calls = []

    def measure(config, model, variables, split, *, positions):
        calls.append((split.rows.tolist(), positions))
        shares = np.full((len(split), 4), 0.25)
        maps = {p: {"before": shares} for p in positions}
        others = {p: {"before": shares[:, 0]} for p in positions}
        return LayerShares(split.pids, shares, maps, others)

    monkeypatch.setattr(report_attention, "measure_layers", measure)
    return calls


def run(queries, name="pedestrians", **model):
    rows = np.arange(queries)
    split = Split(rows // 2, rows % 3, [f"{row}.jpg" for row in rows], rows, [], "")
    test = RetrievalTest(name, "test", split, split)
    return layer_figures(default_config(), BATNet(3, **model), {}, test)


@pytest.mark.parametrize("name", ["market1501", "folder-pedestrians"])
def test_only_drawn_images_have_layers(measured, name):
    assert run(9, name) is None
    assert measured == []


def test_all_queries_are_measured_up_to_a_limit(measured):
    assert run(9, "pedestrians-medium")["num_image"] == 9
    assert run(MEASURED + 3)["num_image"] == MEASURED
    assert run(10 * MEASURED)["num_image"] == MEASURED
    few, limited, many = (rows for rows, _ in measured)
    assert few == list(range(9))
    for rows, count in ((limited, MEASURED + 3), (many, 10 * MEASURED)):
        assert (rows[0], rows[-1]) == (0, count - 1)
        assert np.ptp(np.diff(rows)) <= 1  # evenly spaced


@pytest.mark.parametrize(
    ("model", "positions"),
    [
        ({}, ("p2",)),
        ({"position": "p3,p1", "attention": "plain"}, ("p1", "p3")),
        ({"attention": "none"}, ("p1", "p2", "p3", "p4")),
    ],
)
def test_positions_are_the_attentions_or_all(measured, model, positions):
    assert tuple(run(4, **model)["positions"]) == positions
    assert measured[0][1] == positions
