"""Embedding: images to features in batches, over all devices of all processes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batnet_jax.data.loading.loader import ImageStore, prefetch
from batnet_jax.models import BATNet
from batnet_jax.models.preprocess import normalise
from batnet_jax.runtime import devices
from batnet_jax.runtime.compile_time import compiling
from batnet_jax.runtime.preemption import is_agreed
from batnet_jax.runtime.progress import progress_bar
from batnet_jax.runtime.signals import Terminated

DELAY = 2.0
"""Seconds until compiling is shown: the program may be in the cache."""

_compiled: set[tuple[int, tuple[int, ...]]] = set()
"""The programs, by function and shape, that this process has run."""

Embed = Callable[[np.ndarray], np.ndarray]
"""Images [b, h, w, 3] bytes to features [b, d] float32."""


def embed_step(variables: dict[str, Any], images: jax.Array, *, model: BATNet) -> jax.Array:
    """Compute the features that the test phase compares (section 4.4).

    Args:
      variables: `params` and `batch_stats`.
      images: [b, h, w, 3] bytes.
      model: the network.
    Returns: [b, d] float32: f_a and, if the network has parts, f_p side by side, each of unit
      length as in the published code.
    """
    outputs: Any = model.apply(variables, normalise(images), train=False)
    halves = [
        f / jnp.maximum(jnp.linalg.norm(f, axis=-1, keepdims=True), 1e-12)
        for f in outputs["features"].values()
    ]
    return jnp.concatenate(halves, axis=-1).astype(jnp.float32)


def make_embed(model: Any, variables: dict[str, Any], *, apart: bool = False) -> Embed:
    """Return a function that embeds images on all devices; b must be a multiple of their number.

    Each of several processes passes its own images and gets the features of its own images.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.
      apart: each process calls the function when it likes, and computes on its own devices. Without
        it all processes must call the function together.
    """
    on = devices.own_devices() if apart else None
    replicated, step = devices.replicate(variables), embed_on_devices(model, on)

    def embed(images: np.ndarray) -> np.ndarray:
        split = devices.split(images)
        program = id(step), split.shape
        if program in _compiled:
            features = np.asarray(step(replicated, split))
        else:
            with compiling("embed", model, split.shape, delay=DELAY):
                features = np.asarray(step(replicated, split))
            _compiled.add(program)
        return features.reshape(-1, features.shape[-1])

    return embed


@functools.lru_cache(maxsize=2)
def embed_on_devices(model: Any, on: tuple[Any, ...] | None = None) -> Callable[..., jax.Array]:
    """Return `embed_step` for all devices, compiled once for all variables of a network.

    Args:
      model: the network.
      on: the devices; None = the devices of all processes.
    """
    step = functools.partial(embed_step, model=model)
    return devices.parallel(step, in_axes=(None, 0), devices=on)


def extract_features(store: ImageStore, embed: Embed, *, batch: int, name: str) -> np.ndarray:
    """Embed all n images of a store, with a progress bar; return [n, d] float32."""
    with progress_bar(len(store), description=f"embed {name}") as bar:
        return embed_rows(store, np.arange(len(store)), embed, batch=batch, progress=bar.update)


def embed_rows(
    store: ImageStore,
    rows: np.ndarray,
    embed: Embed,
    *,
    batch: int,
    progress: Callable[[int], Any],
) -> np.ndarray:
    """Embed the images of n rows of a store in batches of one shape; return [n, d] float32.

    Several processes divide the images among them, and each returns the features of all images.

    Raises: Terminated if one of several processes has received SIGTERM.
    """
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch)])
    plan = padded.reshape(-1, batch)[:, devices.own_rows(batch)]
    features, remaining = [], len(rows)
    with prefetch(store, plan) as batches:
        for _, images in batches:
            features.append(embed(images))
            progress(min(batch, remaining))
            remaining -= min(batch, remaining)
    if is_agreed():
        raise Terminated
    return devices.gather(np.stack(features), batch)[: len(rows)]
