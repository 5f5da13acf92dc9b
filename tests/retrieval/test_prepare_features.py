"""Features prepared for the product, and checked by the way."""

import os
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evaluator_cases import FEW, make_case

from batnet_jax.errors import UserError
from batnet_jax.retrieval import ImageSet, Labels, Options, evaluate, evaluate_stream
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.streaming import chunks as chunks_module
from batnet_jax.retrieval.streaming import prepare_features, ranks
from batnet_jax.retrieval.streaming.prepare_features import CheckedRows


def chunks(dtype="float32", metric="cosine"):
    """Return (rows, prepared columns, offset) of a full and of a short chunk, padded to 64."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 24)).astype(np.float32), rng.normal(size=(9, 24)).astype(np.float32)
    make = prepare_features.ChunkPreparer(64, 24, metric, dtype)
    made = [make(rows[0].copy()), make(rows[1])]  # the first must survive the second
    return [(part, np.asarray(f, np.float64), o) for part, (f, o) in zip(rows, made, strict=True)]


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-7), ("bfloat16", 2**-9)])
def test_chunks_have_unit_length_and_are_padded_with_zeros(dtype, off):
    for rows, columns, offset in chunks(dtype):
        exact = rows.astype(np.float64)
        exact /= np.sqrt((exact**2).sum(1, keepdims=True))
        np.testing.assert_allclose(columns.T[: len(rows)], exact, atol=off)
        assert columns.shape == (24, 64)
        assert not columns[:, len(rows) :].any()
        assert offset is None


def test_the_offset_of_euclidean_chunks_is_minus_half_the_squared_length():
    for rows, columns, offset in chunks(metric="euclidean"):
        np.testing.assert_array_equal(columns.T[: len(rows)], rows)
        exact = -0.5 * (rows.astype(np.float64) ** 2).sum(1)
        np.testing.assert_allclose(offset[: len(rows)], exact, rtol=1e-7)
        assert not columns[:, len(rows) :].any()
        assert not offset[len(rows) :].any()


@FEW
@given(st.integers(0, 10**6))
def test_each_row_may_have_a_length_of_its_own(seed):
    """From subnormal numbers to numbers whose squares overflow."""
    rng, case = make_case(seed, ties=True)
    for name in ("query_features", "gallery_features"):
        powers = rng.choice([-149, -100, -50, 0, 50, 100], len(case[name]))
        scaled = np.ldexp(case[name], powers[:, None].astype(np.int32))
        assert evaluate(**case | {name: scaled}, chunk=64) == evaluate(**case)


def stream(case, source, **options):
    query = ImageSet(case["query_features"], case["query_pids"], case["query_cameras"])
    gallery = Labels(case["gallery_pids"], case["gallery_cameras"])
    return evaluate_stream(query, gallery, source, Options(**options))


def test_rows_may_come_from_a_device():
    _, case = make_case(1, ties=True)
    held = jnp.asarray(case["gallery_features"])
    for metric in "cosine", "euclidean":
        expected = evaluate(**case, metric=metric)
        assert stream(case, lambda rows: held[rows], metric=metric, chunk=64) == expected
        assert stream(case, lambda rows: held[rows], metric=metric, block=8) == expected
    with pytest.raises(UserError, match="gallery_features 4"):
        stream(case, lambda rows: held[rows][:, :4])


def test_an_accelerator_with_room_gathers_the_rows_itself(monkeypatch, tmp_path):
    _, case = make_case(2, ties=True)
    gallery, expected = case["gallery_features"], evaluate(**case, chunk=64)
    monkeypatch.setattr(prepare_features, "_upload_limit", lambda: gallery.nbytes)
    rows = np.array([5, 0, 2])
    got = prepare_features.make_source(gallery, "cosine")(rows)
    assert isinstance(got, CheckedRows)
    assert isinstance(got.rows, jax.Array)
    np.testing.assert_array_equal(got.rows, gallery[rows])
    assert evaluate(**case, chunk=64) == expected
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    for other in mapped, np.concatenate([gallery, gallery]), gallery.astype(np.float16):
        assert isinstance(prepare_features.make_source(other, "cosine")(rows), np.ndarray)
    assert isinstance(prepare_features.make_source(gallery, "euclidean")(rows), np.ndarray)
    rescaled = gallery * np.where(np.arange(len(gallery)) == 4, np.float32(1e-25), 1)[:, None]
    got = prepare_features.make_source(rescaled, "cosine")(rows)
    np.testing.assert_array_equal(got, rescaled[rows])  # from the host, which rescales the row
    assert evaluate(**case | {"gallery_features": rescaled}, chunk=64) == expected
    rescaled[4, 1] = np.nan
    with pytest.raises(UserError, match="the first is row 4"):
        evaluate(**case | {"gallery_features": rescaled}, chunk=64)


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_an_array_goes_to_an_accelerator_in_pieces(rows, monkeypatch):
    array = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    sizes = []
    put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda part: sizes.append(len(part)) or put(part))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(prepare_features, "_PIECE_BYTES", 64)
    np.testing.assert_array_equal(prepare_features.upload(array), array)
    assert len(sizes) == {1: 1, 5: 2, 64: 16}[rows]
    assert sum(sizes) == rows


def test_more_chunks_than_the_queue_may_hold(monkeypatch):
    _, case = make_case(3, ties=True)
    case = {name: np.concatenate([values] * 20) for name, values in case.items()}
    for name in "query_pids", "gallery_pids":
        case[name] = case[name] + 6 * (np.arange(len(case[name])) % 5)
    expected = evaluate(**case)
    seen = []
    monkeypatch.setattr(prepare_features, "_upload_limit", lambda: case["gallery_features"].nbytes)
    got = evaluate(**case, chunk=64, progress=lambda done, _: seen.append(done))
    assert got == expected
    assert len(seen) > 2 * ranks._MAX_QUEUED_CHUNKS


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("on_device", [False, True])
def test_features_that_are_not_finite_are_found_in_their_chunk(bad, metric, on_device):
    _, case = make_case(1, ties=True)
    gallery = case["gallery_features"] = case["gallery_features"].copy()
    gallery[-2, 1] = bad
    with pytest.raises(
        UserError, match=rf"in 1 of {len(gallery)} rows .*is row {len(gallery) - 2}"
    ):
        evaluate(**case, metric=metric, chunk=64)
    source = jnp.asarray(gallery) if on_device else gallery
    with pytest.raises(UserError, match="gallery_features holds NaN or infinite values in 1 of"):
        stream(case, lambda rows: source[rows], metric=metric, chunk=64)


def test_features_that_are_not_finite_beside_lengths_beyond_float32():
    _, case = make_case(1, ties=True)
    gallery = case["gallery_features"] = case["gallery_features"] * np.float32(1e-25)
    assert evaluate(**case)["num_query"] == len(case["query_pids"])
    gallery[3, 1] = np.nan
    with pytest.raises(UserError, match="the first is row 3"):
        evaluate(**case)


@pytest.mark.parametrize("d", [1, 7, 64, 513])
def test_rows_of_16_bits_are_those_of_32(d):
    """To the last bit, from the smallest subnormal number to the largest."""
    rng = np.random.default_rng(d)
    rows = (rng.normal(size=(200, d)) * 10.0 ** rng.integers(-8, 5, (200, 1))).astype(np.float16)
    rows[0], rows[1] = 0, 65504
    rows[2] = 2.0**-24
    rows = np.where(np.isfinite(rows), rows, np.float16(1))
    make = prepare_features.ChunkPreparer(256, d, "cosine", "float32")
    found, _ = make(rows)
    wanted, _ = make(rows.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(found).view(np.uint32),
                                  np.asarray(wanted).view(np.uint32))  # fmt: skip
    again, _ = make(rows[:9])  # a shorter chunk, in the memory of the longer one
    np.testing.assert_array_equal(np.asarray(again)[:, :9], np.asarray(found)[:, :9])
    assert not np.asarray(again)[:, 9:].any()
    rows[5, 0] = np.nan
    with pytest.raises(UserError, match="the first is row 5"):
        make(rows)


def in_file(path, array):
    """Return an array as rows of a file."""
    array.tofile(path)
    with path.open("rb") as file:
        about = {"data": 0, "shape": array.shape, "dtype": array.dtype}
        return RowFile(file.fileno(), name=str(path), **about)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_next_chunk_of_a_file_is_loaded_ahead(tmp_path, dtype, monkeypatch):
    """One after the other, in a thread; whatever was begun, the chunk that is asked for comes."""
    array = np.random.default_rng(0).normal(size=(60, 6)).astype(dtype)
    source = prepare_features.make_source(in_file(tmp_path / "F", array), "cosine")
    items = [np.arange(0, 17), np.arange(17, 33), np.array([33, 40, 59]), np.arange(41, 58)]
    asked, read = [], prepare_features.read_file

    def noted(gallery, rows):
        asked.append(next(n for n, own in enumerate(items) if own is rows))
        assert threading.current_thread() is not threading.main_thread()
        return read(gallery, rows)

    monkeypatch.setattr(prepare_features, "read_file", noted)
    plan = types.SimpleNamespace(chunks=items)
    make = prepare_features.ChunkPreparer(17, 6, "cosine", "float32")
    loader = chunks_module.ChunkLoader(source, plan, np.array([3, 40]), make)
    exact = array.astype(np.float32).astype(np.float64)
    exact /= np.sqrt((exact**2).sum(1, keepdims=True))
    for number in (0, 1, 3, 2, 3):
        chunk = loader.load(number)
        found = np.asarray(chunk.features).T
        np.testing.assert_allclose(found[: len(items[number])], exact[items[number]], atol=1e-6)
        assert not found[len(items[number]) :].any()
        assert int(chunk.num_items) == len(items[number])
    assert asked == [0, 1, 2, 3, 2, 3]  # 2 was begun after 1, and 3 after 2
    loader.load(0)
    loader.load(1)
    os.truncate(tmp_path / "F", 30)
    with pytest.raises(UserError, match="has been cut off"):
        loader.load(3)


def test_a_file_of_16_bits_has_the_figures_of_its_numbers(tmp_path):
    """In memory with 32 bits, and from the file with 16, also where lengths leave float32."""
    for seed in range(4):
        rng, case = make_case(seed, ties=True)
        half = case["gallery_features"].astype(np.float16)
        half[rng.integers(0, len(half), 3)] = 0
        wanted = evaluate(**case | {"gallery_features": half.astype(np.float32)}, chunk=64)
        rows = in_file(tmp_path / "F", half)
        assert evaluate(**case | {"gallery_features": rows}, chunk=64) == wanted
        wanted = evaluate(**case | {"gallery_features": half.astype(np.float32)}, chunk=64,
                          metric="euclidean")  # fmt: skip
        found = evaluate(**case | {"gallery_features": rows}, chunk=64, metric="euclidean")
        assert found == wanted
