"""The networks, as Flax Linen modules over NHWC maps."""

from batnet_jax.models.backbones import BACKBONES
from batnet_jax.models.batnet import (
    ATTENTIONS,
    LIMITS,
    POSITIONS,
    BATNet,
    feature_sizes,
    parse_positions,
)
from batnet_jax.models.bi_attention import KERNELS, BiAttention
from batnet_jax.models.heads import NECKS
from batnet_jax.models.part_streams import PART_SAMPLINGS

__all__ = [
    "ATTENTIONS",
    "BACKBONES",
    "KERNELS",
    "LIMITS",
    "NECKS",
    "PART_SAMPLINGS",
    "POSITIONS",
    "BATNet",
    "BiAttention",
    "feature_sizes",
    "parse_positions",
]
