"""The exhibits of the attention: maps of some queries and, on drawn images, their layers."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from batnet_jax.data.pedestrians.draw import LAYERS
from batnet_jax.data.run_data import RetrievalTest, open_store
from batnet_jax.data.sources.pedestrians import is_drawn, layers_of
from batnet_jax.errors import UserError
from batnet_jax.evaluation.attention import attention_step
from batnet_jax.evaluation.evaluate import camera_of
from batnet_jax.evaluation.layer_shares import measure_layers, summarise
from batnet_jax.models import BATNet, parse_positions
from batnet_jax.models.batnet import POSITIONS
from batnet_jax.report.attention_maps import AttentionRow, mean_maps
from batnet_jax.report.layers import paint_layers
from batnet_jax.report.ranked_list import SHAPE, Person

MEASURED = 500
"""Queries whose layers are measured: more would narrow the intervals, which are of one run, but not
the spread between runs."""


def attention_rows(
    config: ml_collections.ConfigDict,
    model: BATNet,
    variables: dict[str, Any],
    test: RetrievalTest,
    queries: Sequence[int],
) -> list[AttentionRow]:
    """Compute the attention maps of some queries; none if the network has no attention.

    Raises: UserError if a map is not finite.
    """
    if model.attention == "none":
        return []
    query, rows = test.query, np.array(queries)
    with open_store(config, query, keep=False) as store:
        images, shown = store.batch(rows), store.originals(rows, SHAPE)
    # XLA drops the layers after the last attention, because nothing uses their outputs.
    attention = jax.device_get(
        jax.jit(functools.partial(attention_step, model=model))(variables, images)
    )
    if not all(np.isfinite(maps).all() for maps in jax.tree.leaves(attention)):
        raise UserError(
            "an attention map holds values that are not finite, so this checkpoint is useless:"
            " choose an earlier one with --config.eval.step, or train again at a lower rate"
        )
    cameras = [camera_of(query, q) for q in queries]
    pids = query.pids[rows].tolist()
    people = map(Person, shown, pids, cameras, map(test.name_of, pids))
    layers: list[np.ndarray | None] = [None] * len(rows)
    if is_drawn(test.name):
        pairs = zip(images, layers_of(query, rows), strict=True)
        layers = [paint_layers(image, own, LAYERS) for image, own in pairs]
    return [AttentionRow(*row) for row in zip(people, mean_maps(attention), layers, strict=True)]


def layer_figures(
    config: ml_collections.ConfigDict,
    model: BATNet,
    variables: dict[str, Any],
    test: RetrievalTest,
) -> dict[str, Any] | None:
    """Measure how the maps' energy divides among the layers of a test's queries.

    Returns: the result of `summarise`, at the positions of the attention, or at all positions if
      the network has no attention; None if the queries are not drawn, and so have no layers.
    Raises: UserError if a map is not finite.
    """
    if not is_drawn(test.name):
        return None
    rows = np.unique(np.linspace(0, len(test.query) - 1, MEASURED).astype(int))
    positions = POSITIONS if model.attention == "none" else parse_positions(model.position)
    shares = measure_layers(config, model, variables, test.query.take(rows), positions=positions)
    return summarise(shares, seed=config.seed)
