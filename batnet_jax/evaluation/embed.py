"""TODO."""

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
from batnet_jax.runtime.devices import AXIS
from batnet_jax.runtime.preemption import Terminated, is_agreed
from batnet_jax.runtime.progress import progress_bar


def embed_step(variables: dict[str, Any], images: jax.Array, *, model: BATNet) -> jax.Array:
    """Images to features as the test phase compares them (section 4.4).

    Args:
      variables: `params` and `batch_stats`.
      images: [b, h, w, 3] bytes.
      model: the network.
    Returns: [b, d] float32: f_a, and f_p where there are parts, each of unit length (published
      code), side by side.
    """
    outputs: Any = model.apply(variables, normalise(images), train=False)
    halves = [
        f / jnp.maximum(jnp.linalg.norm(f, axis=-1, keepdims=True), 1e-12)
        for f in outputs["features"].values()
    ]
    return jnp.concatenate(halves, axis=-1).astype(jnp.float32)


Embed = Callable[[np.ndarray], np.ndarray]


def make_embed(model: Any, variables: dict[str, Any]) -> Embed:
    """Images [b, h, w, 3] bytes to features [b, d] float32, b a multiple of the devices.

    Of several processes each gives its own images, and gets the features of these.
    """
    replicated = devices.replicate(variables)
    step = jax.pmap(functools.partial(embed_step, model=model), AXIS, in_axes=(None, 0))

    def embed(images: np.ndarray) -> np.ndarray:
        features = np.asarray(step(replicated, devices.split(images)))
        return features.reshape(-1, features.shape[-1])

    return embed


def extract_features(store: ImageStore, embed: Embed, *, batch: int, name: str) -> np.ndarray:
    """Features of all n images of a store, [n, d] float32."""
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
    """Features of some images of a store, [n, d] float32; every step has the same shape.

    Several processes share the images, and all get the features of all.

    Raises: Terminated if SIGTERM has come to one of several processes.
    """
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % batch)])
    own = filled.reshape(-1, batch)[:, devices.own_rows(batch)]
    features, left = [], len(rows)
    with prefetch(store, own) as batches:
        for _, images in batches:
            features.append(embed(images))
            progress(min(batch, left))
            left -= min(batch, left)
    if is_agreed():
        raise Terminated
    return devices.gather(np.stack(features), batch)[: len(rows)]
