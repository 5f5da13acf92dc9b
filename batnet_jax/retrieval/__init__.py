"""From features to figures: who is found at which rank, and what that is worth.

checks (what the user gave) -> plan (what meets what) -> ranks, count (on the accelerator) ->
metrics (on the host). `search` lists the best of the gallery; `expansion` and `rerank` change
queries and distances before.
"""

from batnet_jax.retrieval.camera_pairs import camera_pairs
from batnet_jax.retrieval.evaluator import Options, evaluate, evaluate_sets, evaluate_stream
from batnet_jax.retrieval.expansion import expand_queries
from batnet_jax.retrieval.image_set import (
    JUNK_PID,
    ImageSet,
    Labels,
    check_images,
    check_labels,
)
from batnet_jax.retrieval.multi_query import POOLINGS, pool_queries
from batnet_jax.retrieval.ranked_lists import Place, first_places, first_right
from batnet_jax.retrieval.reranking.evaluate import evaluate_reranked, evaluate_reranked_sets
from batnet_jax.retrieval.reranking.k_reciprocal import KReciprocal, reranked_rows
from batnet_jax.retrieval.search import top_k
from batnet_jax.retrieval.single_shot import single_shot_cmc, single_shot_cmc_sets
from batnet_jax.retrieval.verification import verify, verify_sets

__all__ = [
    "JUNK_PID",
    "POOLINGS",
    "ImageSet",
    "KReciprocal",
    "Labels",
    "Options",
    "Place",
    "camera_pairs",
    "check_images",
    "check_labels",
    "evaluate",
    "evaluate_reranked",
    "evaluate_reranked_sets",
    "evaluate_sets",
    "evaluate_stream",
    "expand_queries",
    "first_places",
    "first_right",
    "pool_queries",
    "reranked_rows",
    "single_shot_cmc",
    "single_shot_cmc_sets",
    "top_k",
    "verify",
    "verify_sets",
]
