"""The sections of the report that show figures of a test: metrics, curves, hard cases."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batnet_jax.report.charts import Series, histogram, line_chart
from batnet_jax.report.page import (
    Cell,
    Markup,
    Section,
    definitions,
    details,
    figure,
    grid,
    heading,
    paragraph,
    table,
)
from batnet_jax.report.thumbnails import picture

_AP = {
    "precision": "the mean of the precision at the hits",
    "trapezoid": "the area under the precision-recall curve, by the trapezoidal rule",
}
_SAME_CAMERA = {
    "remove": "Images of the query's identity from the query's own camera are left out",
    "keep": "Images from the query's own camera count",
}
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


def metrics_section(results: Sequence[Mapping[str, Any]]) -> Section:
    """Make the section of figures: large for the first test, and a table of all tests.

    Args:
      results: as `eval/step_<N>.json`; at least one.
    """
    main = results[0]
    ranks = list(main["cmc"])
    named = {"mAP": main["mAP"], "mINP": main["mINP"]}
    named |= {f"Rank-{rank}": main["cmc"][rank] for rank in ranks}
    tiles = definitions({name: f"{percent(value)}%" for name, value in named.items()}, "tiles")
    head = ["test", *named, "queries", "gallery"]
    rows = [row for result in results for row in _rows(result, ranks)]
    ap, kept = main["ap"], main["same_camera"]
    caption = f"In per cent. AP: {ap}, {_AP[ap]}. {_SAME_CAMERA[kept]}."
    if main.get("leave_out_own"):
        caption += " Each query's own image is left out of the gallery."
    if main["num_valid_query"] < main["num_query"]:
        caption += " Queries without a match in the gallery are skipped."
    return Section("metrics", "Metrics", tiles + table(caption, head, rows))


def _rows(result: Mapping[str, Any], ranks: Sequence[str]) -> list[list[Any]]:
    """Return the rows of a test: its figures, then its extra figures."""

    def cells(figures: Mapping[str, Any]) -> list[str]:
        values = [figures.get("mAP"), figures.get("mINP")]
        return [percent(v) for v in [*values, *(figures["cmc"].get(rank) for rank in ranks)]]

    title = title_of(result)
    counts = [f"{result['num_valid_query']:,} of {result['num_query']:,}"]
    counts = [*counts, f"{result['num_gallery']:,}"]
    rows: list[list[Any]] = [[title, *cells(result), *counts]]
    for name in ("expanded", "reranked", "single_shot"):
        if name in result:
            label = f"{title}, {name.replace('_', ' ')}"
            rows.append([label, *cells(result[name]), *counts])
    if "confidence" in result:
        interval = result["confidence"]
        bounds = [interval["mAP"], interval["mINP"]]
        bounds += [interval["cmc"].get(rank) for rank in ranks]
        texts = ["-" if b is None else f"{percent(b[0])} to {percent(b[1])}" for b in bounds]
        rows.append([f"{title}, {100 * interval['level']:.0f}% interval", *texts, *counts])
    return rows


def curves_section(
    first_ranks: Sequence[int],
    verification: Mapping[str, Any] | str,
    test: str,
    *,
    key: str = "curves",
    title: str = "Curves",
) -> Section:
    """Make the section of the CMC curve and the histogram of distances between pairs.

    Args:
      first_ranks: the rank of each query's first correct image, from 1; at least one query.
      verification: see `retrieval.verify`, for the cosine; or the reason for its absence.
      test: the title of the test.
      key: the section's.
      title: the section's.
    """
    if isinstance(verification, str):
        right = paragraph(f"No histogram of distances: {verification}")
    else:
        right = verification_figure(verification, test)
    return Section(key, title, grid([cmc_figure(first_ranks, test), right]))


def cmc_figure(first_ranks: Sequence[int], title: str) -> Markup:
    """Draw the CMC curve.

    Args:
      first_ranks: the rank of each query's first correct image, from 1; at least one query.
      title: of the test.
    """
    ranks = list(range(1, CMC_RANKS + 1))
    shares = [sum(first <= rank for first in first_ranks) / len(first_ranks) for rank in ranks]
    low = min(0.95 * shares[0], 0.9) if shares[0] > 0.5 else 0.0
    chart = line_chart(
        [Series("CMC", ranks, shares)],
        title=f"CMC curve of {title}: {percent(shares[0])}% at rank 1 to {percent(shares[-1])}% "
        f"at rank {CMC_RANKS}",
        x_label="rank",
        y_label="queries found",
        y_range=(low, 1.0),
        show=lambda value: f"{100 * value:.3g}%",
    )
    rows = [[rank, percent(shares[rank - 1])] for rank in (1, 2, 3, 5, 10, 20, 50)]
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
        [Series("same person", [], shares[0]), Series("different people", [], shares[1])],
        title=f"Histograms of the distances of pairs of {title}; accepted up to {limit:.3f}",
        x_label="cosine distance",
        y_label="pairs",
        limit=(limit, f"accept up to {limit:.3f}"),
    )
    text = (
        f"Distances (1 - cosine) of {totals[0]:,} pairs of the same person and {totals[1]:,} "
        "pairs of different people, each kind in per cent of its own number. The threshold at the "
        f"vertical line accepts {100 * drawn['true_accept_rate']:.1f}% of the pairs of the same "
        f"person and {100 * drawn['false_accept_rate']:.2g}% of the pairs of different people. "
        f"Equal error rate {100 * figures['equal_error_rate']:.2f}%, area under the ROC "
        f"curve {figures['area_under_roc']:.4f}."
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
    head += ["same person", "different people", "reliable"]
    return table(
        "Thresholds that accept at most the wanted share of the pairs of different people, and "
        "the share of each kind of pair that they accept",
        head,
        rows,
    )


class HardIdentity(NamedTuple):
    """An identity that is hard to find; its figures are fractions."""

    pid: int
    thumbnail: str
    """One of its query images; see `Thumbnails.add`."""
    num_queries: int
    mean_ap: float
    rank1: float
    name: str = ""
    """The user's name of the identity; "" if it has none."""


