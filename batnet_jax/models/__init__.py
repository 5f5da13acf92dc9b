"""The networks, as Flax Linen modules over NHWC maps."""

from batnet_jax.models.batnet import ATTENTIONS, POSITIONS, BATNet
from batnet_jax.models.bi_attention import BiAttention
from batnet_jax.models.part_streams import PART_SAMPLINGS

__all__ = ["ATTENTIONS", "PART_SAMPLINGS", "POSITIONS", "BATNet", "BiAttention"]
