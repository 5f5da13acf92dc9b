"""BAT-net for person retrieval in JAX/Flax (Fang et al., ICCV 2019).

model = batnet_jax.load("runs/demo")
features = model.embed("photos/")  # [n, d] float32
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batnet_jax.inference.model import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    """Import JAX and the network at the first use of a name in `__all__`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from batnet_jax.inference import model

    return getattr(model, name)
