"""From features to figures: who is found at which rank, and what that is worth.

checks (what the user gave) -> plan (what meets what) -> ranks, count (on the accelerator) ->
metrics (on the host). `search` lists the best of the gallery; `expansion` and `rerank` change
queries and distances before.
"""

from batnet_jax.retrieval.camera_pairs import camera_pairs
from batnet_jax.retrieval.evaluator import JUNK_PID, evaluate, evaluate_stream
from batnet_jax.retrieval.expansion import expand_queries
from batnet_jax.retrieval.multi_query import POOLINGS, pool_queries
from batnet_jax.retrieval.ranked_lists import Place, first_places, first_right
from batnet_jax.retrieval.reranking.evaluate import evaluate_reranked
from batnet_jax.retrieval.reranking.k_reciprocal import KReciprocal, reranked_rows
from batnet_jax.retrieval.search import top_k
from batnet_jax.retrieval.single_shot import single_shot_cmc
from batnet_jax.retrieval.verification import verify

__all__ = [
    "JUNK_PID",
    "POOLINGS",
    "KReciprocal",
    "Place",
    "camera_pairs",
    "evaluate",
    "evaluate_reranked",
    "evaluate_stream",
    "expand_queries",
    "first_places",
    "first_right",
    "pool_queries",
    "reranked_rows",
    "single_shot_cmc",
    "top_k",
    "verify",
]
