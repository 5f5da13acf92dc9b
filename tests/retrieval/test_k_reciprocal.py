import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import rerank_oracle as oracle

from batnet_jax.errors import UserError
from batnet_jax.retrieval import scores
from batnet_jax.retrieval.image_set import Labels
from batnet_jax.retrieval.reranking import encoding, k_reciprocal, neighbours
from batnet_jax.retrieval.reranking.k_reciprocal import KReciprocal, reranked_rows
from batnet_jax.retrieval.reranking.row_ranks import ranks_of_rows

# Float32 inner products differ from float64 by some 1e-7, and a few distances add up.
TOLERANCE = dict(rtol=0, atol=2e-6)


def people(seed, num_query, num_gallery, dimensions=16, spread=0.7):
    """Return features [q, d] and [g, d], and identities of about five images around a centre."""
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, max(1, (num_query + num_gallery) // 5), num_query + num_gallery)
    centres = rng.standard_normal((pids.max() + 1, dimensions))
    features = centres[pids] + spread * rng.standard_normal((len(pids), dimensions))
    features = features.astype(np.float32)
    return features[:num_query], features[num_query:], pids[:num_query], pids[num_query:]


def whole(query, gallery, settings, **options):
    """Return the distances [q, g] of all blocks, which must be in order."""
    blocks = list(reranked_rows(query, gallery, settings, **options))
    assert all(rows.dtype == np.float32 for _, rows in blocks)
    starts = [which.start for which, _ in blocks]
    assert starts == [0, *(which.stop for which, _ in blocks[:-1])]
    return np.concatenate([rows for _, rows in blocks])


SETTINGS = [
    KReciprocal(),
    KReciprocal(k1=5, k2=3, weight=0.5),
    KReciprocal(k1=5, k2=1, weight=0.3),
    KReciprocal(k1=7, k2=2, weight=0),  # half of 7 is rounded to 4, of 5 to 2
    KReciprocal(k1=1, k2=1, weight=0),
    KReciprocal(k1=3, k2=9, weight=0.1),  # more encodings than neighbours
    KReciprocal(k1=500, k2=6, weight=0.3),  # more than there are
    KReciprocal(k1=500, k2=500, weight=0.3),
    KReciprocal(k1=4, k2=4, weight=1),
]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_against_the_oracle(setting, metric, monkeypatch):
    """All loops run over several small pieces, the last of them not full."""
    monkeypatch.setattr(neighbours, "_TILE_SIDE", 16)
    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", 100)
    monkeypatch.setattr(encoding, "_COMPARED_AT_ONCE", 7 * 21**2)
    monkeypatch.setattr(k_reciprocal, "_SHARED_AT_ONCE", 150)
    query, gallery, *_ = people(0, 11, 43)
    expected = oracle.final_distances(query, gallery, metric=metric, **setting._asdict())
    got = whole(query, gallery, setting, metric=metric, block=4)
    np.testing.assert_allclose(got, expected, **TOLERANCE)
    np.testing.assert_allclose(whole(query, gallery, setting, metric=metric), got, **TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    k1=st.integers(1, 14),
    k2=st.integers(1, 8),
    weight=st.floats(0, 1),
    spread=st.sampled_from([0.2, 0.7, 3]),
)
def test_any_settings(seed, k1, k2, weight, spread):
    query, gallery, *_ = people(seed, 6, 35, spread=spread)
    expected = oracle.final_distances(query, gallery, metric="cosine", k1=k1, k2=k2, weight=weight)
    got = whole(query, gallery, KReciprocal(k1, k2, weight), block=6)
    np.testing.assert_allclose(got, expected, **TOLERANCE)
    assert got.min() > -1e-6
    assert got.max() < 1 + 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_few_images(shape):
    query, gallery, *_ = people(1, *shape)
    for setting in SETTINGS[:4]:
        expected = oracle.final_distances(query, gallery, metric="cosine", **setting._asdict())
        np.testing.assert_allclose(whole(query, gallery, setting), expected, **TOLERANCE)


def test_images_that_occur_many_times(monkeypatch):
    """Each image is the first of its own list; integers keep ties exact in float32."""
    monkeypatch.setattr(neighbours, "_TILE_SIDE", 16)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        query, gallery = rng.integers(-1, 2, (7, 2)), rng.integers(-1, 2, (52, 2))
        for setting in (KReciprocal(3, 2, 0.3), KReciprocal(8, 1, 0), KReciprocal(6, 4, 0.5)):
            options = dict(metric="euclidean", **setting._asdict())
            expected = oracle.final_distances(query, gallery, **options)
            got = whole(query, gallery, setting, metric="euclidean")
            np.testing.assert_allclose(got, expected, **TOLERANCE)


def test_images_that_are_all_the_same():
    """All distances are 0, so nothing is divided by the largest; encodings stay finite."""
    got = whole(np.ones((2, 3)), np.ones((5, 3)), KReciprocal(k1=10, k2=2))
    np.testing.assert_allclose(got, np.zeros((2, 5)), **TOLERANCE)
    assert np.isfinite(whole(np.zeros((2, 3)), np.ones((5, 3)), KReciprocal(2, 2))).all()


@pytest.mark.parametrize("side", [8, 13, 64])
def test_nearest_and_farthest(side, monkeypatch):
    """Neighbours are found across tiles, the item itself first; integers have many ties."""
    monkeypatch.setattr(neighbours, "_TILE_SIDE", side)
    rng = np.random.default_rng(0)
    features = rng.integers(-3, 4, (45, 3)).astype(np.float32)
    distances = np.square(features[:, None] - features).sum(2)
    np.fill_diagonal(distances, -1)
    expected = np.argsort(distances, axis=1, kind="stable")
    for k in (1, 9, 45):
        calls = []
        nearest, farthest = neighbours.nearest_and_farthest(
            features, k, lambda *done, calls=calls: calls.append(done)
        )
        np.testing.assert_array_equal(nearest, expected[:, :k])
        np.testing.assert_array_equal(farthest, distances.max(1))
        tiles = {8: 21, 13: 10, 64: 1}[side]  # on and above the diagonal
        assert calls == [(done, tiles) for done in range(1, tiles + 1)]


def test_expanded_sets_worked_by_hand():
    """0, 1 and 2 are mutual neighbours; 3 has 2 in its list, but 2's list lacks 3."""
    nearest = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 2, 1]], np.int32)
    items, members = encoding.expanded_sets(nearest, 2)
    assert list(zip(items, members, strict=True)) == [
        *((item, member) for item in range(3) for member in range(3)),
        (3, 3),
    ]
    # With k1 = 1, half of it is 0 neighbours, so sets are not expanded.
    items, members = encoding.expanded_sets(nearest, 1)
    assert list(zip(items, members, strict=True)) == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (3, 3),
    ]  # fmt: skip


