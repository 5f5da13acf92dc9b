"""Held-out identities and drawn queries: invariants for any labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batnet_jax.data.splits import hold_out, query_and_gallery

LABELS = st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 3)), min_size=1, max_size=40)


@given(st.lists(st.integers(0, 30), min_size=1), st.floats(0.01, 0.99))
def test_whole_identities_are_held_out(pids, share):
    pids = np.array(pids)
    held = hold_out(pids, share)
    assert set(pids[held]).isdisjoint(pids[~held])
    people = len(set(pids))
    assert len(set(pids[held])) == min(max(round(share * people), 1), max(people - 1, 1))


def test_the_order_and_number_of_images_do_not_matter():
    pids = np.arange(100)
    held = set(pids[hold_out(pids, 0.1)])
    assert len(held) == 10
    shuffled = np.random.default_rng(1).permutation(np.repeat(pids, 3))
    assert set(shuffled[hold_out(shuffled, 0.1)]) == held


@given(LABELS)
def test_every_query_has_a_match(labels):
    pids, cameras = (np.array(column) for column in zip(*labels, strict=True))
    query, gallery = query_and_gallery(pids, cameras)
    assert sorted([*query, *gallery]) == list(range(len(pids)))
    assert (np.diff(query) > 0).all()
    assert (np.diff(gallery) > 0).all()
    for q in query:
        same = pids[gallery] == pids[q]
        if cameras[q] >= 0:
            same &= cameras[gallery] != cameras[q]
        assert same.any()
    for pid in set(pids):
        own = query[pids[query] == pid]
        assert len(own) <= (pids == pid).sum() / 2
        known = cameras[own][cameras[own] >= 0]
        assert len(set(known)) == len(known)


@given(LABELS)
def test_every_possible_query_identity_has_a_query(labels):
    pids, cameras = (np.array(column) for column in zip(*labels, strict=True))
    query, _ = query_and_gallery(pids, cameras)
    for pid in set(pids):
        own = cameras[pids == pid]
        views = len(set(own[own >= 0])) + (own < 0).sum()
        assert (pid in pids[query]) == (views >= 2)


@pytest.mark.parametrize(
    ("cameras", "queries"),
    [([1, 1, 1, 2, 2, 3, 3, 3], 3), ([1, 2], 1), ([1, 1, 1], 0), ([-1] * 6, 3), ([4], 0)],
)
def test_by_hand(cameras, queries):
    """One query a camera, at most half of the images, each with a match in another camera."""
    query, gallery = query_and_gallery(np.zeros(len(cameras), int), np.array(cameras))
    assert (len(query), len(gallery)) == (queries, len(cameras) - queries)
