import json
import re

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval.verification import BINS, verify


def random_case(seed, dimensions=6):
    rng = np.random.default_rng(seed)
    pids, cameras = rng.integers(0, 6, 30), rng.integers(0, 3, 30)
    centres = rng.normal(size=(6, dimensions))
    gallery_pids = rng.integers(-1, 6, 80)

    def features(people):
        return (centres[people] + rng.normal(size=(len(people), dimensions))).astype(np.float32)

    return dict(
        query_features=features(pids), query_pids=pids, query_cameras=cameras,
        gallery_features=features(gallery_pids), gallery_pids=gallery_pids,
        gallery_cameras=rng.integers(0, 3, 80),
    )  # fmt: skip


def all_pairs(case, metric, same_camera):
    """Return the similarity of every pair in float64, and whether it shows one person."""
    similarity, same = [], []
    for f, p, c in zip(*(case[f"query_{k}"] for k in ("features", "pids", "cameras")), strict=True):
        others = zip(*(case[f"gallery_{k}"] for k in ("features", "pids", "cameras")), strict=True)
        for g, pid, camera in others:
            if pid == -1 or (pid == p and camera == c and same_camera == "remove"):
                continue
            a, b = f.astype(float), g.astype(float)
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            similarity.append(cosine if metric == "cosine" else -np.linalg.norm(a - b))
            same.append(pid == p)
    return np.array(similarity), np.array(same)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("same_camera", ["remove", "keep"])
def test_against_all_pairs(metric, same_camera):
    case = random_case(0)
    similarity, same = all_pairs(case, metric, same_camera)
    got = verify(**case, metric=metric, same_camera=same_camera, block=7)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert (got["num_positive"], got["num_negative"]) == (same.sum(), (~same).sum())
    sign = 1 if metric == "cosine" else -1
    span = 2.002 if metric == "cosine" else abs(got["histograms"]["edges"][0])
    for point in got["operating_points"]:
        threshold = sign * point["threshold"]
        near = np.abs(similarity - threshold).min()
        assert near > 1e-6, "a pair on the edge: float32 may put it on either side"
        mistaken, accepted = ((similarity[kind] >= threshold).mean() for kind in (~same, same))
        assert point["false_accept_rate"] == pytest.approx(mistaken, abs=1e-12)
        assert point["true_accept_rate"] == pytest.approx(accepted, abs=1e-12)
        assert mistaken <= point["wanted_false_accept_rate"]
        # A threshold one bin lower accepts too many.
        more = (similarity[~same] >= threshold - 1.001 * span / BINS).mean()
        assert more > point["wanted_false_accept_rate"]
        assert point["resolved"] == (point["wanted_false_accept_rate"] * (~same).sum() >= 1)
    assert {p["resolved"] for p in got["operating_points"]} == {True, False}
    # The area under the ROC curve is the chance that a positive pair is more similar.
    chance = (similarity[same][:, None] > similarity[~same]).mean()
    assert got["area_under_roc"] == pytest.approx(chance, abs=1e-4)
    rates = [((similarity[~same] >= t).mean(), (similarity[same] < t).mean()) for t in similarity]
    best = min(rates, key=lambda r: abs(r[0] - r[1]))
    assert got["equal_error_rate"] == pytest.approx(sum(best) / 2, abs=0.01)  # steps of 1 / pairs
    histograms = got["histograms"]
    assert sum(histograms["positive"]) == same.sum()
    assert sum(histograms["negative"]) == (~same).sum()


def test_by_hand():
    # Cosines of the query (1, 0): positive 1 and 0.6, negative 0.8, 0, -1.
    gallery = np.float32([[2, 0], [3, 4], [4, 3], [0, 5], [-1, 0]])
    got = verify(
        [[1.0, 0.0]], [1], None, gallery, [1, 1, 2, 2, 3], None, false_accept_rates=(0.1, 0.4, 0.9)
    )
    points = got["operating_points"]
    assert [p["true_accept_rate"] for p in points] == [0.5, 1, 1]
    assert [p["false_accept_rate"] for p in points] == [0, 1 / 3, 2 / 3]
    # The threshold is just above the first negative pair to refuse.
    for point, negative in zip(points, (0.8, 0, -1), strict=True):
        assert negative < point["threshold"] <= negative + 2.002 / BINS
    assert got["area_under_roc"] == pytest.approx(
        5 / 6
    )  # 5 of 6 comparisons are right, 0.6 < 0.8 is not


def test_progress_and_block():
    case, calls = random_case(1), []
    got = verify(**case, block=8, progress=lambda *a: calls.append(a))
    assert calls == [(8, 30), (16, 30), (24, 30), (30, 30)]
    assert verify(**case) == got


@pytest.mark.parametrize("far", [2**16, 2**32, -(2**40)])
def test_names_of_identities_do_not_matter(far):
    case = random_case(2)
    renamed = {k: case[k] for k in ("query_pids", "gallery_pids")}
    renamed = {k: np.where(v == -1, -1, (v * 5 % 6) * far + 7) for k, v in renamed.items()}
    assert verify(**case | renamed) == verify(**case)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(false_accept_rates=(0,)), "false_accept_rates=0: each must be between 0 and 1"),
        (dict(metric="l2"), "metric='l2' is unknown"),
        (dict(same_camera=1), "same_camera=1 is unknown"),
        (dict(query_pids=[7]), "there is no positive pair"),
        (dict(gallery_pids=[1, 1]), "there is no negative pair"),
        (dict(gallery_pids=[-1, -1]), "there is no positive pair"),
        (dict(query_features=[[np.nan]]), "query_features holds NaN"),
        (dict(gallery_features=[[1.0, 2.0]] * 2), "query_features have 1 dimensions"),
        (dict(block=0), "block=0: must be an integer"),
    ],
)
def test_refusals(change, message):
    case = dict(
        query_features=[[1.0]], query_pids=[1], query_cameras=None,
        gallery_features=[[1.0], [-1.0]], gallery_pids=[1, 2], gallery_cameras=None,
    )  # fmt: skip
    assert verify(**case)["area_under_roc"] == 1
    with pytest.raises(UserError, match=re.escape(message)):
        verify(**case | change)
