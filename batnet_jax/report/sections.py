"""The section of curves, and the titles and numbers that several sections share."""

from collections.abc import Mapping, Sequence
from typing import Any

from batnet_jax.report.charts import Series, histogram, line_chart
from batnet_jax.report.page import Markup, Section, details, figure, grid, paragraph, table

CMC_RANKS = 50
"""The last rank of the CMC curve: a person may look through 50 images."""
DRAWN_ACCEPT_RATE = 1e-2
"""The false accept rate whose threshold is drawn: the lowest that the pairs of a small test can
resolve."""


def percent(value: float | None) -> str:
    """Format a fraction in per cent with one decimal, as papers do."""
    return "-" if value is None else f"{100 * value:.1f}"


def title_of(result: Mapping[str, Any]) -> str:
    """Return the title of a test: its data set, and `val` for validation."""
    return f"{result['dataset']} val" if result["split"] == "val" else result["dataset"]


def curves_section(
    first_ranks: Sequence[int],
    verification: Mapping[str, Any] | str,
    test: str,
    *,
    key: str = "curves",
    title: str = "Curves",
    num_gallery: int = CMC_RANKS,
) -> Section:
    """Make the section of the CMC curve and the histogram of distances between pairs.

    Args:
      first_ranks: the rank of each query's first correct image, from 1; at least one query.
      verification: see `retrieval.verify`, for the cosine; or the reason for its absence.
      test: the title of the test.
      key: the section's.
      title: the section's.
      num_gallery: images of the gallery.
    """
    if isinstance(verification, str):
        right = paragraph(f"No histogram of distances: {verification}")
    else:
        right = verification_figure(verification, test)
    return Section(key, title, grid([cmc_figure(first_ranks, test, num_gallery), right]))


def cmc_figure(first_ranks: Sequence[int], title: str, num_gallery: int = CMC_RANKS) -> Markup:
    """Draw the CMC curve.

    Args:
      first_ranks: the rank of each query's first correct image, from 1; at least one query.
      title: of the test.
      num_gallery: images of the gallery; the curve has no more ranks.
    """
    ranks = list(range(1, min(CMC_RANKS, num_gallery) + 1))
    shares = [sum(first <= rank for first in first_ranks) / len(first_ranks) for rank in ranks]
    if len(ranks) < 2:
        return paragraph(f"{percent(shares[0])}% of the queries are found at rank 1.")
    low = min(0.95 * shares[0], 0.9) if shares[0] > 0.5 else 0.0
    chart = line_chart(
        [Series("CMC", ranks, shares)],
        title=f"CMC curve of {title}: {percent(shares[0])}% at rank 1 to {percent(shares[-1])}% "
        f"at rank {ranks[-1]}",
        x_label="rank",
        y_label="queries found",
        y_range=(low, 1.0),
        show=lambda value: f"{100 * value:.3g}%",
    )
    told = [rank for rank in (1, 2, 3, 5, 10, 20, 50) if rank <= ranks[-1]]
    rows = [[rank, percent(shares[rank - 1])] for rank in told]
    numbers = table("Queries found at this rank or better, in per cent", ["rank", "found"], rows)
    text = "The share of queries with a right image at this rank or better."
    return Markup(figure(chart, text) + details("CMC in numbers", numbers))


def verification_figure(figures: Mapping[str, Any], title: str) -> Markup:
    """Draw the distances between pairs of images, with the thresholds that accept a pair.

    Args:
      figures: see `retrieval.verify`, for the cosine.
      title: of the test.
    """
    counts = figures["histograms"]
    edges = [1 - edge for edge in counts["edges"]][::-1]
    bins = [counts[kind][::-1] for kind in ("positive", "negative")]
    used = [i for i, pair in enumerate(zip(*bins, strict=True)) if any(pair)]
    part = slice(max(used[0] - 1, 0), used[-1] + 2)
    totals = [figures["num_positive"], figures["num_negative"]]
    shares = [[n / total for n in kind[part]] for kind, total in zip(bins, totals, strict=True)]
    points = figures["operating_points"]
    drawn = min(
        points, key=lambda point: abs(point["wanted_false_accept_rate"] - DRAWN_ACCEPT_RATE)
    )
    limit = 1 - drawn["threshold"]
    chart = histogram(
        edges[part.start : part.start + len(shares[0]) + 1],
        [Series("same identity", [], shares[0]), Series("different identities", [], shares[1])],
        title=f"Histograms of the distances of pairs of {title}; accepted up to {limit:.3f}",
        x_label="cosine distance",
        y_label="pairs",
        limit=(limit, f"accept up to {limit:.3f}"),
    )
    text = (
        f"Distances (1 - cosine) of {totals[0]:,} pairs of the same identity and {totals[1]:,} "
        "pairs of different identities, each kind in per cent of its own number. The threshold at "
        f"the vertical line accepts {100 * drawn['true_accept_rate']:.1f}% of the pairs of the "
        f"same identity and {100 * drawn['false_accept_rate']:.2g}% of the pairs of different "
        f"identities. Equal error rate {100 * figures['equal_error_rate']:.2f}%, area under the "
        f"ROC curve {figures['area_under_roc']:.4f}."
    )
    return Markup(figure(chart, text) + details("Thresholds in numbers", _threshold_table(points)))


def _threshold_table(points: Sequence[Mapping[str, Any]]) -> Markup:
    """Make the table of the operating points of `retrieval.verify`."""
    rows = [
        [
            f"{100 * point['wanted_false_accept_rate']:g}%",
            f"{point['threshold']:.3f}",
            f"{1 - point['threshold']:.3f}",
            f"{100 * point['true_accept_rate']:.1f}%",
            f"{100 * point['false_accept_rate']:.2g}%",
            "yes" if point["resolved"] else "too few pairs",
        ]
        for point in points
    ]
    head = ["wanted", "cosine at least", "distance at most"]
    head += ["same identity", "different identities", "reliable"]
    return table(
        "Thresholds that accept at most the wanted share of the pairs of different identities, and "
        "the share of each kind of pair that they accept",
        head,
        rows,
    )
