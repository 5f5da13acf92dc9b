"""From features to figures: who is found at which rank, and what that is worth.

checks (what the user gave) -> scores -> ranks (on the accelerator) -> metrics (on the host).
`search` takes the same scores and lists the best of the gallery.
"""

from batnet_jax.retrieval.evaluator import evaluate
from batnet_jax.retrieval.multi_query import POOLINGS, pool_queries
from batnet_jax.retrieval.search import top_k

__all__ = ["POOLINGS", "evaluate", "pool_queries", "top_k"]
