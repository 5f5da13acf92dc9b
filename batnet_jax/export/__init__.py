"""A trained network as a file that runs without this package, and the card beside it.

inference (the network without what only training needs) -> formats (StableHLO, ONNX) -> card ->
commands.
"""

from batnet_jax.export.formats import FORMATS, to_onnx, to_stablehlo
from batnet_jax.export.published import export_published, export_torch

__all__ = ["FORMATS", "export_published", "export_torch", "to_onnx", "to_stablehlo"]
