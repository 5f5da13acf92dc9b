"""Reads the weights of other programs, or of a workdir, as the variables of a network.

* `names`: tables: the PyTorch name of each variable, and the order of Bi()'s channels
* `resnet_names`, `osnet_names`, `vit_names`, `clip_names`: the tables of single families
* `read_tensors`: tensors from .pth and .safetensors files, without running code from them
* `sources`: the network of a file or a workdir, compared with the wanted one
* `convert`: the tensors of a source, converted to variables and back
* `fill`: the variables of a network, filled from a source
* `load_report`: the report of each tensor's fate
* `init_from`: the variables that training starts from
* `given`: a file of weights as a trained model

`export.published` writes variables under the published names.
"""

from batnet_jax.weights.init_from import initialise
from batnet_jax.weights.load_report import Report

__all__ = ["Report", "initialise"]
