"""The exhibits of the report: all sections about one test.

All figures come from features that are embedded once; only images on the page are decoded again.
"""

from typing import Any, NamedTuple

import ml_collections
import numpy as np

from batnet_jax import retrieval
from batnet_jax.data.run_data import RetrievalTest
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import Embed
from batnet_jax.evaluation.evaluate import make_result
from batnet_jax.evaluation.ranked_test import RankedTest, rank_test
from batnet_jax.modes.report_data import data_section, median_aspect_of
from batnet_jax.modes.report_lists import (
    LISTS,
    choose_queries,
    hard_queries,
    hardest_identities,
    make_cards,
)
from batnet_jax.modes.report_map import features_section
from batnet_jax.report import sections
from batnet_jax.report.cards import ranked_lists_section
from batnet_jax.report.hardest import hardest_section
from batnet_jax.report.page import Section
from batnet_jax.report.thumbnails import Thumbnails
from batnet_jax.runtime.progress import counting_bar

ATTENDED = 6
"""Queries whose attention is drawn."""


class ReportedTest(NamedTuple):
    """The part of the report that one test fills."""

    result: dict[str, Any]
    """The contents of `eval/step_<N>.json`."""
    sections: list[Section]
    sample: list[int]
    """A few of the queries whose ranked lists are shown."""
    verification: dict[str, Any] | None
    """See `retrieval.verify`; None if the test has no pairs of two identities."""


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
        pairs = camera_pairs(ranked)
        kinds = choose_queries(
            per_query["average_precision"],
            max(LISTS // count, 2),
            seed=config.seed,
            hardest=hard_queries(ranked, pairs),
        )
        cards = make_cards(ranked, kinds, thumbnails)
        hardest = hardest_identities(ranked, thumbnails)
        verification = _verification(ranked, result)
        first_ranks = [rank for rank in per_query["first_rank"] if rank]
        key = f"-{number}" if number else ""
        title = f": {sections.title_of(result)}" if count > 1 else ""
        data = data_section(config, ranked, thumbnails, key=f"data{key}", title=f"Data{title}")
        features = features_section(config, ranked, key=f"map{key}", title=f"Map{title}")
    parts = [
        ranked_lists_section(
            cards,
            num_queries=result["num_query"],
            num_valid=result["num_valid_query"],
            suffix=key,
            title=f"Ranked lists{title}",
            aspect=median_aspect_of(test.gallery),
        ),
        hardest_section(
            hardest,
            pairs,
            key=f"hardest{key}",
            title=f"Hardest{title}",
            listed=cards,
            lists=f"ranked-lists{key}",
        ),
        sections.curves_section(
            first_ranks,
            verification,
            sections.title_of(result),
            key=f"curves{key}",
            title=f"Curves{title}",
            num_gallery=result["num_gallery"],
        ),
        features,
        data,
    ]
    shown = [q for q, own in kinds.items() if own != ["hardest"]]
    places = np.unique(np.linspace(0, len(shown) - 1, ATTENDED).astype(int))  # some of each kind
    sample = [shown[place] for place in places]
    measured = None if isinstance(verification, str) else verification
    return ReportedTest(result, parts, sample, measured)


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
