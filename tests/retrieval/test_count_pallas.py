"""The GPU's counting kernel, by Pallas's interpreter, against counting one by one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batnet_jax.retrieval.streaming import count_pallas, ranks
from batnet_jax.retrieval.streaming.tiling import PAGE


def make_tile(columns, *, seed=0):
    """Scores full of ties, some of them -inf; rows of no, few and many relevant items."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-20, 20, (6, columns)).astype(np.float32) / 8
    scores[rng.random(scores.shape) < 0.05] = -np.inf
    scores[0, :3] = 0, 1e-42, -1e-42  # a GPU takes the last two for 0
    filled = columns - 7
    scores[:, filled:] = 0
    wanted = rng.integers(0, filled + 1, 40).astype(np.int32)
    numbers = np.array([1, 0, 9, PAGE, 30, 5])
    items = rng.integers(0, len(wanted), (6, PAGE)).astype(np.int32)
    items[np.arange(PAGE) >= numbers[:, None]] = -1
    limits = rng.integers(-20, 20, (6, PAGE)).astype(np.float32) / 8
    limits[4, :2] = 0, -0.0
    counts = rng.integers(0, 1000, (6, PAGE)).astype(np.int32)
    active = np.array([1, 1, 1, 1, 1, 0], bool)
    return scores, items, limits, counts, wanted, np.int32(filled), active


def expected_counts(scores, items, limits, counts, wanted, filled, active):
    counts = counts.copy()
    tiny = np.finfo(np.float32).tiny
    scores = np.where(np.abs(scores) < tiny, 0, scores)
    for row, slot in zip(*np.nonzero(items >= 0), strict=True):
        if active[row]:
            here, limit = scores[row, :filled], limits[row, slot]
            before = np.arange(filled) < wanted[items[row, slot]]
            counts[row, slot] += ((here > limit) | ((here == limit) & before)).sum()
    return counts


@pytest.mark.parametrize("columns", [64, 1024, 2500, 4096])  # programs take 1024 each
@pytest.mark.parametrize("x64", [False, True])
def test_equals_counting_one_by_one(columns, x64):
    tile = make_tile(columns, seed=columns)
    with jax.enable_x64(x64):
        got = jax.jit(count_pallas.count_ahead)(*map(jnp.asarray, tile))
    assert got.dtype == jnp.int32  # else the next tile's could not take its place
    np.testing.assert_array_equal(got, expected_counts(*tile))


def test_is_a_kernel_where_there_is_a_gpu(monkeypatch):
    """Which need not be here."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    count = jax.jit(lambda *tile: count_pallas.count_ahead(*tile))  # not traced before
    traced = count.trace(*map(jnp.asarray, make_tile(2500)))
    assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("platform", "capability", "way"),
    [
        ("cpu", "", "windows"),
        ("tpu", "", "sums"),
        ("gpu", "7.5", "sums"),  # of a T4: Pallas's kernels want 8.0
        ("gpu", "8.0", "kernel"),
        ("gpu", "12.0", "kernel"),
        ("gpu", "gfx942", "sums"),
        ("gpu", "", "sums"),
    ],
)
def test_the_way_is_the_devices(platform, capability, way, monkeypatch):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert ranks._way() == way
