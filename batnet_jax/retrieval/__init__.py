"""Retrieval: ranks of the right images, and the figures computed from ranks.

This package takes features and labels as arrays. It knows no network and no data set.

Modules, in the order of the data:

    label_pairs          names of identities and cameras -> numbers
    checks, image_set    a user's arrays -> `ImageSet` and `Labels`, checked once
    mapped_rows          rows of features in memory or in a mapped file
    row_file, row_parts  rows of features in files larger than memory
    chosen_rows          some rows of features, or several features as one
    multi_query          queries of several images -> pooled queries; tracks -> pooled features
    expansion            queries -> queries averaged with their first results
    matches              labels -> the relevant and removed gallery items of each query
    left_out             ids or indices -> gallery items that each query leaves out
    streaming/           features and labels -> ranks, on the accelerator
    reranking/           features and labels -> ranks after k-reciprocal re-ranking
    metrics              ranks -> CMC, mAP, mINP, confidence intervals
    evaluator            all of this: `evaluate`, the standard evaluation
    distances            `evaluate` of a distance matrix
    chance               `evaluate` of a random order, on average, without features
    camera_pairs         `evaluate` for each pair of cameras
    scores               features -> blocks of scores, for the modules below and for reranking/
    search               scores -> the k best gallery items: `top_k`
    ranked_lists         the k best -> heads of ranked lists, without junk and removed items
    single_shot          scores -> CMC with one drawn gallery image for each person
    verification         scores -> error rates over all pairs
    open_set             scores -> who is identified, and who raises a false alarm

Functions named `..._sets` take an `ImageSet` of queries and one of gallery images. The functions
without this ending (`evaluate`, `evaluate_reranked`, `single_shot_cmc`, `verify`, `identify`) take
a user's six arrays, check them and call the function with `_sets`.
"""

from batnet_jax.retrieval.camera_pairs import camera_pairs
from batnet_jax.retrieval.chance import chance_figures
from batnet_jax.retrieval.chosen_rows import JoinedRows
from batnet_jax.retrieval.distances import evaluate_distances
from batnet_jax.retrieval.evaluator import Options, evaluate, evaluate_sets, evaluate_stream
from batnet_jax.retrieval.expansion import expand_queries
from batnet_jax.retrieval.image_set import (
    JUNK_PID,
    ImageSet,
    Labels,
    check_images,
    check_labels,
)
from batnet_jax.retrieval.left_out import SameImageWarning, check_left_out, find_same_images
from batnet_jax.retrieval.matches import ItemLists, take_lists
from batnet_jax.retrieval.multi_query import POOLINGS, pool_queries, pool_tracks
from batnet_jax.retrieval.open_set import identify, identify_sets
from batnet_jax.retrieval.ranked_lists import Place, first_places
from batnet_jax.retrieval.reranking.evaluate import evaluate_reranked, evaluate_reranked_sets
from batnet_jax.retrieval.reranking.k_reciprocal import KReciprocal, reranked_rows
from batnet_jax.retrieval.search import top_k
from batnet_jax.retrieval.single_shot import single_shot_cmc, single_shot_cmc_sets
from batnet_jax.retrieval.verification import verify, verify_sets

__all__ = [
    "JUNK_PID",
    "POOLINGS",
    "ImageSet",
    "ItemLists",
    "JoinedRows",
    "KReciprocal",
    "Labels",
    "Options",
    "Place",
    "SameImageWarning",
    "camera_pairs",
    "chance_figures",
    "check_images",
    "check_labels",
    "check_left_out",
    "evaluate",
    "evaluate_distances",
    "evaluate_reranked",
    "evaluate_reranked_sets",
    "evaluate_sets",
    "evaluate_stream",
    "expand_queries",
    "find_same_images",
    "first_places",
    "identify",
    "identify_sets",
    "pool_queries",
    "pool_tracks",
    "reranked_rows",
    "single_shot_cmc",
    "single_shot_cmc_sets",
    "take_lists",
    "top_k",
    "verify",
    "verify_sets",
]
