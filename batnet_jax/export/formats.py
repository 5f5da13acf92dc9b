"""The embedding as StableHLO and as ONNX: bytes of images in, features out, weights inside."""

import contextlib
import functools
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import embed_step
from batnet_jax.export.folded import embed_folded
from batnet_jax.models import BATNet

STABLEHLO, ONNX = ".stablehlo", ".onnx"
PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 18  # of ONNX; read by onnxruntime 1.14 (2023) and newer
INPUT, OUTPUT = "images", "features"
TOLERANCE = 1e-4  # features have unit length; float32 in another order differs by 1e-6
NEEDED = ("jax2onnx", "onnxruntime")


def to_stablehlo(model: BATNet, variables: dict[str, Any], size: tuple[int, int]) -> bytes:
    """`embed_step` as `jax.export` serialises it, for any batch, lowered for all `PLATFORMS`.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.
      size: the images' height and width.
    Returns: what `jax.export.deserialize` reads.
    """
    embed = functools.partial(embed_step, variables, model=model)
    return bytes(export.export(jax.jit(embed), platforms=PLATFORMS)(_images(size)).serialize())


def to_onnx(model: BATNet, variables: dict[str, Any], size: tuple[int, int]) -> bytes:
    """`embed_folded`, in float32, as an ONNX model for any batch, checked against `embed_step`.

    Args: as `to_stablehlo`'s.
    Returns: the serialised model; input `images`, output `features`.

    Raises: RuntimeError if onnxruntime makes other features of it.
    """
    model = model.clone(dtype=jnp.float32)
    embed = functools.partial(embed_folded, variables, model=model)
    with _quiet():
        import jax2onnx

        proto: Any = jax2onnx.to_onnx(
            embed, [_images(size)], opset=OPSET, input_names=[INPUT], output_names=[OUTPUT]
        )
    onnx = proto.SerializeToString()
    _compare(onnx, jax.jit(functools.partial(embed_step, variables, model=model)), size)
    return onnx


FORMATS: dict[str, Callable[[BATNet, dict[str, Any], tuple[int, int]], bytes]] = {
    STABLEHLO: to_stablehlo,
    ONNX: to_onnx,
}
"""Ways to write, by suffix."""


def check_installed(suffix: str) -> None:
    """Refuses a format whose converter is not there.

    Raises: UserError that says what to install.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if suffix == ONNX and missing:
        raise UserError(
            f"writing {ONNX} needs {' and '.join(missing)}: pip install 'batnet-jax[onnx]'"
        )


def _images(size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)


def _compare(onnx: bytes, embed: Callable, size: tuple[int, int]) -> None:
    """Runs random images, which no network has met, through both."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    (theirs,) = session.run([OUTPUT], {INPUT: images})
    difference = np.abs(theirs - np.asarray(embed(images))).max()
    if not difference < TOLERANCE:
        raise RuntimeError(f"the converted network differs by {difference} in its features")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter prints and logs: lines of each layer, plugins it cannot load."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
