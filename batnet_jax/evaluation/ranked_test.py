"""A retrieval test embedded and ranked: the features, the images and the figures it gives."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from batnet_jax import retrieval
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.run_data import RetrievalTest, open_store
from batnet_jax.evaluation.embed import Embed, embed_rows, extract_features
from batnet_jax.evaluation.own_images import find_own_images, warn_of_own_images
from batnet_jax.retrieval import ImageSet, ItemLists, Labels, check_images
from batnet_jax.runtime import devices, processes
from batnet_jax.runtime.progress import progress_bar


class RankedTest(NamedTuple):
    """A test whose gallery has been ranked for each query, with its images at hand."""

    test: RetrievalTest
    query_store: ImageStore
    gallery_store: ImageStore
    query: ImageSet
    gallery: ImageSet
    ap: str
    """The convention of average precision, as in `retrieval.evaluate`."""
    same_camera: str
    """The rule for the query's own camera, as in `retrieval.evaluate`."""
    left_out: ItemLists | None
    """The gallery items of each query's own image; None if they count."""
    figures: dict[str, Any]
    """The result of `retrieval.evaluate`, with `per_query`."""


@contextlib.contextmanager
def rank_test(
    config: ml_collections.ConfigDict, test: RetrievalTest, embed: Embed, *, breakdown: bool
) -> Iterator[RankedTest]:
    """Embed each image of a test once and rank its gallery for each query.

    The stores of images stay open until the context ends.

    Args:
      config: its `eval` and `data` sections are read.
      test: query and gallery.
      embed: see `make_embed`.
      breakdown: also compute the figures of each camera and identity.
    """
    batch = devices.round_up(config.eval.batch)
    same_camera = choose_same_camera(config, test)
    with (
        open_store(config, test.query, keep=False) as query_store,
        open_store(config, test.gallery, keep=False) as gallery_store,
    ):
        query = _embed_queries(config, test, query_store, embed, batch)
        left_out = find_own_images(test) if config.eval.leave_out_own else None
        gallery = _GalleryFeatures(gallery_store, embed, query.features.shape[1], batch)
        with progress_bar(len(test.gallery), description="embed gallery") as bar:
            figures = retrieval.evaluate_stream(
                query,
                Labels(test.gallery.pids, test.gallery.cameras),
                lambda rows: gallery.take(rows, bar.update),
                retrieval.Options(
                    per_query=True,
                    breakdown=breakdown,
                    bootstrap=config.eval.bootstrap,
                    seed=config.seed,
                    ap=config.eval.ap,
                    same_camera=same_camera,
                ),
                left_out=left_out,
            )
        gallery_set = ImageSet(gallery.features, test.gallery.pids, test.gallery.cameras)
        if left_out is None and processes.is_lead():
            warn_of_own_images(test, query, gallery_set, same_camera)
        yield RankedTest(
            test=test,
            query_store=query_store,
            gallery_store=gallery_store,
            query=query,
            gallery=gallery_set,
            ap=config.eval.ap,
            same_camera=same_camera,
            left_out=left_out,
            figures=figures,
        )


def choose_same_camera(config: ml_collections.ConfigDict, test: RetrievalTest) -> str:
    """Return `eval.same_camera`, or "keep" if the cameras of a test are unknown."""
    known = (test.query.cameras >= 0).all() and (test.gallery.cameras >= 0).all()
    return config.eval.same_camera if known else "keep"


def _embed_queries(
    config: ml_collections.ConfigDict,
    test: RetrievalTest,
    store: ImageStore,
    embed: Embed,
    batch: int,
) -> ImageSet:
    """Embed the queries, and pool them with `more_query` if the test has it."""
    features = extract_features(store, embed, batch=batch, name="query")
    query = check_images("query", features, test.query.pids, test.query.cameras)
    if test.more_query is None:
        return query
    with open_store(config, test.more_query, keep=False) as more_store:
        features = extract_features(more_store, embed, batch=batch, name="more_query")
    more = check_images("more_query", features, test.more_query.pids, test.more_query.cameras)
    return retrieval.pool_queries(query, more, config.eval.multi_query)


class _GalleryFeatures:
    """The features of a gallery, each embedded when the evaluator first reads it."""

    def __init__(self, store: ImageStore, embed: Embed, dim: int, batch: int):
        self.features = np.zeros((len(store), dim), np.float32)
        self._embedded = np.zeros(len(store), bool)
        self._store = store
        self._embed = embed
        self._batch = batch

    def take(self, rows: np.ndarray, progress: Any) -> np.ndarray:
        # Embedding needs all processes, and one process alone may ask for the same rows again.
        if not self._embedded[rows].all():
            self.features[rows] = embed_rows(
                self._store, rows, self._embed, batch=self._batch, progress=progress
            )
            self._embedded[rows] = True
        return self.features[rows]
