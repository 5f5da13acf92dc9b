"""The networks, as Flax Linen modules over NHWC maps."""

from batnet_jax.models.batnet import ATTENTIONS, LIMITS, POSITIONS, BATNet, parse_positions
from batnet_jax.models.bi_attention import KERNELS, BiAttention
from batnet_jax.models.part_streams import PART_SAMPLINGS

__all__ = [
    "ATTENTIONS",
    "KERNELS",
    "LIMITS",
    "PART_SAMPLINGS",
    "POSITIONS",
    "BATNet",
    "BiAttention",
    "parse_positions",
]
