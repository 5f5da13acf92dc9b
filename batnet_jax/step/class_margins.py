"""The margins of cosine classifiers: the score of an image's own identity must win by a margin."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

SCALE = 30.0
"""s, which multiplies cosines before the softmax (Wang et al., 4.2)."""


def am_softmax(cosines: jax.Array, margin: float) -> jax.Array:
    """Return the cosines of images and their own identities, less the margin.

    Wang et al., "Additive Margin Softmax for Face Verification", IEEE Signal Processing Letters
    2018, Eq. 6. CosFace (Wang et al., CVPR 2018) is the same.
    """
    return cosines - margin


def arcface(cosines: jax.Array, margin: float) -> jax.Array:
    """Return the cosines of the angles to which the margin, in radians, is added.

    Beyond an angle of pi - margin the cosine of the sum would rise again. At such angles the cosine
    is lowered by a constant, as in the authors' program.

    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, Eq.
    3.
    """
    tiny = jnp.finfo(cosines.dtype).eps  # the slope of the sine is infinite at an angle of 0
    sines = jnp.sqrt(jnp.maximum(1 - jnp.square(cosines), tiny))
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    return jnp.where(cosines > -math.cos(margin), turned, cosines - margin * math.sin(margin))


MARGINS: Mapping[str, Callable[[jax.Array, float], jax.Array]] = {
    "am_softmax": am_softmax,
    "arcface": arcface,
}
"""The margins by `BATNet.classifier`."""


def with_margin(
    scores: Mapping[str, Float[Array, "b n"]],
    labels: Int[Array, " b"],
    *,
    classifier: str,
    margin: float,
) -> Mapping[str, Float[Array, "b n"]]:
    """Return the scores that the losses see: cosines scaled, with a margin; others unchanged.

    Args:
      scores: of the network, by stream.
      labels: [b] int in [0, n).
      classifier: see `BATNet.classifier`.
      margin: m, for the scores of the labels.
    """
    if classifier not in MARGINS:
        return scores

    def scaled(cosines: jax.Array) -> jax.Array:
        is_own = jax.nn.one_hot(labels, cosines.shape[-1], dtype=bool)
        return SCALE * jnp.where(is_own, MARGINS[classifier](cosines, margin), cosines)

    return {stream: scaled(cosines) for stream, cosines in scores.items()}
