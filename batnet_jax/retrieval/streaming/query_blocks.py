"""Blocks of queries with their thresholds and counts, as arrays on the devices.

The arrays have few different shapes, because every new shape is compiled separately.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int32

from batnet_jax.retrieval.matches import ItemLists
from batnet_jax.retrieval.streaming.device_map import new_thresholds_and_counts, split
from batnet_jax.retrieval.streaming.tiling import PAGE_SLOTS, Plan, fill_pages, list_steps


class BlockGroup(NamedTuple):
    """One block for each device of this host, before its arrays are made."""

    blocks: list[np.ndarray]  # the queries of each block; empty if blocks have run out
    home: np.ndarray  # [devices, b] each query's home chunk, -1 in padding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steps:
    """The steps of one page on each device; see `count.count_ahead`."""

    origins: Array | np.ndarray  # [devices, steps, 2]
    number: Array | np.ndarray  # [devices]
    bound: int | None = dataclasses.field(metadata={"static": True})


class Page(NamedTuple):
    """Up to `PAGE_SLOTS` relevant items of each query of a group, on the devices."""

    indices: Int32[np.ndarray, "devices b page"]  # into the plan's lists; -1 in empty slots
    items: Array  # [devices, b, page] which of the matched items; -1 in empty slots
    thresholds: Array  # [devices, b, page] the items' scores; infinite until they are read
    counts: Array  # [devices, b, page] scores ahead of the items so far
    steps: Steps | None  # None for the kernel, which needs none


class DeviceGroup(NamedTuple):
    """A group of blocks on the devices."""

    queries: Array  # [devices, b, d]
    home: np.ndarray  # [devices, b] each query's home chunk, -1 in padding
    relevant: list[Page]
    removed: list[Array]  # [devices, b, page] each: which of the matched items; -1 in empty slots


class StepShape(NamedTuple):
    """The division of a page into steps."""

    rows: int  # queries of a step
    bounded: bool  # whether the number of steps is a constant of the compiled function


def group_blocks(plan: Plan) -> list[BlockGroup]:
    """Return this host's share of the plan's blocks, in groups of one block for each device."""
    devices = jax.local_device_count()
    groups = []
    for start in range(0, len(plan.blocks), jax.device_count()):
        first = start + jax.process_index() * devices
        blocks = plan.blocks[first : first + devices]
        blocks = blocks + [np.empty(0, np.int64)] * (devices - len(blocks))
        home = np.full((devices, plan.block_rows), -1, np.int32)
        for device, block in enumerate(blocks):
            home[device, : len(block)] = plan.home[block]
        groups.append(BlockGroup(blocks, home))
    return groups


class GroupLoader:
    """A function that makes the arrays of a group on the devices."""

    def __init__(
        self,
        plan: Plan,
        matched_index: np.ndarray,
        queries: Callable[[np.ndarray], Float[Array, "n d"]],
        step_shape: StepShape | None,
    ):
        """Prepare.

        Args:
          plan: see `make_plan`.
          matched_index: [g] each gallery item's index among the matched items.
          queries: returns the features of queries by their indices.
          step_shape: None if counting needs no steps.
        """
        self._plan = plan
        self._queries = queries
        self._step_shape = step_shape
        # The index -1 of an empty slot reads the last element, which is -1 as well.
        self._relevant, self._removed = (
            np.append(matched_index[lists.items], -1).astype(np.int32)
            for lists in (plan.relevant, plan.removed)
        )

    def __call__(self, group: BlockGroup) -> DeviceGroup:
        """Return a group's arrays on the devices."""
        rows = self._plan.block_rows
        padded = [np.pad(block, (0, rows - len(block))) for block in group.blocks]
        relevant = self._fill_pages(self._plan.relevant, group)
        removed = self._fill_pages(self._plan.removed, group)
        features, items, removed_items, steps = split(
            (
                self._queries(np.stack(padded)),
                [self._relevant[indices] for indices in relevant],
                [self._removed[indices] for indices in removed],
                [self._list_steps(page, group) for page in range(len(relevant))],
            )
        )
        pages = [
            Page(indices, items[page], *new_thresholds_and_counts(indices.shape), steps[page])
            for page, indices in enumerate(relevant)
        ]
        return DeviceGroup(features, group.home, pages, removed_items)

    def _fill_pages(
        self, lists: ItemLists, group: BlockGroup
    ) -> list[Int32[np.ndarray, "devices b page"]]:
        """Return the index into `lists` of each slot of each page; no page is empty."""
        most = max(int(lists.counts[block].max(initial=0)) for block in group.blocks)
        num_pages = -(-most // PAGE_SLOTS)
        rows = self._plan.block_rows
        pages = [fill_pages(lists, block, rows, num_pages) for block in group.blocks]
        return list(np.stack(pages, 1))

    def _list_steps(self, page: int, group: BlockGroup) -> Steps | None:
        """Return the steps of a page, as arrays on the host; None if counting needs no steps."""
        rows, shape = self._plan.block_rows, self._step_shape
        if shape is None:
            return None
        counts = np.zeros((len(group.blocks), rows), np.int64)
        for device, block in enumerate(group.blocks):
            counts[device, : len(block)] = self._plan.relevant.counts[block]
        lists = [list_steps(row - page * PAGE_SLOTS, shape.rows) for row in counts]
        all_steps = list_steps(np.full(rows, PAGE_SLOTS), shape.rows)
        origins = np.tile(all_steps, (len(lists), 1, 1))
        for device, steps in enumerate(lists):
            origins[device, : len(steps)] = steps
        longest = max(map(len, lists))
        # A power of two, because each bound is compiled separately.
        bound = min(1 << (longest - 1).bit_length(), len(all_steps)) if shape.bounded else None
        return Steps(origins, np.array([len(steps) for steps in lists], np.int32), bound)


def collect_ranks(lists: ItemLists, pages: Iterable[Page]) -> Int32[np.ndarray, " m"]:
    """Return the rank of each item of `lists`, or 0 if another host counted for its query."""
    pages = list(pages)
    for page in pages:
        page.counts.copy_to_host_async()  # finished pages are copied while others are counted
    ranks = np.zeros(len(lists.items), np.int32)
    for page in pages:
        is_filled = page.indices >= 0
        ranks[page.indices[is_filled]] = 1 + np.asarray(page.counts)[is_filled]
    return ranks
