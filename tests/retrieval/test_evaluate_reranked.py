"""Figures after re-ranking, and the other extra figures of an evaluation."""

import numpy as np
import pytest
from support import rerank_oracle, retrieval_oracle

from batnet_jax import retrieval
from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.evaluation.extra_figures import compute_extra_figures, format_extra_figures
from batnet_jax.retrieval import ImageSet, KReciprocal, evaluate_reranked

SETTINGS = KReciprocal(k1=8, k2=3, weight=0.3)


def draw(seed=0, num_query=12, num_gallery=60):
    """Return query and gallery of 6 people and 3 cameras; a tenth of the gallery is junk."""
    rng = np.random.default_rng(seed)
    pids = [rng.integers(0, 6, n) for n in (num_query, num_gallery)]
    centres = rng.standard_normal((6, 16))
    features = [(centres[p] + rng.standard_normal((len(p), 16))).astype(np.float32) for p in pids]
    cameras = [rng.integers(0, 3, n) for n in (num_query, num_gallery)]
    pids[1][rng.random(num_gallery) < 0.1] = -1
    return features[0], pids[0], cameras[0], features[1], pids[1], cameras[1]


@pytest.mark.parametrize("ap", ["precision", "trapezoid"])
@pytest.mark.parametrize("same_camera", ["remove", "keep"])
def test_reranked_figures_against_the_dense_original(ap, same_camera):
    query, pids, cameras, gallery, g_pids, g_cameras = draw()
    real = g_pids != -1
    distances = rerank_oracle.final_distances(
        query, gallery[real], metric="cosine", **SETTINGS._asdict()
    )
    average, first = [], []
    for q in range(len(query)):
        matches = retrieval_oracle.ranked_matches(
            -distances[q], pids[q], cameras[q], g_pids[real], g_cameras[real],
            keep=same_camera == "keep",
        )  # fmt: skip
        if any(matches):
            name = "precision_ap" if ap == "precision" else "market_ap"
            average.append(getattr(retrieval_oracle, name)(matches))
            first.append(matches.index(True))
    seen = []
    got = evaluate_reranked(
        query, pids, cameras, gallery, g_pids, g_cameras,
        settings=SETTINGS, ap=ap, same_camera=same_camera, cmc_ranks=(1, 3),
        progress=lambda *done: seen.append(done),
    )  # fmt: skip
    assert got["mAP"] == pytest.approx(np.mean(average), abs=1e-9)
    assert got["cmc"] == {k: pytest.approx(np.mean(np.array(first) < int(k))) for k in ("1", "3")}
    assert (got["num_query"], got["num_gallery"]) == (len(query), real.sum())
    assert got["num_valid_query"] == len(average)
    assert got["ap"] == ap
    assert seen[-1][0] == seen[-1][1]
    plain = retrieval.evaluate(*draw(), ap=ap, same_camera=same_camera)
    assert got["mAP"] != plain["mAP"]
    assert got.keys() == plain.keys()


def test_reranked_mistakes():
    query, pids, cameras, gallery, g_pids, g_cameras = draw()
    case = [query, pids, cameras, gallery, g_pids, g_cameras]
    with pytest.raises(UserError, match="none of the 12 queries has a match"):
        evaluate_reranked(query, pids + 100, cameras, gallery, g_pids, g_cameras)
    with pytest.raises(UserError, match="all 60 gallery items are junk"):
        evaluate_reranked(query, pids, cameras, gallery, np.full(60, -1), g_cameras)
    with pytest.raises(UserError, match="k1"):
        evaluate_reranked(*case, settings=KReciprocal(k1=0))
    with pytest.raises(UserError, match="ap="):
        evaluate_reranked(*case, ap="other")


def test_the_extra_figures_of_an_evaluation():
    case = query, _, _, gallery, g_pids, _ = draw(1)
    sets = ImageSet(*case[:3]), ImageSet(*case[3:])
    config = default_config()
    assert compute_extra_figures(config, *sets, "remove") == {}
    config.eval.expand, config.eval.expand_alpha = 3, 2.0
    config.eval.rerank = config.eval.verification = config.eval.open_set = True
    config.eval.single_shot = 4
    config.eval.ap = "trapezoid"
    config.seed = 5
    figures = compute_extra_figures(config, *sets, "remove")

    real = gallery[g_pids != -1]
    expanded = retrieval.expand_queries(query, real, k=3, alpha=2.0)
    assert figures == {
        "expanded": retrieval.evaluate(expanded, *case[1:], ap="trapezoid"),
        "reranked": evaluate_reranked(*case, ap="trapezoid"),
        "single_shot": retrieval.single_shot_cmc(*case, trials=4, seed=5),
        "verification": retrieval.verify(*case),
        "open_set": retrieval.identify(*case),
    }
    kept = compute_extra_figures(config, *sets, "keep")
    assert all(kept[name] != figures[name] for name in figures)

    lines = format_extra_figures(figures, ["mAP", "mINP", "Rank-1", "Rank-5"])
    single = figures["single_shot"]["cmc"]
    assert lines[2] == f"{'':18}{100 * single['1']:>8.1f}%{100 * single['5']:>8.1f}%  single shot"
    assert lines[1].split() == [
        f"{100 * value:.1f}%"
        for value in (
            figures["reranked"]["mAP"],
            figures["reranked"]["mINP"],
            figures["reranked"]["cmc"]["1"],
            figures["reranked"]["cmc"]["5"],
        )
    ] + ["reranked"]
    points = figures["verification"]["operating_points"]
    known = [p for p in figures["open_set"]["operating_points"] if p["resolved"]]
    assert len(lines) == 3 + len(points) + len(known)
    assert known
    assert f"identified: {100 * known[0]['dir']['1']:.1f}% at rank 1, " in lines[3 + len(points)]
    assert f"at least {points[0]['threshold']:.3f}" in lines[3]
