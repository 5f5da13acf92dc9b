"""The exported .onnx in OpenVINO, in float32 and in int8."""

from functools import partial

import jax
import numpy as np
import pytest
from support import needs
from support.tiny_osnet import SIZE, draw, make_config

from batnet_jax.evaluation.embed import embed_step
from batnet_jax.export import to_onnx
from batnet_jax.models.build import make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # OpenVINO and nncf fork, beside much else


@pytest.fixture(scope="module")
def exported():
    """The .onnx file, and the step of JAX."""
    needs.package("jax2onnx")
    config = make_config(width=0.5)
    model, variables = make_model(config, 5, axis_name=None), draw(config)
    onnx = to_onnx(model, variables, SIZE)
    return onnx, jax.jit(partial(embed_step, variables, model=model))


def compile_model(model):
    openvino = needs.package("openvino")
    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def draw_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


@pytest.mark.parametrize("batch", [1, 32])
def test_features_equal_those_of_jax(exported, batch):
    openvino = needs.package("openvino")
    onnx, embed = exported
    images = draw_images(batch)
    ours = compile_model(openvino.Core().read_model(onnx))(images)[0]
    np.testing.assert_allclose(ours, embed(images), atol=1e-4)


def test_int8_points_the_same_way(exported):
    openvino = needs.package("openvino")
    nncf = needs.package("nncf")
    onnx, embed = exported
    calibration = nncf.Dataset([image[None] for image in draw_images(16, seed=1)])
    model = nncf.quantize(openvino.Core().read_model(onnx), calibration, subset_size=16)
    outputs = [output for op in model.get_ops() for output in op.outputs()]
    kinds = {output.get_element_type().get_type_name() for output in outputs}
    assert {"i8", "u8"} & kinds
    images = draw_images(32)
    ours, theirs = compile_model(model)(images)[0], np.asarray(embed(images))
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > 0.95
    assert np.abs(ours - theirs).max() > 1e-5  # it is not the network before
