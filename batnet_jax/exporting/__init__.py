"""A trained network as a file that runs without this package, and the card beside it.

inference (the network without what only training needs) -> formats (StableHLO, ONNX) -> card ->
commands.
"""

from batnet_jax.exporting.commands import run_export
from batnet_jax.exporting.formats import FORMATS, to_onnx, to_stablehlo

__all__ = ["FORMATS", "run_export", "to_onnx", "to_stablehlo"]
