"""The heads, from a map to a feature and identity scores: the paper's, the BNNeck, OSNet's."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from batnet_jax.models.layers import BatchNorm, Dropout

FAN_IN = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
"""The initial values of an fc."""


class Cosines(nn.Dense):
    """An fc without bias whose inputs and columns have unit length, so that it gives cosines.

    Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", ACM MM 2017.
    """

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map [b, d] to [b, features], in [-1, 1]; an input of zeros has cosines of 0."""
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        inputs, kernel = promote_dtype(inputs, kernel, dtype=self.dtype)
        columns = unit_length(kernel.T).T
        return jnp.matmul(unit_length(inputs), columns, precision=lax.Precision.HIGHEST)


def unit_length(vectors: jax.Array) -> jax.Array:
    """Return vectors [..., d] of length 1; a vector of zeros stays, and has no gradient."""
    squared = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * lax.rsqrt(jnp.maximum(squared, 1e-24))


CLASSIFIERS: Mapping[str, type[nn.Dense]] = {
    "linear": nn.Dense,
    "am_softmax": Cosines,
    "arcface": Cosines,
}
"""The last layer of a head by `BATNet.classifier`; `step/class_margins.py` has the margins."""


class Head(nn.Module):
    """The paper's head (section 4.4; details from the published code).

    BN, ReLU (appearance only), GAP, dropout, fc, BN, ReLU give the feature f. Dropout and fc give
    the scores.

    Attributes:
      num_identities: of the training set.
      embedding_dim: of f (section 4.4: 512).
      relu: apply a ReLU before GAP (published code: appearance yes, part no).
      dropout: rate of both dropouts (published code: 0.1).
      batch_norm_axis: the axis of pmap for BN; None: each device has its own statistics.
      axis_name: pmap's axis for dropout.
      dtype: of the computation, but at least float32.
      classifier: a key of `CLASSIFIERS`.
    """

    num_identities: int
    embedding_dim: int = 512
    relu: bool = True
    dropout: float = 0.1
    batch_norm_axis: str | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32
    classifier: str = "linear"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map [b, h, w, c] to the feature [b, embedding_dim] and scores [b, num_identities]."""
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        shared = {"axis_name": self.batch_norm_axis, "dtype": dtype}
        x = BatchNorm(name="map_bn", **shared)(x, train=train)
        x = (nn.relu(x) if self.relu else x).mean((1, 2))
        x = Dropout(self.dropout, self.axis_name)(x, train=train)
        dense = {"kernel_init": FAN_IN, "dtype": dtype}
        x = nn.Dense(self.embedding_dim, name="embedding", **dense)(x)
        x = BatchNorm(name="bn", **shared)(x, train=train)
        feature = nn.relu(x)
        x = Dropout(self.dropout, self.axis_name)(feature, train=train)
        classifier = CLASSIFIERS[self.classifier]
        return feature, classifier(self.num_identities, name="classifier", **dense)(x)


class GeM(nn.Module):
    """Generalised mean over the pixels, with a learned power: 1 is the mean, infinity the maximum.

    Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, Eq. 3.

    Attributes:
      lowest: the least value of a pixel; lower values are raised to it.
    """

    lowest: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [b, h, w, c] to [b, c], > 0."""
        power = self.param("power", nn.initializers.constant(3.0), (1,))
        return (jnp.maximum(x, self.lowest) ** power).mean((1, 2)) ** (1 / power)


class BNNeckHead(nn.Module):
    """The head of the strong baselines, with BN between the inputs of the two losses.

    GAP or GeM, and fc if `embedding_dim`, give the feature before the neck, for the triplet loss.
    BN without shift gives the feature behind the neck, the embedding. Dropout and fc without bias
    give the scores.

    Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-identification", CVPR
    Workshops 2019, "BNNeck".

    Attributes:
      num_identities: of the training set.
      embedding_dim: of the feature; 0 = the channels of the map (Luo et al.).
      dropout: rate before the classifier (Luo et al.: 0).
      gem: pool by `GeM`, not by GAP (Luo et al.: no).
      batch_norm_axis: the axis of pmap for BN; None: each device has its own statistics.
      axis_name: pmap's axis for dropout.
      dtype: of the computation, but at least float32.
      classifier: a key of `CLASSIFIERS`.
    """

    num_identities: int
    embedding_dim: int = 0
    dropout: float = 0.0
    gem: bool = False
    batch_norm_axis: str | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32
    classifier: str = "linear"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map [b, h, w, c] to the feature [b, embedding_dim or c] and scores [b, num_identities].

        In training the feature is the one before the neck, otherwise the one behind it.
        """
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        before = GeM(name="pool")(x) if self.gem else x.mean((1, 2))
        dense = {"kernel_init": FAN_IN, "dtype": before.dtype, "use_bias": False}
        if self.embedding_dim:
            before = nn.Dense(self.embedding_dim, name="embedding", **dense)(before)
        neck = BatchNorm(self.batch_norm_axis, before.dtype, use_bias=False, name="neck")
        behind = neck(before, train=train)
        x = Dropout(self.dropout, self.axis_name)(behind, train=train)
        classifier = CLASSIFIERS[self.classifier]
        scores = classifier(self.num_identities, name="classifier", **dense)(x)
        return before if train else behind, scores


class FCHead(nn.Module):
    """The head of OSNet: GAP, fc, BN and ReLU give the feature; dropout and fc give the scores.

    Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019, Table 1.

    Attributes:
      num_identities: of the training set.
      embedding_dim: of the feature (Zhou et al.: 512).
      dropout: rate before the classifier (Zhou et al.: 0).
      batch_norm_axis: the axis of pmap for BN; None: each device has its own statistics.
      axis_name: pmap's axis for dropout.
      dtype: of the computation, but at least float32.
      classifier: a key of `CLASSIFIERS`.
    """

    num_identities: int
    embedding_dim: int = 512
    dropout: float = 0.0
    batch_norm_axis: str | None = None
    axis_name: str | None = None
    dtype: Any = jnp.float32
    classifier: str = "linear"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map [b, h, w, c] to the feature [b, embedding_dim] and scores [b, num_identities]."""
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        dense = {"kernel_init": FAN_IN, "dtype": dtype}
        x = nn.Dense(self.embedding_dim, name="embedding", **dense)(x.astype(dtype).mean((1, 2)))
        feature = nn.relu(BatchNorm(self.batch_norm_axis, dtype, name="bn")(x, train=train))
        x = Dropout(self.dropout, self.axis_name)(feature, train=train)
        classifier = CLASSIFIERS[self.classifier]
        return feature, classifier(self.num_identities, name="classifier", **dense)(x)


HEADS: Mapping[str, Mapping[str, Callable[..., nn.Module]]] = {
    "none": {"appearance": Head, "part": partial(Head, relu=False)},
    "bnneck": {"appearance": BNNeckHead, "part": BNNeckHead},
    "bnneck_gem": dict.fromkeys(("appearance", "part"), partial(BNNeckHead, gem=True)),
    "fc": {"appearance": FCHead, "part": FCHead},
}
"""The heads by `BATNet.neck`, then by the feature's name."""
NECKS = tuple(HEADS)
POOLED_NECKS = ("bnneck", "bnneck_gem")
"""The heads whose feature may be the pooled map itself, `embedding_dim=0`."""
