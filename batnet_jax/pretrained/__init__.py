"""Weights of others: the published PyTorch checkpoints, torchvision's; and back.

names (tables) -> reading (files, safely) -> convert (tensors to variables, the report) ->
sources (what is it, does it fit) -> commands.
"""

from batnet_jax.pretrained.commands import export_torch, initialise, run_export, run_import
from batnet_jax.pretrained.convert import Report

__all__ = ["Report", "export_torch", "initialise", "run_export", "run_import"]
