"""Tells from the labels whether any query of a test can have a match, before a network is run."""

import numpy as np

from batnet_jax.data.dataset import Split
from batnet_jax.data.sources.spelling import show_names, similar_names
from batnet_jax.errors import UserError

MAX_SHOWN = 3
"""Names of identities in a message."""


def check_matches(
    title: str, query: Split, gallery: Split, same_camera: str, names: list[str]
) -> None:
    """Refuse a test in which no query can have a match.

    Args:
      title: the name of the test in messages.
      query: of q images.
      gallery: of g images.
      same_camera: "remove": a match must be from another camera than the query, if all cameras are
        known; "keep": a match may be from any camera.
      names: the names of identities by pid; empty = numbers.

    Raises: UserError that says whether identities or cameras are the reason.
    """
    known = bool((query.cameras >= 0).all() and (gallery.cameras >= 0).all())
    shared = np.intersect1d(query.pids, gallery.pids)
    shared = shared[shared >= 0]
    if not len(shared):
        raise UserError(
            f"no query of {title} can have a match: none of its {len(np.unique(query.pids))} "
            f"identities is among the {len(np.unique(gallery.pids))} of the gallery "
            f"({_compare(query, gallery, names)}): correct the names of folders or files"
        )
    if same_camera != "remove" or not known:
        return
    # A query has a match if its identity is seen in the gallery by another camera.
    seen = {(p, c) for p, c in zip(gallery.pids.tolist(), gallery.cameras.tolist(), strict=True)}
    several = np.unique([p for p, _ in seen], return_counts=True)
    cameras_of = dict(zip(several[0].tolist(), several[1].tolist(), strict=True))
    for pid, camera in zip(query.pids.tolist(), query.cameras.tolist(), strict=True):
        if pid >= 0 and cameras_of.get(pid, 0) > ((pid, camera) in seen):
            return
    cameras = np.unique(np.concatenate([query.cameras, gallery.cameras]))
    only = f", as all images are of camera {cameras[0]}" if len(cameras) == 1 else ""
    raise UserError(
        f"no query of {title} can have a match: each identity is seen in the gallery by the "
        f"query's own camera alone{only}, and such images are left out: correct the cameras, "
        "or pass --config.eval.same_camera=keep"
    )


def _compare(query: Split, gallery: Split, names: list[str]) -> str:
    """Return the names that differ only by case or normal form, else some names of both sets."""
    of_query, of_gallery = (_names_of(split, names) for split in (query, gallery))
    alike = [
        group
        for group in similar_names([*of_query, *of_gallery])
        if set(group) & of_query and set(group) & of_gallery
    ]
    if alike:
        shown = "; ".join(show_names(group) for group in alike[:MAX_SHOWN])
        more = "; ..." if len(alike) > MAX_SHOWN else ""
        return f"{shown}{more} differ only by case or Unicode form"
    few = [", ".join(sorted(found)[:MAX_SHOWN]) for found in (of_query, of_gallery)]
    return f"query: {few[0]}; gallery: {few[1]}"


def _names_of(split: Split, names: list[str]) -> set[str]:
    return {names[pid] if names else str(pid) for pid in np.unique(split.pids).tolist()}
