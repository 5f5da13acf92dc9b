"""Fine-tuning: frozen parts of the network, and a learning rate of its own for the backbone.

A part is an entry at the top of the parameters and of the running statistics: `blk1`,
`bi_attention`, `part_streams`. The arrays of a frozen part are copied from state to state, so that
no rounding changes them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

BACKBONE = ("blk", "part_streams")
"""Starts of the names of the parts that begin as a backbone's weights."""


def is_frozen(name: str, frozen: Sequence[str]) -> bool:
    """Return whether a part is frozen; several Bi-attentions are named after their positions."""
    return name in frozen or ("bi_attention" in frozen and name.startswith("bi_attention"))


def stop_gradients(params: dict[str, Any], frozen: Sequence[str]) -> dict[str, Any]:
    """Return parameters; the frozen ones have no gradient, and take no time to differentiate."""
    return {
        name: lax.stop_gradient(part) if is_frozen(name, frozen) else part
        for name, part in params.items()
    }


def zero_frozen(params: dict[str, Any], frozen: Sequence[str]) -> dict[str, Any]:
    """Return parameters with zeros for the frozen ones, so that L2 adds nothing to a gradient."""
    return {
        name: jax.tree.map(jnp.zeros_like, part) if is_frozen(name, frozen) else part
        for name, part in params.items()
    }


def keep_frozen(new: dict[str, Any], old: dict[str, Any], frozen: Sequence[str]) -> dict[str, Any]:
    """Return new parameters or statistics, with the old values of the frozen ones."""
    return {name: old[name] if is_frozen(name, frozen) else part for name, part in new.items()}


def scale_backbone(updates: dict[str, Any], rate: float) -> dict[str, Any]:
    """Return the updates of parameters; multiply the backbone's updates by `rate`.

    An update is proportional to the learning rate, so this is a learning rate of its own.
    """
    return {
        name: jax.tree.map(lambda u: u * rate, part) if name.startswith(BACKBONE) else part
        for name, part in updates.items()
    }
