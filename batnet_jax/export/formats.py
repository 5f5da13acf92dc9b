"""The embedding as a StableHLO or ONNX file with the weights: image bytes in, features out."""

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
OPSET = 18  # ONNX's; onnxruntime 1.14 (2023) and newer read it
INPUT, OUTPUT = "images", "features"
TOLERANCE = 1e-4  # features have unit length; another order of float32 sums differs by 1e-6
ONNX_PACKAGES = ("jax2onnx", "onnxruntime")


def to_stablehlo(model: BATNet, variables: dict[str, Any], size: tuple[int, int]) -> bytes:
    """Serialise `embed_step` by `jax.export`, for any batch size and all `PLATFORMS`.

    The file requests full precision: by default GPUs and TPUs would multiply float32 numbers in
    fewer bits, and the features would depend on the machine.

    Args:
      model: the network.
      variables: `params` and `batch_stats`.
      size: the images' height and width.
    Returns: bytes for `jax.export.deserialize`.
    """
    embed = functools.partial(embed_step, variables, model=model)
    with jax.default_matmul_precision("highest"):
        exported = export.export(jax.jit(embed), platforms=PLATFORMS)(_images(size))
    return bytes(exported.serialize())


def to_onnx(model: BATNet, variables: dict[str, Any], size: tuple[int, int]) -> bytes:
    """Convert `embed_folded`, in float32, to an ONNX model for any batch size.

    Args: see `to_stablehlo`.
    Returns: the serialised model; input `images`, output `features`.

    Raises: RuntimeError if onnxruntime's features differ from `embed_step`'s.
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
"""The functions that make a file's content, by the file's suffix."""


def check_installed(suffix: str) -> None:
    """Check that the packages for a format are installed.

    Raises: UserError that names the packages to install.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if suffix == ONNX and missing:
        raise UserError(
            f"writing {ONNX} needs {' and '.join(missing)}: pip install 'batnet-jax[onnx]'"
        )


def _images(size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)


def _compare(onnx: bytes, embed: Callable, size: tuple[int, int]) -> None:
    """Compare the features of random images.

    Raises: RuntimeError if they differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    (theirs,) = session.run([OUTPUT], {INPUT: images})
    difference = np.abs(theirs - np.asarray(embed(images))).max()
    if not difference < TOLERANCE:
        raise RuntimeError(f"the converted network differs by {difference} in its features")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the converter's output: a line for each layer, and plugins that cannot be loaded."""
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
