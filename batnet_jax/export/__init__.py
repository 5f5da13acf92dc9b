"""A trained network as a file for other programs, and the card beside it.

* `formats`: StableHLO and ONNX: a function from images to features
* `folded`: the network in few operations, for the converter to ONNX
* `published`: the weights under the published PyTorch code's names
* `model_card`: the card
"""

from batnet_jax.export.formats import FORMATS, to_onnx, to_stablehlo
from batnet_jax.export.published import to_published

__all__ = ["FORMATS", "to_onnx", "to_published", "to_stablehlo"]