def hardest_section(
    identities: Sequence[HardIdentity], pairs: Sequence[Mapping[str, Any]], *, key: str, title: str
) -> Section:
    """Make the section of the identities and the camera pairs that are hardest to match.

    Args:
      identities: hardest first.
      pairs: see `retrieval.camera_pairs`; none if the cameras are unknown.
      key: the section's.
      title: the section's.
    """
    hardest = _identity_table(identities)
    if pairs:
        columns = [
            heading("Identities") + hardest,
            heading("Camera pairs") + _pair_table(pairs) + _pair_matrix(pairs),
        ]
        body = grid(columns)
    else:
        text = "Cameras are not known, so there are no camera pairs."
        body = f"{hardest}\n{paragraph(text)}"
    return Section(key, title, body)


def _identity_table(identities: Sequence[HardIdentity]) -> Markup:
    rows = [
        [
            identity.name or identity.pid,
            picture(identity.thumbnail, f"A query of identity {identity.name or identity.pid}"),
            identity.num_queries,
            percent(identity.mean_ap),
            percent(identity.rank1),
        ]
        for identity in identities
    ]
    caption = f"The {len(rows)} identities of lowest mAP; figures in per cent"
    head = ["identity", "a query", "queries", "mAP", "Rank-1"]
    return table(caption, head, rows, style="looks")


def _pair_table(pairs: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        [
            f"{pair['query_camera']} to {pair['gallery_camera']}",
            f"{pair['num_valid_query']:,}",
            percent(pair["mAP"]),
            percent(pair["rank1"]),
        ]
        for pair in sorted(pairs, key=lambda pair: pair["mAP"])[:10]
    ]
    caption = f"The {len(rows)} camera pairs of lowest mAP; figures in per cent"
    return table(caption, ["cameras", "queries", "mAP", "Rank-1"], rows)


def _pair_matrix(pairs: Sequence[Mapping[str, Any]]) -> Markup:
    """Make the table of the mAP of all camera pairs; lower values are darker."""
    query_cameras = sorted({pair["query_camera"] for pair in pairs})
    gallery_cameras = sorted({pair["gallery_camera"] for pair in pairs})
    values = {(pair["query_camera"], pair["gallery_camera"]): pair["mAP"] for pair in pairs}
    low, high = min(values.values()), max(values.values())

    def cell(value: float | None) -> Any:
        if value is None:
            return "-"
        share = (high - value) / (high - low) if high > low else 0
        return Cell(percent(value), f"h{min(int(9.999 * share), 9)}")

    rows = [
        [f"from {a}", *(cell(values.get((a, b))) for b in gallery_cameras)] for a in query_cameras
    ]
    caption = (
        "mAP in per cent of the queries from one camera (rows) in the gallery images of another "
        "(columns). Darker cells are harder"
    )
    return table(caption, ["", *(f"in {b}" for b in gallery_cameras)], rows, style="matrix")
