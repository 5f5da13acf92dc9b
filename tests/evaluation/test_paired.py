"""Paired statistics beside slow versions of their definitions, and beside SciPy."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from batnet_jax.evaluation import paired
from batnet_jax.evaluation.paired import compare_seeds, holm, paired_bootstrap, sign_flip_test


def slow_bootstrap(values, units, samples, seed):
    """Draw unit after unit, collect the queries of each, and average them."""
    rng = np.random.default_rng(seed)
    names, means = sorted(set(units.tolist())), []
    for _ in range(samples):
        drawn = [names[i] for i in rng.integers(0, len(names), len(names))]
        rows = [row for name in drawn for row in values[units == name]]
        means.append(np.mean(rows, axis=0))
    return np.quantile(means, [0.025, 0.975], axis=0)


@pytest.mark.parametrize("block", [1, 30, 2**22])
def test_bootstrap_draws_units_with_all_their_queries(rng, monkeypatch, block):
    """Block is smaller than a sample, a few samples, and larger than all."""
    monkeypatch.setattr(paired, "_BLOCK", block)
    values = rng.normal(size=(23, 3))
    units = rng.integers(0, 9, 23) * 10 - 20
    found = paired_bootstrap(values, units, samples=50, seed=4)
    low, high = slow_bootstrap(values, units, 50, 4)
    np.testing.assert_allclose(found.value, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.low, low, rtol=1e-12, atol=1e-14)  # sums in another order
    np.testing.assert_allclose(found.high, high, rtol=1e-12, atol=1e-14)


def test_bootstrap_interval_of_all_samples():
    """Three units have 27 equally likely samples; 20,000 draws come close to their quantiles."""
    values = np.array([0.0, 1.0, 4.0, 4.0])
    units = np.array([0, 1, 2, 2])
    parts = [values[units == unit] for unit in range(3)]
    means = [
        np.concatenate([parts[i] for i in drawn]).mean()
        for drawn in itertools.product(range(3), repeat=3)
    ]
    found = paired_bootstrap(values[:, None], units, samples=20_000, seed=0)
    assert (found.low[0], found.high[0]) == (np.min(means), np.max(means))  # each is 1 of 27


def test_bootstrap_agrees_with_scipy(rng):
    values = rng.normal(size=200)
    found = paired_bootstrap(values[:, None], np.arange(200), samples=20_000, seed=0)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng
    ).confidence_interval
    # The error of a quantile of 20,000 draws is about 0.002 of this width.
    width = theirs.high - theirs.low
    np.testing.assert_allclose([found.low[0], found.high[0]], theirs, atol=0.03 * width)


def test_columns_share_their_samples(rng):
    """The interval of a constant difference has no width, whatever the queries' own spread."""
    values = rng.normal(size=(40, 1))
    pair = np.concatenate([values, values + 0.125, np.full((40, 1), 0.125)], axis=1)
    found = paired_bootstrap(pair, np.arange(40) // 4, samples=200, seed=0)
    assert found.low[2] == found.high[2] == 0.125
    np.testing.assert_allclose(found.low[1] - found.low[0], 0.125, rtol=1e-12)


def slow_flips(values, units):
    """Flip all units in all ways, in exact arithmetic."""
    sums = {}
    for value, unit in zip(values, units, strict=True):
        sums[unit] = sums.get(unit, 0) + Fraction(value)
    reached = [
        abs(sum(s * v for s, v in zip(signs, sums.values(), strict=True)))
        >= abs(sum(sums.values()))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    return Fraction(sum(reached), len(reached))


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, -0.1, 0.2, 0.3, -0.7, 1.0]), st.integers(0, 5)),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_all_flips(pairs):
    values, units = (np.array(column) for column in zip(*pairs, strict=True))
    # Tenths have no exact floats; the slow version gets them as whole tenths.
    wanted = slow_flips(np.rint(10 * values).astype(int).tolist(), units.tolist())
    assert sign_flip_test(values[:, None], units, samples=128, seed=0)[0] == float(wanted)


