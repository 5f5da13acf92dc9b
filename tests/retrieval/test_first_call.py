"""Arrays as newcomers have them: float64, names of identities, missing cameras; distances."""

import numpy as np
import pytest
from support import needs, retrieval_oracle
from support.retrieval_oracle import similarity

from batnet_jax.errors import UserError
from batnet_jax.retrieval import (
    evaluate,
    evaluate_distances,
    evaluate_reranked,
    single_shot_cmc,
    top_k,
    verify,
)

ALL = (evaluate, evaluate_reranked, verify, single_shot_cmc)


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "query_features": rng.standard_normal((8, 5)),
        "query_pids": rng.integers(0, 4, 8),
        "query_cameras": rng.integers(0, 3, 8),
        "gallery_features": rng.standard_normal((40, 5)),
        "gallery_pids": rng.integers(-1, 4, 40),
        "gallery_cameras": rng.integers(0, 3, 40),
    }


def as_float32(case):
    return {k: v.astype(np.float32) if "features" in k else v for k, v in case.items()}


@pytest.mark.parametrize("function", ALL)
def test_float64_is_rounded_and_recorded(function):
    case = draw()
    got = function(**case)
    assert got.pop("features") == "float64 rounded to float32"
    assert got == function(**as_float32(case))
    exact = {k: np.round(v * 8) / 8 if "features" in k else v for k, v in case.items()}
    assert "features" not in function(**exact)  # float32 holds the values
    one = as_float32(case) | {"gallery_features": case["gallery_features"]}
    assert function(**one)["features"] == "float64 rounded to float32"


def test_searching_rounds_too():
    case = draw()
    got = top_k(case["query_features"], case["gallery_features"], 5)
    rounded = as_float32(case)
    expected = top_k(rounded["query_features"], rounded["gallery_features"], 5)
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(UserError, match="NaN or infinite"):
        top_k(1e200 * case["query_features"], case["gallery_features"], 5)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("kind", [list, np.array, lambda names: np.array(names, object)])
def test_names_are_numbered(function, kind):
    case = as_float32(draw())
    names = ["Ann", "Zoe", "ann", "bob \u00e9", "-1"]  # the last is -1: junk
    named = case | {
        f"{side}_pids": kind([names[pid] for pid in case[f"{side}_pids"]])
        for side in ("query", "gallery")
    }
    named |= {
        f"{side}_cameras": kind([f"cam{c}" for c in case[f"{side}_cameras"]])
        for side in ("query", "gallery")
    }
    assert function(**named) == function(**case)


def test_names_and_numbers_are_not_mixed():
    case = as_float32(draw())
    for change in ({"gallery_pids": ["a"] * 40}, {"query_cameras": ["a"] * 8}):
        with pytest.raises(UserError, match=r"(int64 and .* strings|strings and .* int64): give"):
            evaluate(**case | change)


@pytest.mark.parametrize("function", ALL)
def test_bytes_and_long_numbers_are_names(function):
    """HDF5 has bytes; identities beyond 64 bits are objects of Python."""
    case = as_float32(draw())
    for form in (lambda n: np.array([b"%d" % i for i in n]), lambda n: [2**70 + int(i) for i in n]):
        case["gallery_pids"] = np.abs(case["gallery_pids"])
        other = case | {k: form(v) for k, v in case.items() if k.endswith("pids")}
        assert function(**other) == function(**case)


def test_names_of_which_none_is_shared():
    case = as_float32(draw())
    pairs = {("Ann", "ann"): "'Ann' and 'ann' differ", ("Jos\u00e9", "Jose\u0301"): "differ only"}
    for (query, gallery), words in (pairs | {("a", "b"): "give both sets the same"}).items():
        named = {"query_pids": [query] * 8, "gallery_pids": [gallery] * 39 + ["-1"]}
        with pytest.raises(UserError, match=rf"none of the 1 names in query_pids .*{words}"):
            evaluate(**case | named)


@pytest.mark.parametrize("function", ALL)
def test_tensors_are_arrays(function):
    torch = needs.package("torch")
    case = as_float32(draw())
    assert function(**{k: torch.from_numpy(v) for k, v in case.items()}) == function(**case)
    rounded = function(**{k: torch.from_numpy(v) for k, v in draw().items()})
    assert rounded["features"] == "float64 rounded to float32"
    for lost in (torch.zeros(8, 5, requires_grad=True), torch.zeros(8, 5).bfloat16()):
        with pytest.raises(UserError, match=r"query_features, Tensor, cannot .* as tensor\.detach"):
            function(**case | {"query_features": lost})


