"""What of a ranked test the report shows: which queries, their lists, the hardest identities.

Everything is read off features that are there already; only what is shown is decoded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from batnet_jax import retrieval
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.evaluation.evaluate import Ranked, camera_of
from batnet_jax.report.cards import KINDS, Card, Hit, Shown
from batnet_jax.report.page import Markup
from batnet_jax.report.thumbnails import Thumbnails, picture

PLACES = 10
"""Of a list: as many as fit beside each other."""
UNCOUNTED = 3
"""Images of the query's own camera in a list: enough to see that they lead it."""
HARDEST = 15
_AT_ONCE = 64
"""Images decoded at a time: they are large, and what is kept of them is small."""


def choose_queries(
    average_precisions: Sequence[float | None], count: int, seed: int
) -> dict[int, list[str]]:
    """The queries to show: a few of each kind of `report.cards.KINDS`.

    Among equal ones, as all that are ranked perfectly, it draws: the first would be of few people.

    Args:
      average_precisions: of all queries; None where nothing can be found.
      count: of each kind; fewer where there are not so many queries.
      seed: of the draws.
    Returns: for each query that is shown the kinds that it stands for; the worst first.
    """
    rng = np.random.default_rng(seed)
    valid = [q for q, value in enumerate(average_precisions) if value is not None]
    drawn = rng.permutation(valid).tolist()
    order = sorted(drawn, key=lambda q: average_precisions[q])  # stable: equal ones stay drawn
    count = min(count, len(order))
    start = (len(order) - count) // 2
    chosen = {
        "worst": order[:count],
        "median": order[start : start + count],
        "best": order[::-1][:count],
        "random": rng.permutation(valid).tolist()[:count],
    }
    kinds: dict[int, list[str]] = {}
    for kind in KINDS:
        for q in chosen[kind]:
            kinds.setdefault(q, []).append(kind)
    return kinds


def make_cards(
    test: RetrievalTest, found: Ranked, kinds: dict[int, list[str]], thumbnails: Thumbnails
) -> list[Card]:
    """The ranked lists of chosen queries.

    Args:
      test: the test.
      found: its features and images.
      kinds: see `choose_queries`.
      thumbnails: take in the images.
    """
    query, gallery = test.query, test.gallery
    chosen = np.array(list(kinds), int)
    features, own = found.features, found.figures["per_query"]
    heads = retrieval.first_places(
        features["query"][chosen],
        query.pids[chosen],
        query.cameras[chosen],
        features["gallery"],
        gallery.pids,
        gallery.cameras,
        same_camera=found.settings["same_camera"],
        places=PLACES,
        uncounted=UNCOUNTED,
    )
    lists = []
    for q, head in zip(chosen.tolist(), heads, strict=True):
        places = list(head.first)
        if not any(place.right and place.rank for place in places):
            item = _first_right(test, found, q)
            places.append(retrieval.Place(item, own["first_rank"][q], True))
        lists.append(places)
    items = sorted({place.item for places in lists for place in places})
    pictures = _take_in(found.stores["gallery"], items, thumbnails)
    asked = _take_in(found.stores["query"], chosen.tolist(), thumbnails)

    def hit(place: retrieval.Place) -> Hit:
        g = place.item
        image = Shown(pictures[g], int(gallery.pids[g]), camera_of(gallery, g))
        return Hit(image, place.rank, "same" if not place.rank else _verdict(place.right))

    return [
        Card(
            Shown(asked[q], int(query.pids[q]), camera_of(query, q)),
            kinds[q],
            own["average_precision"][q],
            own["first_rank"][q],
            [hit(place) for place in places],
            head.left_out,
        )
        for q, places, head in zip(chosen.tolist(), lists, heads, strict=True)
    ]


def _verdict(right: bool) -> str:
    return "right" if right else "wrong"


def _first_right(test: RetrievalTest, found: Ranked, q: int) -> int:
    """The gallery index of the first right image of a query that has one."""
    relevant = test.gallery.pids == test.query.pids[q]
    if found.settings["same_camera"] == "remove":
        relevant &= test.gallery.cameras != test.query.cameras[q]
    return retrieval.first_right(
        found.features["query"][q], found.features["gallery"], np.flatnonzero(relevant)
    )


def _take_in(store: ImageStore, items: Sequence[int], thumbnails: Thumbnails) -> dict[int, str]:
    """The thumbnails of some images of a store."""
    names = {}
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        for item, image in zip(part, store.batch(np.array(part)), strict=True):
            names[item] = thumbnails.add(image)
    return names


def hardest_identities(
    test: RetrievalTest, found: Ranked, thumbnails: Thumbnails
) -> list[tuple[int, Markup, int, float, float]]:
    """The identities of lowest mAP, as `report.sections.hardest_section` takes them."""
    figures = found.figures["per_identity"]
    valid = [pid for pid, own in figures.items() if own["num_valid_query"]]
    order = sorted(valid, key=lambda pid: (figures[pid]["mAP"], int(pid)))[:HARDEST]
    first = [int(np.argmax(test.query.pids == int(pid))) for pid in order]
    names = _take_in(found.stores["query"], first, thumbnails)
    return [
        (
            int(pid),
            picture(names[q], f"A query of identity {pid}"),
            figures[pid]["num_valid_query"],
            figures[pid]["mAP"],
            figures[pid]["cmc"]["1"],
        )
        for pid, q in zip(order, first, strict=True)
    ]


def pairs_of_cameras(test: RetrievalTest, found: Ranked, progress: Any) -> list[dict[str, Any]]:
    """See `retrieval.camera_pairs`; nothing where cameras are not known."""
    query, gallery = test.query, test.gallery
    if min(query.cameras.min(), gallery.cameras.min()) < 0:
        return []
    return retrieval.camera_pairs(
        found.features["query"],
        query.pids,
        query.cameras,
        found.features["gallery"],
        gallery.pids,
        gallery.cameras,
        progress=progress,
        **found.settings,
    )
