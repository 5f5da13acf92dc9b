"""Heads of ranked lists and pairs of cameras, by hand and against `evaluate`."""

import numpy as np
import pytest

from batnet_jax.errors import UserError
from batnet_jax.modes.report_lists import choose_queries
from batnet_jax.report.cards import KINDS
from batnet_jax.retrieval import (
    ImageSet,
    camera_pairs,
    evaluate,
    first_places,
)


def at_angles(degrees):
    """Return unit vectors in the plane: the cosine decreases with the angle."""
    angles = np.deg2rad(np.asarray(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


QUERY = (at_angles([0]), np.array([1]), np.array([1]))
# Two images of the query's own camera, a junk image, and three others, the second one right.
GALLERY = (
    at_angles([10, 20, 30, 40, 50, 60]),
    np.array([1, 1, -1, 2, 1, 2]),
    np.array([1, 1, 2, 2, 2, 2]),
)


def places_of(found):
    """Return item, rank and verdict of each place."""
    return [place[:3] for place in found]


def test_first_places_by_hand():
    (head,) = first_places(
        ImageSet(*QUERY), ImageSet(*GALLERY), same_camera="remove", places=2, uncounted=1
    )
    assert places_of(head.first) == [(0, 0, True), (3, 1, False), (4, 2, True)]
    cosines = [place.score for place in head.first]
    assert cosines == pytest.approx(np.cos(np.deg2rad([10, 40, 50])).tolist(), abs=1e-6)
    assert (head.left_out, head.missed, head.num_missed) == (1, [], 0)
    (head,) = first_places(ImageSet(*QUERY), ImageSet(*GALLERY), same_camera="remove", places=9)
    assert [place.item for place in head.first] == [3, 4, 5]
    assert head.left_out == 2
    (head,) = first_places(ImageSet(*QUERY), ImageSet(*GALLERY), same_camera="keep", places=3)
    assert places_of(head.first) == [(0, 1, True), (1, 2, True), (3, 3, False)]
    assert head.left_out == 0


def test_missed_matches_by_hand():
    """The right items behind the first place: not those of the own camera, and not junk."""
    pids, cameras = np.array([2, 1, 1, -1, 1, 1]), np.array([2, 1, 2, 2, 2, 3])
    gallery = ImageSet(GALLERY[0], pids, cameras)
    for most in (1, 2, 9):
        (head,) = first_places(
            ImageSet(*QUERY), gallery, same_camera="remove", places=1, missed=most
        )
        assert places_of(head.first) == [(0, 1, False)]
        assert places_of(head.missed) == [(2, 2, True), (4, 3, True), (5, 4, True)][:most]
        assert (head.num_missed, head.left_out) == (3, 0)
    (head,) = first_places(ImageSet(*QUERY), gallery, same_camera="remove", places=9, missed=9)
    assert (head.missed, head.num_missed) == ([], 0)


def drawn(rng, n, people=6, cameras=3):
    features = rng.standard_normal((n, 8)).astype(np.float32)
    return features, rng.integers(1, people + 1, n), rng.integers(1, cameras + 1, n)


def test_ranks_are_those_of_evaluate():
    rng = np.random.default_rng(0)
    query, gallery = drawn(rng, 20), drawn(rng, 60)
    own = evaluate(*query, *gallery, per_query=True)["per_query"]
    heads = first_places(ImageSet(*query), ImageSet(*gallery), same_camera="remove", places=60)
    cut = first_places(
        ImageSet(*query), ImageSet(*gallery), same_camera="remove", places=4, missed=60
    )
    for head, whole in zip(cut, heads, strict=True):
        assert places_of(head.first) == places_of(whole.first)[:4]
        right = [place for place in whole.first[4:] if place.right]
        assert places_of(head.missed) == places_of(right)
        assert head.num_missed == len(right)
    for head, rank in zip(heads, own["first_rank"], strict=True):
        assert [place.rank for place in head.first] == list(range(1, len(head.first) + 1))
        assert next((place.rank for place in head.first if place.right), 0) == rank


def test_camera_pairs_are_evaluations_of_parts():
    rng = np.random.default_rng(1)
    query, gallery = drawn(rng, 30), drawn(rng, 90)
    calls = []
    pairs = camera_pairs(ImageSet(*query), ImageSet(*gallery), progress=lambda *a: calls.append(a))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert [(p["query_camera"], p["gallery_camera"]) for p in pairs] == [
        (a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b
    ]
    for pair in pairs:
        asking, asked = query[2] == pair["query_camera"], gallery[2] == pair["gallery_camera"]
        own = evaluate(*(x[asking] for x in query), *(x[asked] for x in gallery))
        # Other shapes change the last bits of the scores, but the random scores have no ties.
        assert pair["mAP"] == pytest.approx(own["mAP"], rel=1e-12)
        assert pair["rank1"] == own["cmc"]["1"]
        assert pair["num_valid_query"] == own["num_valid_query"]
    kept = camera_pairs(ImageSet(*query), ImageSet(*gallery), same_camera="keep")
    assert (kept[0]["query_camera"], kept[0]["gallery_camera"]) == (1, 1)


def test_a_camera_that_saw_nobody_of_the_queries_has_no_pair():
    features, pids, cameras = GALLERY
    gallery = ImageSet(features, np.where(cameras == 1, 7, pids), cameras)
    pairs = camera_pairs(ImageSet(*QUERY), gallery)
    assert [(p["query_camera"], p["gallery_camera"]) for p in pairs] == [(1, 2)]
    assert pairs[0]["mAP"] == 0.5  # behind one other
    with pytest.raises(UserError, match="needs the cameras"):
        camera_pairs(ImageSet(*QUERY), ImageSet(features, pids, None))


def test_figures_of_each_query():
    features = np.concatenate([QUERY[0], at_angles([90])])
    result = evaluate(features, [1, 9], [1, 1], *GALLERY, per_query=True)
    own = result["per_query"]
    assert own["first_rank"] == [2, 0]
    assert own["average_precision"] == [0.5, None]
    assert own["inverse_negative_penalty"] == [0.5, None]
    assert "per_query" not in evaluate(*QUERY, *GALLERY)


# Which queries are shown.

CHOSEN = [kind for kind in KINDS if kind != "hardest"]


def test_kinds_of_queries_by_hand():
    kinds = choose_queries([0.5, None, 0.1, 0.9, 0.3, 0.7], 1, seed=0)
    by_kind = {kind: [q for q, own in kinds.items() if kind in own] for kind in CHOSEN}
    assert (by_kind["worst"], by_kind["median"], by_kind["best"]) == ([2], [0], [3])
    assert len(by_kind["random"]) == 1
    assert 1 not in kinds
    assert next(iter(kinds)) == 2  # the worst first


def test_hardest_queries_are_a_kind_of_their_own():
    kinds = choose_queries([0.5, 0.25, 0.1, 0.9], 1, seed=0, hardest=[1, 2])
    assert kinds[1] == ["median", "hardest"]
    assert kinds[2] == ["worst", "hardest"]


def test_few_queries_stand_for_several_kinds_and_many_for_one():
    assert choose_queries([0.5], 20, seed=0) == {0: CHOSEN}
    values = np.random.default_rng(2).random(500).tolist()
    kinds = choose_queries(values, 20, seed=0)
    assert choose_queries(values, 20, seed=0) == kinds
    assert choose_queries(values, 20, seed=1) != kinds
    assert all(sum(kind in own for own in kinds.values()) == 20 for kind in CHOSEN)
    worst = [values[q] for q, own in kinds.items() if "worst" in own]
    assert worst == sorted(values)[:20]


def test_among_equals_it_draws():
    chosen = [q for q, own in choose_queries([1.0] * 300, 5, seed=0).items() if "best" in own]
    assert chosen != sorted(chosen)
    assert max(chosen) > 100