def test_two_thirds_are_not_enough():
    """0 has two mutual neighbours in 3's half list (3, 4, 5), and both items of 6's (6, 7)."""
    assert all((3 * n > 2 * m) == (n > 2 / 3 * m) for m in range(1, 1000) for n in range(m + 1))
    lists = {0: [0, 3, 4, 6, 7], 3: [3, 4, 5, 0, 1], 4: [4, 3, 5, 0, 1], 5: [5, 3, 4, 1, 2]}
    lists |= {6: [6, 7, 1, 0, 2], 7: [7, 6, 1, 0, 2], 1: [1, 2, 8, 5, 4], 2: [2, 1, 8, 5, 6]}
    lists |= {8: [8, 1, 2, 5, 6]}
    nearest = np.array([lists[i] for i in range(9)], np.int32)
    items, members = encoding.expanded_sets(nearest, 4)
    assert members[items == 0].tolist() == [0, 3, 4, 6, 7]
    # 3's own mutual neighbours are 0, 4 and 5 (and 1 is not); 5's half list is (5, 3, 4).
    assert members[items == 3].tolist() == [0, 3, 4, 5]


@pytest.mark.parametrize("seed", range(3))
def test_people_are_found_better(seed):
    """Re-ranking improves ranks if images of one person are neighbours."""
    query, gallery, query_pids, gallery_pids = people(seed, 60, 300)
    labels = Labels(query_pids, None), Labels(gallery_pids, None)

    def mean_log_rank(weight):
        rows = reranked_rows(query, gallery, KReciprocal(5, 3, weight))
        return np.log(ranks_of_rows(rows, *labels, same_camera="keep").values).mean()

    assert mean_log_rank(0.3) < mean_log_rank(1) - 0.02


def test_the_original_distance_alone_keeps_its_order():
    query, gallery, *_ = people(3, 5, 50)
    got = whole(query, gallery, KReciprocal(weight=1))
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in (query, gallery)]
    np.testing.assert_array_equal(np.argsort(got, 1), np.argsort(-unit[0] @ unit[1].T, 1))


def test_progress_counts_tiles_then_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "_TILE_SIDE", 32)
    query, gallery, *_ = people(0, 11, 60)
    calls = []
    list(
        reranked_rows(
            query, gallery, KReciprocal(), block=4, progress=lambda *done: calls.append(done)
        )
    )
    assert calls == [(done, 9) for done in range(1, 10)]  # 6 tiles of 32 x 32, 3 blocks of 4


def test_blocks_are_chosen():
    query, gallery, *_ = people(4, 9, 40)
    blocks = [which for which, _ in reranked_rows(query, gallery, KReciprocal())]
    assert blocks == [slice(0, scores.block_size(9, 40))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(k1=0), "k1=0: must be an integer of at least 1"),
        (dict(k1=2.5), "k1=2.5: must be an integer of at least 1"),
        (dict(k2=0), "k2=0: must be an integer of at least 1"),
        (dict(weight=-0.1), "weight=-0.1: must be a number from 0 (Jaccard distance alone) to 1"),
        (dict(weight=1.5), "weight=1.5: must be a number"),
        (dict(weight=np.nan), "weight=nan: must be a number"),
        (dict(weight=True), "weight=True: must be a number"),
        (dict(weight="0.3"), "weight='0.3': must be a number"),
        (dict(metric="l2"), "metric='l2' is unknown"),
        (dict(block=0), "block=0: must be an integer of at least 1"),
        (dict(query=np.ones((2, 4))), "have 4 dimensions and gallery_features 3: must be equal"),
        (dict(gallery=[[np.inf] * 3]), "gallery_features holds NaN or infinite values"),
    ],
)
def test_refusals_come_at_once(change, message):
    good = dict(query=np.ones((2, 3)), gallery=np.ones((4, 3)))
    options = {name: value for name, value in change.items() if name in ("metric", "block")}
    sets = good | {name: value for name, value in change.items() if name in good}
    setting = {name: value for name, value in change.items() if name in KReciprocal._fields}
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        reranked_rows(sets["query"], sets["gallery"], KReciprocal(**setting), **options)
    assert "\n" not in str(caught.value)
