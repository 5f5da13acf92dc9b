"""The exhibits of the report: which queries, ranked lists and identities to show.

All figures come from features that are embedded once; only images on the page are decoded again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from batnet_jax import retrieval
from batnet_jax.data import Split
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import Embed
from batnet_jax.evaluation.evaluate import camera_of, make_result, take_left_out
from batnet_jax.evaluation.ranked_test import RankedTest, rank_test
from batnet_jax.report import sections
from batnet_jax.report.cards import KINDS, Card, Hit, PageImage, ranked_lists_section
from batnet_jax.report.page import Section
from batnet_jax.report.ranked_list import SHAPE
from batnet_jax.report.sections import HardIdentity
from batnet_jax.report.thumbnails import Thumbnails
from batnet_jax.runtime.progress import counting_bar

LISTS = 20
"""Ranked lists of each kind, over all tests. Nobody looks through more, and with this limit the
page stays below about 10 MB for any number of queries."""
PLACES = 10
"""Places of a ranked list: as many as fit side by side."""
UNCOUNTED = 3
"""Images of the query's own camera in a ranked list: enough to see that they come first."""
HARDEST = 15
"""Identities in the list of the hardest."""
ATTENDED = 6
"""Queries whose attention is drawn."""
_AT_ONCE = 64
"""Images decoded at a time: they are large, and only their thumbnails are kept."""


class ReportedTest(NamedTuple):
    """The part of the report that one test fills."""

    result: dict[str, Any]
    """The contents of `eval/step_<N>.json`."""
    sections: list[Section]
    sample: list[int]
    """A few of the queries whose ranked lists are shown."""


