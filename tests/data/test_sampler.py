import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batnet_jax.data.loading.sampler import epoch_plan, steps_per_epoch

counts_lists = st.lists(st.integers(1, 23), min_size=1, max_size=12)


def labels(counts, order_seed=0):
    """Return non-contiguous pids in random order; the i-th appears counts[i] times."""
    pids = np.repeat(7 * np.arange(len(counts)) + 3, counts)
    return np.random.default_rng(order_seed).permutation(pids)


def check_plan(pids, plan, p, k):
    """Check every invariant of an epoch's plan."""
    ids, counts = np.unique(pids, return_counts=True)
    groups = np.maximum(counts // k, 1)
    steps = max(-(-groups.sum() // p), groups.max())
    assert plan.shape == (steps, p * k)
    assert plan.dtype == np.int64
    rows = plan.reshape(steps, p, k)
    owners = pids[rows]
    assert (owners == owners[..., :1]).all()  # the images of an identity are adjacent
    assert all(len(set(batch)) == p for batch in owners[..., 0])  # distinct identities
    for identity, count, n in zip(ids, counts, groups, strict=True):
        own = rows[owners[..., 0] == identity]
        assert len(own) >= n
        for row in own:
            assert len(set(row)) == min(count, k)  # repeats only if there are fewer than k images
        # n of its rows, the full groups, are disjoint. The other rows are fillers.
        if count >= k:
            assert len(np.unique(own)) >= n * k
        else:
            assert set(own[0]) == set(np.flatnonzero(pids == identity))
    assert len(rows) * p - groups.sum() >= 0


@settings(max_examples=150, deadline=None)
@given(counts_lists, st.data())
def test_invariants(counts, data):
    p = data.draw(st.integers(1, len(counts)))
    k = data.draw(st.integers(1, 6))
    pids = labels(counts, data.draw(st.integers(0, 5)))
    seed, epoch = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    plan = epoch_plan(pids, identities=p, images_per_identity=k, seed=seed, epoch=epoch)
    check_plan(pids, plan, p, k)
    assert len(plan) == steps_per_epoch(pids, identities=p, images_per_identity=k)


def test_each_full_group_exactly_once_without_fillers():
    """12 groups, 3 a batch: there is no place for fillers, so no image is repeated."""
    pids = labels([8, 12, 16, 12])
    plan = epoch_plan(pids, identities=3, images_per_identity=4, seed=0, epoch=0)
    assert plan.shape == (4, 12)
    assert sorted(plan.ravel()) == list(range(48))


def test_remainder_is_left_out_and_changes_with_the_epoch():
    pids = labels([6, 6])
    out = [
        frozenset(range(12))
        - set(
            epoch_plan(pids, identities=2, images_per_identity=4, seed=0, epoch=e).ravel().tolist()
        )
        for e in range(8)
    ]
    assert all(len(rest) == 4 for rest in out)
    assert len(set(out)) > 1


def test_few_images_each_at_least_once():
    pids = np.array([5, 5, 9, 9, 9])
    plan = epoch_plan(pids, identities=2, images_per_identity=4, seed=3, epoch=1)
    assert plan.shape == (1, 8)
    assert set(plan.ravel().tolist()) == set(range(5))
    assert sorted(np.bincount(plan[0], minlength=5)[[0, 1]].tolist()) in ([1, 3], [2, 2])


def test_one_huge_identity_sets_the_number_of_steps():
    pids = labels([400, 4, 4, 4])
    plan = epoch_plan(pids, identities=3, images_per_identity=4, seed=0, epoch=0)
    assert len(plan) == 100
    huge = plan[pids[plan] == 3]
    assert sorted(huge) == sorted(np.flatnonzero(pids == 3))
    check_plan(pids, plan, 3, 4)


def test_a_batch_of_all_identities():
    pids = labels([4, 9, 40, 1])
    plan = epoch_plan(pids, identities=4, images_per_identity=4, seed=0, epoch=0)
    assert len(plan) == 10
    check_plan(pids, plan, 4, 4)


def test_deterministic_and_different_by_seed_and_epoch():
    pids = labels([9] * 20)

    def plan(seed, epoch):
        return epoch_plan(pids, identities=5, images_per_identity=4, seed=seed, epoch=epoch)

    np.testing.assert_array_equal(plan(1, 2), plan(1, 2))
    assert not np.array_equal(plan(1, 2), plan(1, 3))
    assert not np.array_equal(plan(1, 2), plan(2, 2))
    assert not np.array_equal(plan(1, 2), plan(2, 1))


def test_input_is_not_changed():
    pids = labels([5, 6, 7])
    before = pids.copy()
    epoch_plan(pids, identities=2, images_per_identity=2, seed=0, epoch=0)
    np.testing.assert_array_equal(pids, before)


@pytest.mark.parametrize(
    ("pids", "p", "k", "message"),
    [
        ([0, 0, 1, 1], 3, 2, r"^a batch of 3 identities, .* only 2 identities: choose 2 or fewer$"),
        ([], 1, 2, r"^a batch of 1 identities, .* only 0 identities: choose 0 or fewer$"),
        ([0, 0, -1], 1, 2, r"smallest -1.*junk"),
        ([[0, 1]], 1, 2, r"shape \(1, 2\)"),
        ([0, 0], 0, 2, r"^identities=0 must be 1 or more"),
        ([0, 0], 1, 0, r"^images_per_identity=0 must be 1 or more"),
    ],
)
def test_mistakes(pids, p, k, message):
    pids = np.array(pids, np.int64)
    for call in (
        lambda: steps_per_epoch(pids, identities=p, images_per_identity=k),
        lambda: epoch_plan(pids, identities=p, images_per_identity=k, seed=0, epoch=0),
    ):
        with pytest.raises(ValueError, match=message) as info:
            call()
        assert "\n" not in str(info.value)


def test_msmt17_scale_is_fast():
    """32,621 images of 1,041 identities: the plan of an epoch takes less than a second."""
    rng = np.random.default_rng(0)
    pids = np.concatenate([np.arange(1041), rng.integers(0, 1041, 32_621 - 1041)])
    start = time.perf_counter()
    plan = epoch_plan(pids, identities=16, images_per_identity=4, seed=0, epoch=0)
    seconds = time.perf_counter() - start
    check_plan(pids, plan, 16, 4)
    assert seconds < 1.0, seconds
    print(f"{seconds:.3f} s")