def test_flips_by_hand():
    """Of the 8 sums of ±1 ±2 ±3 only +6 and -6 are as far from 0; without the 3, 4 of 4."""
    ones = np.array([[1.0, 1.0], [2.0, -1.0], [3.0, 0.0]])
    assert sign_flip_test(ones, np.arange(3), samples=8, seed=0).tolist() == [0.25, 1.0]
    assert sign_flip_test(np.zeros((5, 1)), np.arange(5), samples=8, seed=0).tolist() == [1.0]


def test_all_flips_agree_with_scipy(rng):
    values = rng.normal(0.4, 1, size=10)
    theirs = stats.permutation_test(
        (values, np.zeros(10)), lambda a, b: np.mean(a - b), permutation_type="samples",
        n_resamples=2**10,
    ).pvalue  # fmt: skip
    ours = sign_flip_test(values[:, None], np.arange(10), samples=2**10, seed=0)[0]
    assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("block", [1, 2**22])
def test_drawn_flips_come_close_to_all(rng, monkeypatch, block):
    monkeypatch.setattr(paired, "_BLOCK", block)
    values = rng.normal(0.5, 1, size=(14, 1))
    whole = sign_flip_test(values, np.arange(14), samples=2**14, seed=0)[0]
    drawn = sign_flip_test(values, np.arange(14), samples=4000, seed=0)[0]
    assert whole == pytest.approx(drawn, abs=4 * (whole / 4000) ** 0.5)
    assert drawn * 4001 == pytest.approx(round(drawn * 4001))  # the observed signs count, too
    sure = sign_flip_test(np.ones((40, 1)), np.arange(40), samples=99, seed=0)[0]
    assert sure == 1 / 100


def test_identities_keep_their_promise_and_single_queries_do_not():
    """Nothing differs in 200 worlds: 5 % of the tests may say so, 95 % of the intervals hold 0."""
    rng = np.random.default_rng(1)
    identities = np.repeat(np.arange(30), 4)
    found = {"identity": np.zeros(2), "query": np.zeros(2)}
    for world in range(200):
        values = (rng.normal(size=30)[identities] + rng.normal(size=120))[:, None]
        for name, units in (("identity", identities), ("query", np.arange(120))):
            interval = paired_bootstrap(values, units, samples=200, seed=world)
            p = sign_flip_test(values, units, samples=200, seed=world)[0]
            found[name] += (interval.low[0] <= 0 <= interval.high[0], p <= 0.05)
    # Four standard errors of 5 % of 200 worlds are 6 %. In 4,000 worlds 93.7 % of the intervals
    # held 0, as 30 units are few, and 5.0 % of the tests were wrong; by query 78 % and 21 %.
    covered, wrong = found["identity"] / 200
    assert covered > 0.865
    assert wrong < 0.11
    covered, wrong = found["query"] / 200
    assert covered < 0.85
    assert wrong > 0.13


def test_holm_by_hand():
    """Four tests; the second lowest p-value times 3 is below the lowest times 4."""
    assert holm([0.01, 0.04, 0.0101, 0.005]) == pytest.approx([0.03, 0.04, 0.03, 0.02])
    assert holm([0.02, 0.025]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.3]) == [0.3]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_as_the_steps_do(p_values):
    """Holm's own procedure: from the lowest on, reject while p <= level / tests that are left."""
    corrected = holm(p_values)
    for level in (0.001, 0.05, 0.3):
        rejected = set()
        for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[i] * (len(p_values) - place) > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(corrected) if p <= level} == rejected


def test_seeds_agree_with_students_test(rng):
    ours, theirs = rng.normal(size=(2, 7))
    found = compare_seeds((ours - theirs).tolist())
    wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    np.testing.assert_allclose([found["low"], found["high"]], wanted, rtol=1e-9)
    assert found["mean"] == pytest.approx(np.mean(ours - theirs))
    assert found["std"] == pytest.approx(np.std(ours - theirs, ddof=1))
    flips = sign_flip_test((ours - theirs)[:, None], np.arange(7), samples=128, seed=0)
    assert found["p"] == flips[0]


def test_few_seeds_cannot_be_sure():
    assert compare_seeds([0.1, 0.1, 0.1])["p"] == 2 / 2**3
    assert compare_seeds([0.1] * 5)["p"] > 0.05 > compare_seeds([0.1] * 6)["p"]
    same = compare_seeds([0.0, 0.0])
    assert (same["mean"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