def report_test(
    config: ml_collections.ConfigDict,
    test: RetrievalTest,
    embed: Embed,
    thumbnails: Thumbnails,
    *,
    step: int,
    number: int = 0,
    count: int = 1,
) -> ReportedTest:
    """Embed the images of a test once and make all sections about it.

    Args:
      config: see `rank_test` and `make_result`.
      test: query and gallery.
      embed: see `make_embed`.
      thumbnails: collects the images.
      step: training steps the model has taken.
      number: of this test on the page, from 0.
      count: tests on the page.
    """
    with rank_test(config, test, embed, breakdown=True) as ranked:
        result = make_result(config, ranked, step)
        per_query = ranked.figures["per_query"]
        kinds = choose_queries(
            per_query["average_precision"], max(LISTS // count, 2), seed=config.seed
        )
        cards = make_cards(ranked, kinds, thumbnails)
        hardest = hardest_identities(ranked, thumbnails)
        pairs = camera_pairs(ranked)
        verification = _verification(ranked, result)
        first_ranks = [rank for rank in per_query["first_rank"] if rank]
    name = sections.title_of(result)
    key_suffix = f"-{number}" if number else ""
    title_suffix = f": {name}" if count > 1 else ""
    parts = [
        sections.curves_section(
            first_ranks,
            verification,
            name,
            key=f"curves{key_suffix}",
            title=f"Curves{title_suffix}",
        ),
        ranked_lists_section(
            cards,
            num_queries=result["num_query"],
            num_valid=result["num_valid_query"],
            suffix=key_suffix,
            title=f"Ranked lists{title_suffix}",
        ),
        sections.hardest_section(
            hardest, pairs, key=f"hardest{key_suffix}", title=f"Hardest{title_suffix}"
        ),
    ]
    shown = list(kinds)
    places = np.unique(np.linspace(0, len(shown) - 1, ATTENDED).astype(int))  # some of each kind
    return ReportedTest(result, parts, [shown[place] for place in places])


def choose_queries(
    average_precisions: Sequence[float | None], count: int, seed: int
) -> dict[int, list[str]]:
    """Choose a few queries of each kind of `report.cards.KINDS`.

    Queries of equal AP, such as all perfect ones, are drawn at random, because the first ones
    would show few people.

    Args:
      average_precisions: of all queries; None for a query without a match.
      count: queries of each kind; fewer if fewer are valid.
      seed: of the random draws.
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
    }
    kinds: dict[int, list[str]] = {}
    for kind in KINDS:
        for q in chosen[kind]:
            kinds.setdefault(q, []).append(kind)
    return kinds


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
    )
    lists = []
    for q, head in zip(chosen.tolist(), heads, strict=True):
        places = list(head.first)
        if not any(place.right and place.rank for place in places):
            item = _first_right_item(ranked, q)
            places.append(retrieval.Place(item, per_query["first_rank"][q], True))
        lists.append(places)
    items = sorted({place.item for places in lists for place in places})
    item_thumbnails = _add_images(ranked.gallery_store, items, thumbnails)
    query_thumbnails = _add_images(ranked.query_store, chosen.tolist(), thumbnails)

    def make_hit(place: retrieval.Place) -> Hit:
        g = place.item
        image = page_image(ranked.test, gallery, g, item_thumbnails[g])
        return Hit(image, place.rank, _verdict(place))

    return [
        Card(
            query=page_image(ranked.test, query, q, query_thumbnails[q]),
            kinds=kinds[q],
            average_precision=per_query["average_precision"][q],
            first_rank=per_query["first_rank"][q],
            hits=[make_hit(place) for place in places],
            left_out=head.left_out,
        )
        for q, places, head in zip(chosen.tolist(), lists, heads, strict=True)
    ]


def page_image(test: RetrievalTest, split: Split, i: int, thumbnail: str) -> PageImage:
    """Return image i of one of a test's splits, as the page shows it."""
    pid = int(split.pids[i])
    return PageImage(thumbnail, pid, camera_of(split, i), test.name_of(pid))


def _verdict(place: retrieval.Place) -> str:
    """Return the verdict of `report.cards.Hit`; a place without a rank does not count."""
    if not place.rank:
        return "same"
    return "right" if place.right else "wrong"


def _first_right_item(ranked: RankedTest, q: int) -> int:
    """Return the gallery index of the first right image of a query that has one."""
    query = ranked.query.take(np.array([q]))
    return retrieval.first_right(
        query,
        ranked.gallery,
        same_camera=ranked.same_camera,
        left_out=take_left_out(ranked, np.array([q])),
    )


def _add_images(store: ImageStore, items: Sequence[int], thumbnails: Thumbnails) -> dict[int, str]:
    """Add some images of a store to the thumbnails; return the thumbnail of each."""
    names = {}
    for start in range(0, len(items), _AT_ONCE):
        part = items[start : start + _AT_ONCE]
        for item, image in zip(part, store.originals(np.array(part), SHAPE), strict=True):
            names[item] = thumbnails.add(image)
    return names


def hardest_identities(ranked: RankedTest, thumbnails: Thumbnails) -> list[HardIdentity]:
    """Return the identities of lowest mAP, lowest first, each with its first query image."""
    figures = ranked.figures["per_identity"]
    valid = [pid for pid, own in figures.items() if own["num_valid_query"]]
    order = sorted(valid, key=lambda pid: (figures[pid]["mAP"], int(pid)))[:HARDEST]
    first_queries = [int(np.argmax(ranked.test.query.pids == int(pid))) for pid in order]
    names = _add_images(ranked.query_store, first_queries, thumbnails)
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


def camera_pairs(ranked: RankedTest) -> list[dict[str, Any]]:
    """Return the figures of `retrieval.camera_pairs`, or none if the cameras are unknown."""
    query, gallery = ranked.test.query, ranked.test.gallery
    if min(query.cameras.min(), gallery.cameras.min()) < 0:
        return []
    with counting_bar("camera pairs", "camera") as progress:
        return retrieval.camera_pairs(
            ranked.query,
            ranked.gallery,
            ap=ranked.ap,
            same_camera=ranked.same_camera,
            left_out=ranked.left_out,
            progress=progress,
        )


def _verification(ranked: RankedTest, result: dict[str, Any]) -> dict[str, Any] | str:
    """Return the figures of `retrieval.verify`, or the reason for their absence."""
    if "verification" in result:
        return result["verification"]
    try:
        with counting_bar("all pairs", "query") as progress:
            return retrieval.verify_sets(
                ranked.query,
                ranked.gallery,
                same_camera=ranked.same_camera,
                left_out=ranked.left_out,
                progress=progress,
            )
    except UserError as error:  # a gallery of one person has no pair of two
        return str(error)
