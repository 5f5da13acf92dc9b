import numpy as np
import pytest

from batnet_jax.retrieval.image_set import Labels
from batnet_jax.retrieval.reranking.row_ranks import ranks_of_rows


def obvious_ranks(distances, pid, camera, gallery, keep):
    """Return one query's ranks by walking down the sorted gallery."""
    rank, ranks = 0, []
    for item in np.argsort(distances, kind="stable"):
        right = gallery.pids[item] == pid
        if right and not keep and gallery.cameras is not None and gallery.cameras[item] == camera:
            continue
        rank += 1
        if right:
            ranks.append(rank)
    return ranks


@pytest.mark.parametrize("same_camera", ["remove", "keep"])
@pytest.mark.parametrize("with_cameras", [True, False])
def test_against_a_walk_down_the_list(same_camera, with_cameras):
    rng = np.random.default_rng(0)
    for num_query, num_gallery in [(1, 1), (9, 30), (20, 500)]:
        distances = rng.integers(-3, 4, (num_query, num_gallery)).astype(np.float32)  # tied
        distances[rng.random(distances.shape) < 0.1] = -0.0
        cameras = [rng.integers(0, 3, n) if with_cameras else None for n in distances.shape]
        query = Labels(rng.integers(0, 5, num_query), cameras[0])
        gallery = Labels(rng.integers(0, 5, num_gallery), cameras[1])
        blocks = [slice(s, min(s + 4, num_query)) for s in range(0, num_query, 4)]
        calls = []
        ranks = ranks_of_rows(
            ((which, distances[which]) for which in blocks),
            query,
            gallery,
            same_camera=same_camera,
            progress=lambda *done, calls=calls: calls.append(done),
        )
        assert calls == [(which.stop, num_query) for which in blocks]
        assert ranks.values.dtype == ranks.offsets.dtype == np.int64
        assert ranks.offsets[0] == 0
        assert ranks.offsets[-1] == len(ranks.values)
        for q, row in enumerate(distances):
            camera = None if query.cameras is None else query.cameras[q]
            expected = obvious_ranks(row, query.pids[q], camera, gallery, same_camera == "keep")
            got = ranks.values[ranks.offsets[q] : ranks.offsets[q + 1]]
            assert got.tolist() == expected


def test_queries_without_relevant_items_have_no_ranks():
    rows = [(slice(0, 2), np.zeros((2, 3), np.float32))]
    query, gallery = Labels(np.array([1, 2]), None), Labels(np.array([3] * 3), None)
    ranks = ranks_of_rows(rows, query, gallery, same_camera="keep")
    assert ranks.values.tolist() == []
    assert ranks.offsets.tolist() == [0, 0, 0]