@pytest.mark.parametrize("name", ["query_features", "gallery_features", "query_pids"])
def test_what_gives_no_array(name):
    with pytest.raises(UserError, match=f"{name}, list, cannot become an array of NumPy"):
        evaluate(**as_float32(draw()) | {name: [[1.0], [1.0, 2.0]]})


def test_nan_is_an_unknown_camera():
    """A table with missing numbers has floats and NaN."""
    case = as_float32(draw())
    floats = {k: np.where(np.arange(len(v)) % 3, v, np.nan) for k, v in case.items() if "cam" in k}
    lists = {k: [None if np.isnan(c) else int(c) for c in v] for k, v in floats.items()}
    assert evaluate(**case | floats) == evaluate(**case | lists)
    half = {k: v + 0.5 for k, v in floats.items()}
    with pytest.raises(UserError, match="cameras has dtype float64: must be integers"):
        evaluate(**case | half)


@pytest.mark.parametrize("function", ALL)
def test_missing_cameras(function):
    case = as_float32(draw())
    without = {k: v for k, v in case.items() if not k.endswith("cameras")}
    all_none = {"query_cameras": [None] * 8, "gallery_cameras": [None] * 40}
    expected = function(**without | {"query_cameras": None, "gallery_cameras": None})
    assert function(**without) == function(**without | all_none) == expected
    # Some are missing: an unknown camera is never the query's own.
    cameras = {k: v.tolist() for k, v in case.items() if k.endswith("cameras")}
    some = case | {
        "query_cameras": [None if q < 3 else c for q, c in enumerate(cameras["query_cameras"])],
        "gallery_cameras": [None if g % 2 else c for g, c in enumerate(cameras["gallery_cameras"])],
    }
    numbers = case | {
        "query_cameras": np.where(np.arange(8) < 3, 77, case["query_cameras"]),
        "gallery_cameras": np.where(np.arange(40) % 2, 99, case["gallery_cameras"]),
    }
    assert function(**some) == function(**numbers)
    assert function(**some) != expected


def test_a_gallery_is_needed():
    with pytest.raises(UserError, match="no gallery_features are given"):
        evaluate(np.eye(3), [1, 2, 3])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("same_camera", ["remove", "keep"])
@pytest.mark.parametrize("ap", ["precision", "trapezoid"])
def test_distances_against_the_oracle(dtype, same_camera, ap):
    case = draw()
    case = {k: np.round(4 * v) if "features" in k else v for k, v in case.items()}  # many ties
    rows = [-similarity(q, case["gallery_features"], "euclidean") for q in case["query_features"]]
    expected = retrieval_oracle.evaluate(**case, metric="euclidean", ap=ap, same_camera=same_camera)
    labels = {k: v for k, v in case.items() if "features" not in k}
    got = evaluate_distances(np.array(rows, dtype), **labels, ap=ap, same_camera=same_camera)
    assert got == {k: pytest.approx(v) if k != "ap" else v for k, v in expected.items()}


def test_distances_ignore_items_and_take_names():
    features, pids = draw()["gallery_features"], draw()["gallery_pids"]
    names = [f"person {pid}" if pid >= 0 else "-1" for pid in pids]
    distances = np.array([-similarity(q, features, "euclidean") for q in features])
    own = np.arange(40)
    got = evaluate_distances(distances, names, None, names, None, ignore=own, per_query=True)
    expected = evaluate(
        features.astype(np.float32), pids, None, features.astype(np.float32), pids, None,
        ignore=own, metric="euclidean", per_query=True,
    )  # fmt: skip
    assert got == expected
    with pytest.raises(UserError, match="first in row 3"):
        evaluate_distances(np.where(own[:, None] == 3, np.nan, distances), pids, None, pids, None)
    with pytest.raises(UserError, match=r"shape \(40,\)"):
        evaluate_distances(distances[0], pids, None, pids, None)
    with pytest.raises(UserError, match=r"query_pids has shape \(39,\)"):
        evaluate_distances(distances, pids[:39], None, pids, None)
