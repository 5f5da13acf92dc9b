"""The ranked lists and the hardest identities of the report: which to show, and their images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from batnet_jax import retrieval
from batnet_jax.data import Split
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.evaluation.evaluate import camera_of, take_left_out
from batnet_jax.evaluation.ranked_test import RankedTest
from batnet_jax.report.cards import KINDS, Card, Hit, PageImage
from batnet_jax.report.hardest import HardIdentity
from batnet_jax.report.ranked_list import SHAPE
from batnet_jax.report.thumbnails import Thumbnails

LISTS = 10
"""Ranked lists of each kind, over all tests. More would hardly be read, and with this limit the
page stays below about 20 MB for any number of queries."""
PLACES = 10
"""Places of a ranked list: as many as one glance takes in."""
UNCOUNTED = 3
"""Images of the query's own camera in a ranked list: enough to see that they come first."""
MISSED = 3
"""Matches behind the places of a ranked list."""
HARDEST = 15
"""Identities in the list of the hardest."""
HARDEST_PAIRS = 10
"""Camera pairs that always have a ranked list."""
_AT_ONCE = 64
"""Images decoded at a time: they are large, and only their thumbnails are kept."""


def choose_queries(
    average_precisions: Sequence[float | None], count: int, seed: int, hardest: Sequence[int] = ()
) -> dict[int, list[str]]:
    """Choose a few queries of each kind of `report.cards.KINDS`.

    Queries of equal AP, such as all perfect ones, are drawn at random, because the first ones
    would show few people.

    Args:
      average_precisions: of all queries; None for a query without a match.
      count: queries of each kind; fewer if fewer are valid.
      seed: of the random draws.
      hardest: the queries of the kind `hardest`.
    Returns: the kinds of each chosen query, worst queries first.
    """
    rng = np.random.default_rng(seed)
    valid = [q for q, value in enumerate(average_precisions) if value is not None]
    drawn = rng.permutation(valid).tolist()
    order = sorted(drawn, key=lambda q: average_precisions[q])  # stable: ties stay in drawn order
    count = min(count, len(order))
    start = (len(order) - count) // 2
    chosen = {
        "worst": order[:count],
        "median": order[start : start + count],
        "best": order[::-1][:count],
        "random": rng.permutation(valid).tolist()[:count],
        "hardest": hardest,
    }
    kinds: dict[int, list[str]] = {}
    for kind in KINDS:
        for q in chosen[kind]:
            kinds.setdefault(q, []).append(kind)
    return kinds


def hard_queries(ranked: RankedTest, pairs: Sequence[dict[str, Any]]) -> list[int]:
    """Return the query of lowest AP of each of the hardest identities and camera pairs.

    Args:
      ranked: the test.
      pairs: see `retrieval.camera_pairs`.
    """
    query, gallery = ranked.test.query, ranked.test.gallery
    average_precisions = ranked.figures["per_query"]["average_precision"]
    values = np.array([np.inf if own is None else own for own in average_precisions])
    chosen = [
        int(np.argmin(np.where(query.pids == int(pid), values, np.inf)))
        for pid in _hardest_pids(ranked)
    ]
    for pair in sorted(pairs, key=lambda pair: pair["mAP"])[:HARDEST_PAIRS]:
        found = np.unique(gallery.pids[gallery.cameras == pair["gallery_camera"]])
        asked = (query.cameras == pair["query_camera"]) & np.isin(query.pids, found)
        chosen.append(int(np.argmin(np.where(asked, values, np.inf))))
    return list(dict.fromkeys(chosen))


def make_cards(
    ranked: RankedTest, kinds: dict[int, list[str]], thumbnails: Thumbnails
) -> list[Card]:
    """Make the ranked lists of chosen queries.

    Args:
      ranked: the test.
      kinds: see `choose_queries`.
      thumbnails: collects the images.
    """
    query, gallery = ranked.test.query, ranked.test.gallery
    per_query = ranked.figures["per_query"]
    chosen = np.array(list(kinds), int)
    heads = retrieval.first_places(
        ranked.query.take(chosen),
        ranked.gallery,
        same_camera=ranked.same_camera,
        left_out=take_left_out(ranked, chosen),
        places=PLACES,
        uncounted=UNCOUNTED,
        missed=MISSED,
    )
    items = sorted({place.item for head in heads for place in (*head.first, *head.missed)})
    item_thumbnails = add_images(ranked.gallery_store, items, thumbnails)
    query_thumbnails = add_images(ranked.query_store, chosen.tolist(), thumbnails)

    def make_hit(place: retrieval.Place) -> Hit:
        g = place.item
        image = page_image(ranked.test, gallery, g, item_thumbnails[g])
        return Hit(image, place.rank, _verdict(place), place.score)

    return [
        Card(
            query=page_image(ranked.test, query, q, query_thumbnails[q]),
            kinds=kinds[q],
            average_precision=per_query["average_precision"][q],
            first_rank=per_query["first_rank"][q],
            hits=[make_hit(place) for place in head.first],
            left_out=head.left_out,
            missed=[make_hit(place) for place in head.missed],
            num_missed=head.num_missed,
        )
        for q, head in zip(chosen.tolist(), heads, strict=True)
    ]


def page_image(test: RetrievalTest, split: Split, i: int, thumbnail: str) -> PageImage:
    """Return image i of one of a test's splits, as the page shows it."""
    pid = int(split.pids[i])
    return PageImage(thumbnail, pid, camera_of(split, i), test.name_of(pid), split.filenames[i])


def _verdict(place: retrieval.Place) -> str:
    """Return the verdict of `report.cards.Hit`; a place without a rank does not count."""
    if not place.rank:
        return "same"
    return "right" if place.right else "wrong"


def add_images(store: ImageStore, items: Sequence[int], thumbnails: Thumbnails) -> dict[int, str]:
    """Add some images of a store to the thumbnails; return the thumbnail of each."""
    names = {}
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        for item, image in zip(part, store.originals(np.array(part), SHAPE), strict=True):
            names[item] = thumbnails.add(image)
    return names


def hardest_identities(ranked: RankedTest, thumbnails: Thumbnails) -> list[HardIdentity]:
    """Return the identities of lowest mAP, lowest first, each with its first query image."""
    figures, order = ranked.figures["per_identity"], _hardest_pids(ranked)
    first_queries = [int(np.argmax(ranked.test.query.pids == int(pid))) for pid in order]
    names = add_images(ranked.query_store, first_queries, thumbnails)
    return [
        HardIdentity(
            pid=int(pid),
            thumbnail=names[q],
            num_queries=figures[pid]["num_valid_query"],
            mean_ap=figures[pid]["mAP"],
            rank1=figures[pid]["cmc"]["1"],
            name=ranked.test.name_of(int(pid)),
        )
        for pid, q in zip(order, first_queries, strict=True)
    ]


def _hardest_pids(ranked: RankedTest) -> list[str]:
    """Return the identities of lowest mAP, as the figures name them."""
    figures = ranked.figures["per_identity"]
    valid = [pid for pid, own in figures.items() if own["num_valid_query"]]
    return sorted(valid, key=lambda pid: (figures[pid]["mAP"], int(pid)))[:HARDEST]
