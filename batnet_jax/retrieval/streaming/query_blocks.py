"""Queries and what they look for, laid out on the devices in arrays of few shapes."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int32

from batnet_jax.retrieval.streaming.device_map import nothing_known, split
from batnet_jax.retrieval.streaming.tiling import PAGE, Pairs, Plan, fill_pages, list_steps


class Page(NamedTuple):
    """Up to `PAGE` relevant items of each query of a block, on each device."""

    where: Int32[np.ndarray, "devices b page"]  # in the plan's pairs, -1 where there is none
    items: Array  # which of the wanted items
    limits: Array
    counts: Array
    work: Array | None  # [devices, steps, 2] see `count.count_ahead`; None for the kernel
    steps: Array | None  # [devices]
    bound: int | None  # no more than so many; None: each device takes its own `steps`


class Block(NamedTuple):
    """As many blocks of queries as there are devices."""

    queries: Array  # [devices, b, d]
    home: np.ndarray  # [devices, b], -1 where there is no query
    relevant: list[Page]
    removed: list[Array]  # [devices, b, PAGE] each: which of the wanted items


class Group(NamedTuple):
    """As many blocks of queries as this host has devices, not laid out yet."""

    blocks: list[np.ndarray]
    home: np.ndarray  # [devices, b], -1 where there is no query


class Steps(NamedTuple):
    """How `count_ahead` goes through a page."""

    rows: int  # queries at a time
    bounded: bool  # the number of steps is known when it compiles


def deal(plan: Plan) -> list[Group]:
    """The blocks of this host, dealt out over its devices."""
    devices = jax.local_device_count()
    groups = []
    for start in range(0, len(plan.blocks), jax.device_count()):
        first = start + jax.process_index() * devices
        own = plan.blocks[first : first + devices]
        own = own + [np.empty(0, np.int64)] * (devices - len(own))
        home = np.full((devices, plan.rows), -1, np.int32)
        for device, block in enumerate(own):
            home[device, : len(block)] = plan.home[block]
        groups.append(Group(own, home))
    return groups


class Layout:
    """Lays out groups of queries, one at a time."""

    def __init__(
        self,
        plan: Plan,
        place: np.ndarray,
        queries: Callable[[np.ndarray], Float[Array, "n d"]],
        steps: Steps | None,
    ):
        """Prepares.

        Args:
          plan: see `plan`.
          place: [g] which of the wanted items a gallery item is.
          queries: gives the features of queries by their indices.
          steps: see there; None where nothing is counted in steps.
        """
        self._plan = plan
        self._queries = queries
        self._steps = steps
        # The last stands for no item: it is at -1.
        self._relevant, self._removed = (
            np.append(place[pairs.items], -1).astype(np.int32)
            for pairs in (plan.relevant, plan.removed)
        )

    def __call__(self, group: Group) -> Block:
        """A group's arrays on the devices."""
        rows = self._plan.rows
        filled = [np.pad(block, (0, rows - len(block))) for block in group.blocks]
        relevant = self._pages(self._plan.relevant, group)
        removed = self._pages(self._plan.removed, group)
        work, steps, bounds = self._work(len(relevant), group)
        features, items, others, work, steps = split(
            (
                self._queries(np.stack(filled)),
                [self._relevant[where] for where in relevant],
                [self._removed[where] for where in removed],
                work,
                steps,
            )
        )
        pages = []
        for k, where in enumerate(relevant):
            limits, counts = nothing_known(where.shape)
            pages.append(Page(where, items[k], limits, counts, work[k], steps[k], bounds[k]))
        return Block(features, group.home, pages, others)

    def _pages(self, pairs: Pairs, group: Group) -> list[Int32[np.ndarray, "devices b page"]]:
        """Where in `pairs` each query's items are; no page that is empty."""
        rows = self._plan.rows
        most = max(int(pairs.counts[block].max(initial=0)) for block in group.blocks)
        pages = -(-most // PAGE)
        places = [fill_pages(pairs, block, rows, pages) for block in group.blocks]
        return list(np.stack(places, 1))

    def _work(
        self, pages: int, group: Group
    ) -> tuple[Sequence[np.ndarray | None], Sequence[np.ndarray | None], Sequence[int | None]]:
        """`work`, `steps` and `bound` of each page."""
        rows, step = self._plan.rows, self._steps
        if step is None:
            nothing = [None] * pages
            return nothing, nothing, nothing
        every = list_steps(np.full(rows, PAGE), step.rows)
        counts = np.zeros((len(group.blocks), rows), np.int64)
        for device, block in enumerate(group.blocks):
            counts[device, : len(block)] = self._plan.relevant.counts[block]
        works, numbers, bounds = [], [], []
        for page in range(pages):
            lists = [list_steps(row - page * PAGE, step.rows) for row in counts]
            work = np.tile(every, (len(lists), 1, 1))
            for device, steps in enumerate(lists):
                work[device, : len(steps)] = steps
            longest = max(map(len, lists))
            bound = min(1 << (longest - 1).bit_length(), len(every)) if step.bounded else None
            works.append(work)
            numbers.append(np.array([len(steps) for steps in lists], np.int32))
            bounds.append(bound)
        return works, numbers, bounds


def collect(pairs: Pairs, pages: Iterable[Page]) -> Int32[np.ndarray, " m"]:
    """The ranks of the relevant items of this host's queries, 0 for those of other hosts."""
    pages = list(pages)
    for page in pages:
        page.counts.copy_to_host_async()  # those that are counted, while others are
    ranks = np.zeros(len(pairs.items), np.int32)
    for page in pages:
        here = page.where >= 0
        ranks[page.where[here]] = 1 + np.asarray(page.counts)[here]
    return ranks
