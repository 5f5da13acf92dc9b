"""Arguments that `evaluate` refuses, each in one line."""

import re

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.retrieval import evaluate

GOOD = dict(
    query_features=np.eye(2, 3), query_pids=[1, 2], query_cameras=[1, 1],
    gallery_features=np.eye(3), gallery_pids=[1, 2, 3], gallery_cameras=[2, 2, 2],
)  # fmt: skip


REFUSALS = [
    (dict(metric="l2"), "metric='l2' is unknown: use 'cosine' or 'euclidean'"),
    (dict(ap="voc"), "ap='voc' is unknown: use 'precision' or 'trapezoid'"),
    (dict(same_camera=True), "same_camera=True is unknown: use 'remove' or 'keep'"),
    (dict(cmc_ranks=(1, 0)), "cmc_ranks=0: must be an integer of at least 1"),
    (dict(cmc_ranks=10), "cmc_ranks=10: must be a list of integers, such as (1, 5, 10)"),
    (dict(cmc_ranks=None), "cmc_ranks=None: must be a list of integers"),
    (dict(cmc_ranks="10"), "cmc_ranks='10': must be a list of integers"),
    (dict(cmc_ranks=np.array(5)), "must be a list of integers"),
    (dict(cmc_ranks=[[1, 5]]), "must be a list of integers"),
    (dict(cmc_ranks=[1, 2.5]), "cmc_ranks=2.5: must be an integer"),
    (
        dict(gallery_pids=np.array([1, 2, 2**64 - 1], np.uint64)),
        "gallery_pids holds 18446744073709551615: must be 9223372036854775807 or less",
    ),
    (
        dict(query_cameras=np.array([1, 2**63], np.uint64)),
        "query_cameras holds 92233720368547758",
    ),
    (dict(block=0), "block=0: must be an integer of at least 1"),
    (dict(block=2.5), "block=2.5: must be an integer of at least 1"),
    (dict(query_features=[[1, np.nan, 0], [1, 0, 0]]), "query_features holds NaN or infinite"),
    (dict(gallery_features=[[1, 0, 0], [1, 1, 1], [np.inf, 0, 0]]), "in 1 of 3 rows (the first is"),
    (dict(gallery_features=np.eye(3) * 1e39), "gallery_features holds NaN or infinite values in 3"),
    (
        dict(gallery_features=np.eye(3, dtype=np.float32) * 1e20, metric="euclidean"),
        "of length 1e+20: euclidean",
    ),
    (
        dict(gallery_features=np.eye(3, dtype=int) + 2**24),
        "has dtype int64 and values that float32",
    ),
    (dict(dtype="float16"), "dtype='float16' is unknown: use 'float32' or 'bfloat16'"),
    (dict(chunk=0), "chunk=0: must be an integer of at least 1"),
    (dict(bootstrap=-1), "bootstrap=-1: must be an integer of at least 1"),
    (dict(query_features=np.eye(2, 3) * 1j), "query_features has dtype complex128"),
    (dict(query_features=[["a", "b", "c"]] * 2), "query_features has dtype <U1: must be numbers"),
    (dict(query_features=np.ones(3)), "query_features has shape (3,): must be [images"),
    (dict(query_features=np.eye(2)), "have 2 dimensions and gallery_features 3: must be equal"),
    (dict(query_features=np.ones((0, 3))), "query_features is empty, of shape (0, 3)"),
    (dict(gallery_features=np.ones((0, 3))), "gallery_features is empty, of shape (0, 3)"),
    (dict(gallery_features=np.ones((3, 0))), "gallery_features is empty, of shape (3, 0)"),
    (dict(query_pids=[1]), "query_pids has shape (1,): must be (2,)"),
    (dict(gallery_pids=[1, 2]), "gallery_pids has shape (2,): must be (3,)"),
    (dict(query_cameras=[[1, 1]]), "query_cameras has shape (1, 2): must be (2,)"),
    (dict(gallery_cameras=[2] * 4), "gallery_cameras has shape (4,): must be (3,)"),
    (dict(query_pids=[1.0, 2.0]), "query_pids has dtype float64: must be integers"),
    (
        dict(gallery_pids=["a", "b", "c"]),
        "query_pids are int64 and gallery_pids strings: give both",
    ),
    (dict(query_cameras=[True, False]), "query_cameras has dtype bool: must be integers"),
    (dict(query_cameras=None), "cameras were given for only one of query and gallery"),
    (dict(gallery_cameras=None), "cameras were given for only one of query and gallery"),
    (dict(gallery_pids=[-1, -1, -1]), "all 3 gallery items are junk"),
    (dict(junk=[True] * 3), "all 3 gallery items are junk"),
    (dict(junk=[0, 1, 0]), "junk has dtype int64 and shape (3,): must be a mask, bool of shape"),
    (dict(junk=[True]), "junk has dtype bool and shape (1,): must be a mask, bool of shape (3,)"),
    (dict(query_pids=[8, 9]), "none of the 2 queries has a match among the 3 gallery items"),
    (dict(query_cameras=[2, 2]), "needs its identity seen by another camera"),
    (dict(query_pids=[-1, -1], gallery_pids=[-1, 2, 3]), "none of the 2 queries"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS, ids=[m for _, m in REFUSALS])
def test_refusals(change, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        evaluate(**GOOD | change)
    assert "\n" not in str(caught.value)


def test_good_is_good():
    assert evaluate(**GOOD)["mAP"] == 1
