"""BAT-net for person retrieval in JAX/Flax (Fang et al., ICCV 2019).

figures, model = batnet_jax.train("people/")  # a folder for each person
model = batnet_jax.load("runs/people")
features = model.embed("photos/")  # [n, d] float32
hits = model.search("me.jpg", "photos/")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batnet_jax.commands.in_python import Trained, load_config, train
    from batnet_jax.inference.hits import RankedHits
    from batnet_jax.inference.loading import load
    from batnet_jax.inference.model import Model

__all__ = ["Model", "RankedHits", "Trained", "load", "load_config", "train"]
_HOMES = {
    "Model": "inference.model",
    "RankedHits": "inference.hits",
    "Trained": "commands.in_python",
    "load": "inference.loading",
    "load_config": "commands.in_python",
    "train": "commands.in_python",
}


def __getattr__(name: str) -> Any:
    """Import JAX and the network at the first use of a name in `__all__`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from batnet_jax.runtime.quiet import hush_xla

    hush_xla()
    return getattr(importlib.import_module(f"batnet_jax.{_HOMES[name]}"), name)
