"""The counting kernels of GPUs and TPUs, in the interpreter, against counting one by one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batnet_jax.retrieval.streaming import count_methods, count_mosaic, count_pallas
from batnet_jax.retrieval.streaming.tiling import PAGE_SLOTS


def make_tile(columns, *, seed=0):
    """Return scores with many ties, some of them -inf, for rows with 0 to 128 relevant items."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-20, 20, (6, columns)).astype(np.float32) / 8
    scores[rng.random(scores.shape) < 0.05] = -np.inf
    scores[0, :3] = 0, 1e-42, -1e-42  # a GPU treats the last two as 0
    num_items = columns - 7
    scores[:, num_items:] = 0
    tie_columns = rng.integers(0, num_items + 1, 40).astype(np.int32)
    numbers = np.array([1, 0, 9, PAGE_SLOTS, 30, 5])
    items = rng.integers(0, len(tie_columns), (6, PAGE_SLOTS)).astype(np.int32)
    items[np.arange(PAGE_SLOTS) >= numbers[:, None]] = -1
    thresholds = rng.integers(-20, 20, (6, PAGE_SLOTS)).astype(np.float32) / 8
    thresholds[4, :2] = 0, -0.0
    counts = rng.integers(0, 1000, (6, PAGE_SLOTS)).astype(np.int32)
    active = np.array([1, 1, 1, 1, 1, 0], bool)
    return scores, items, thresholds, counts, tie_columns, np.int32(num_items), active


def expected_counts(scores, items, thresholds, counts, tie_columns, num_items, active):
    counts = counts.copy()
    tiny = np.finfo(np.float32).tiny
    scores = np.where(np.abs(scores) < tiny, 0, scores)
    for row, slot in zip(*np.nonzero(items >= 0), strict=True):
        if active[row]:
            row_scores, threshold = scores[row, :num_items], thresholds[row, slot]
            before = np.arange(num_items) < tie_columns[items[row, slot]]
            is_tie_ahead = (row_scores == threshold) & before
            counts[row, slot] += ((row_scores > threshold) | is_tie_ahead).sum()
    return counts


@pytest.mark.parametrize("kernel", [count_pallas, count_mosaic], ids=["triton", "mosaic"])
@pytest.mark.parametrize("columns", [64, 1024, 2500, 4096])  # programs and rounds take 1024, 2048
@pytest.mark.parametrize("x64", [False, True])
def test_equals_counting_one_by_one(kernel, columns, x64):
    tile = make_tile(columns, seed=columns)
    with jax.enable_x64(x64):
        got = jax.jit(kernel.count_ahead)(*map(jnp.asarray, tile))
    assert got.dtype == jnp.int32  # the next tile's counts take its memory
    np.testing.assert_array_equal(got, expected_counts(*tile))


def test_a_tile_of_a_tpu_may_be_wider_than_the_memory_of_a_program(monkeypatch):
    """Ties and the end of the items lie in any of the parts."""
    monkeypatch.setattr(count_mosaic, "_WIDEST", 2048)
    for columns, lacking in ((4500, 0), (4500, 2600), (2048, 3)):
        scores, items, thresholds, counts, ties, _, active = make_tile(columns)
        num_items = columns - lacking
        scores[:, num_items:] = 0
        tile = scores, items, thresholds, counts, np.minimum(ties, num_items), num_items, active
        # Another function: `jit` would take the program of the width before.
        got = jax.jit(lambda *tile: count_mosaic.count_ahead(*tile))(*map(jnp.asarray, tile))
        np.testing.assert_array_equal(got, expected_counts(*tile))


@pytest.mark.parametrize("x64", [False, True])
def test_lowering_for_a_tpu_makes_a_mosaic_kernel(monkeypatch, x64):
    """This machine needs no TPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with jax.enable_x64(x64):
        count = jax.jit(lambda *tile: count_mosaic.count_ahead(*tile))
        traced = count.trace(*map(jnp.asarray, make_tile(2500)))
        assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.skipif(
    jax.__version_info__ >= count_methods.DEPRECATED, reason="this JAX deprecates the backend"
)
def test_lowering_for_a_gpu_makes_a_triton_kernel(monkeypatch):
    """This machine needs no GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    count = jax.jit(lambda *tile: count_pallas.count_ahead(*tile))  # not traced before
    traced = count.trace(*map(jnp.asarray, make_tile(2500)))
    assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("platform", "name", "method"),
    [
        ("cpu", "", "windows"),
        ("tpu", "TPU v3", "sums"),
        ("tpu", "TPU v4", "mosaic"),
        ("tpu", "TPU v5 lite", "mosaic"),
        ("tpu", "TPU7x", "mosaic"),
        ("gpu", "7.5", "sums"),  # of a T4; Pallas's kernels need 8.0
        ("gpu", "8.0", "triton"),
        ("gpu", "12.0", "triton"),
        ("gpu", "gfx942", "sums"),
        ("gpu", "", "sums"),
    ],
)
def test_the_counting_method_depends_on_the_device(platform, name, method, monkeypatch):
    device = SimpleNamespace(platform=platform, compute_capability=name, device_kind=name)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 9))
    assert count_methods.counting_method() == method
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 0))  # it deprecates the kernel's backend
    assert count_methods.counting_method() == {"triton": "sums"}.get(method, method)
