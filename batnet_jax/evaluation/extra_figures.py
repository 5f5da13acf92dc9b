"""Extra figures: query expansion, re-ranking, single-shot CMC, verification, open set."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from batnet_jax import retrieval
from batnet_jax.retrieval import ImageSet, ItemLists
from batnet_jax.retrieval.matches import keep_items
from batnet_jax.runtime.progress import counting_bar


def compute_extra_figures(
    config: ml_collections.ConfigDict,
    query: ImageSet,
    gallery: ImageSet,
    same_camera: str,
    left_out: ItemLists | None = None,
) -> dict[str, Any]:
    """Return the extra figures that the config selects, by their names in `eval/step_<N>.json`.

    Args:
      config: `eval.expand`, `eval.expand_alpha`, `eval.rerank`, `eval.single_shot`,
        `eval.verification`, `eval.open_set`, `eval.ap` and `seed` are read.
      query: q images.
      gallery: g images.
      same_camera: "remove" or "keep".
      left_out: gallery items that do not count, for each query; None for none.
    Returns: `expanded` and `reranked` as `retrieval.evaluate` returns them, `single_shot` as
      `retrieval.single_shot_cmc` does, `verification` as `retrieval.verify` does, `open_set` as
      `retrieval.identify` does.
    """
    figures: dict[str, Any] = {}
    if config.eval.expand:
        features = retrieval.expand_queries(
            query.features,
            gallery.drop_junk().features,
            k=config.eval.expand,
            alpha=config.eval.expand_alpha,
            left_out=left_out and keep_items(left_out, gallery.not_junk, len(gallery)),
        )
        options = retrieval.Options(ap=config.eval.ap, same_camera=same_camera)
        expanded = query.replace_features(features)
        figures["expanded"] = retrieval.evaluate_sets(expanded, gallery, options, left_out=left_out)
    if config.eval.rerank:
        with counting_bar("re-rank", "step") as progress:
            figures["reranked"] = retrieval.evaluate_reranked_sets(
                query,
                gallery,
                ap=config.eval.ap,
                progress=progress,
                same_camera=same_camera,
                left_out=left_out,
            )
    if config.eval.single_shot:
        with counting_bar("single shot", "query") as progress:
            figures["single_shot"] = retrieval.single_shot_cmc_sets(
                query,
                gallery,
                trials=config.eval.single_shot,
                seed=config.seed,
                progress=progress,
                same_camera=same_camera,
                left_out=left_out,
            )
    if config.eval.verification:
        with counting_bar("all pairs", "query") as progress:
            figures["verification"] = retrieval.verify_sets(
                query, gallery, progress=progress, same_camera=same_camera, left_out=left_out
            )
    if config.eval.open_set:
        with counting_bar("open set", "query") as progress:
            figures["open_set"] = retrieval.identify_sets(
                query, gallery, progress=progress, same_camera=same_camera, left_out=left_out
            )
    return figures


def format_extra_figures(result: dict[str, Any], columns: list[str]) -> list[str]:
    """Return the lines that extra figures add to the table of a result.

    Args:
      result: of an evaluation.
      columns: the table's: mAP, mINP, Rank-k.
    """
    lines = []
    for name in ("expanded", "reranked", "single_shot"):
        if name in result:
            lines.append(format_row(name.replace("_", " "), result[name], columns))
    if "verification" in result:
        for point in result["verification"]["operating_points"]:
            lines.append(
                f"same person if the cosine is at least {point['threshold']:.3f}: accepts"
                f" {100 * point['true_accept_rate']:.1f}% of same-person pairs,"
                f" {100 * point['false_accept_rate']:.3g}% of different-person pairs"
            )
    if "open_set" in result:
        lines += _format_open_set(result["open_set"])
    return lines


def _format_open_set(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each false alarm rate that the queries were enough to measure."""
    kind = {"given": "without mates", "removed": "whose mates were removed"}[figures["unmated"]]
    lines = []
    for point in figures["operating_points"]:
        if point["resolved"]:
            shares = ", ".join(f"{100 * v:.1f}% at rank {k}" for k, v in point["dir"].items())
            lines.append(
                f"open set: from a cosine of {point['threshold']:.3f} on"
                f" {100 * point['false_alarm_rate']:.3g}% of {figures['num_unmated']:,} queries"
                f" {kind} raise an alarm; identified: {shares}"
            )
    return lines


def format_row(name: str, figures: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return a row of the table, in per cent, with its name at the end.

    Args:
      name: of the row.
      figures: cmc, and mAP and mINP if there are any.
      columns: the table's: mAP, mINP, Rank-k.
    """
    own = {"mAP": figures.get("mAP"), "mINP": figures.get("mINP")}
    own |= {f"Rank-{rank}": value for rank, value in figures["cmc"].items()}
    cells = (own.get(column) for column in columns)
    line = "".join(f"{'':>9}" if c is None else f"{100 * c:>8.1f}%" for c in cells)
    return f"{line}  {name}"
