"""The networks, as Flax Linen modules over NHWC maps.

* `build`: the network that a config describes
* `init_variables`: its initial values
* `batnet`: BAT-net: blocks, Bi-attention, part streams and heads, assembled
* `backbones`: the backbones by name: googlenet (the paper's), resnet, osnet and vit
* `own_modules`: backbones and heads of the user's own
* `token_map`: a map with tokens beside it
* `bi_attention`: the Bi-attention block; second_order computes Bi(x) piece by piece
* `part_streams`: the part feature extractor
* `heads`: from a map to a feature and scores
* `layers`: convolution, batch normalisation, dropout
* `depthwise`: the depthwise convolution; instance_norm: instance normalisation
* `pooling`: max-pooling
* `preprocess`: from image bytes to a network's input
"""

from batnet_jax.models.backbones import BACKBONES
from batnet_jax.models.batnet import (
    ATTENTIONS,
    FREEZABLE,
    MAX_ATTRIBUTES,
    POSITIONS,
    BATNet,
    feature_sizes,
    parse_frozen,
    parse_positions,
)
from batnet_jax.models.bi_attention import KERNELS, BiAttention
from batnet_jax.models.heads import NECKS, POOLED_NECKS
from batnet_jax.models.part_streams import PART_SAMPLINGS

__all__ = [
    "ATTENTIONS",
    "BACKBONES",
    "FREEZABLE",
    "KERNELS",
    "MAX_ATTRIBUTES",
    "NECKS",
    "PART_SAMPLINGS",
    "POOLED_NECKS",
    "POSITIONS",
    "BATNet",
    "BiAttention",
    "feature_sizes",
    "parse_frozen",
    "parse_positions",
]
