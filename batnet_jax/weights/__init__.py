"""Weights of others: the published PyTorch checkpoints, torchvision's; and back.

names (tables) -> reading (files, safely) -> convert (tensors to variables, the report) ->
sources (what is it, does it fit) -> commands.
"""

from batnet_jax.weights.convert import Report
from batnet_jax.weights.init_from import initialise

__all__ = ["Report", "initialise"]
