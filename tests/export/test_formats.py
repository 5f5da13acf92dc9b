"""Exported files: the same features at any batch size, the card, and outputs that are refused.

Features have unit length. Two correct float32 programs sum in different orders: 1e-5 if XLA runs
both, 1e-4 for onnxruntime.
"""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support import fast_jit, needs
from support.fast_jit import jit
from support.variants import slow

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import embed_step
from batnet_jax.export import formats
from batnet_jax.export.folded import embed_folded, unrolled_forms
from batnet_jax.export.model_card import ExportedModel, model_card
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.models.preprocess import normalise
from batnet_jax.modes import export as export_mode
from batnet_jax.modes.export import write_whole
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.workdir import checkpoints

SIZE = (32, 32)
BATCHES = (1, 7, 64)
# Deprecations inside other libraries.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def make_config(**model):
    config = default_config()
    config.data.dataset = "pedestrians"
    config.data.image_size = SIZE
    config.model.update({"width": 1 / 16, "num_parts": 1, "embedding_dim": 16} | model)
    return config


def network(config):
    """Return a model and random variables: an error in a 0 or a 1 could go unnoticed."""
    model = make_model(config, 5)
    rng = np.random.default_rng(1)
    variables = draw_variables(model, tuple(config.data.image_size), 0)
    noise = lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(np.float32)  # noqa: E731
    return model, jax.tree.map(noise, variables)


def settled(model, variables, images):
    """Return the variables with batch statistics of images, as after training.

    Without them, activations at full width grow to millions. The attention multiplies two before
    its sigmoid: if rounding makes one of them zero, the mask is 1/2 instead of 1.
    """
    rngs = {"dropout": jax.random.key(0)}
    alone = model.clone(axis_name=None)
    _, found = jit(partial(alone.apply, train=True, mutable=["batch_stats"]))(
        variables, normalise(images), rngs=rngs
    )
    old, new = variables["batch_stats"], found["batch_stats"]  # new = 0.9 old + 0.1 of the images
    stats = jax.tree.map(lambda a, b: np.asarray((b - 0.9 * a) / 0.1), old, new)
    return variables | {"batch_stats": stats}


def photos(batch, size=SIZE):
    return np.random.default_rng(batch).integers(0, 256, (batch, *size, 3), np.uint8)


def embedding(model, variables):
    return jit(partial(embed_step, variables, model=model))


@pytest.mark.parametrize("channels", [1, 4, 5, 40])
def test_unrolled_forms_against_the_triangle(channels):
    rng = np.random.default_rng(channels)
    x = rng.standard_normal((3, 2, channels))
    kernel = rng.standard_normal((channels * (channels + 1) // 2, 3))
    rows, columns = np.triu_indices(channels)
    want = (x[..., rows] * x[..., columns]) @ kernel
    got = unrolled_forms(jnp.asarray(x, jnp.float32), kernel.astype(np.float32))
    np.testing.assert_allclose(got, want, atol=1e-4)  # sums of 820 products in float32


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"backbone": "torchvision", "attention": "plain", "kernel": "linear"},
        {"kernel": "rff", "position": "p1,p3", "num_parts": 0},
        slow({"backbone": "resnet50", "neck": "bnneck", "embedding_dim": 0}),
        {"backbone": "osnet_ain_x1_0", "neck": "fc", "attention": "none", "num_parts": 0},
        slow({"backbone": "osnet_ibn_x1_0", "attention": "none", "num_parts": 0}),
        {"backbone": "fastreid_r50_ibn_nl", "neck": "bnneck_gem", "attention": "none"},
        {"backbone": "vit_s16", "neck": "bnneck", "attention": "none"},
    ],
    ids=str,
)
def test_folded_is_the_same_network(model, short_backbone, short_resnet, short_osnet):
    model, variables = network(make_config(**model))
    images = photos(3)
    got = jit(partial(embed_folded, variables, model=model))(images)
    np.testing.assert_allclose(got, embedding(model, variables)(images), atol=1e-5)


RUN_ALONE = """
import sys
import numpy as np
from jax import export
model = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
with np.load(sys.argv[2]) as images:
    features = {name: np.asarray(model.call(images[name])) for name in images}
np.savez(sys.argv[3], **features)
print(*model.platforms, {"batnet_jax", "flax", "orbax", "torch"} & sys.modules.keys())
"""


def test_stablehlo_runs_with_jax_alone(tmp_path, short_backbone):
    model, variables = network(make_config())
    (tmp_path / "m.stablehlo").write_bytes(formats.to_stablehlo(model, variables, SIZE))
    np.savez(tmp_path / "images.npz", **{str(b): photos(b) for b in BATCHES})
    command = [sys.executable, "-c", RUN_ALONE, "m.stablehlo", "images.npz", "features.npz"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"XLA_FLAGS": fast_jit.FLAGS},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stdout, done.returncode) == ("cpu cuda tpu set()\n", 0), done.stderr
    embed = embedding(model, variables)
    with np.load(tmp_path / "features.npz") as features:
        for batch in BATCHES:
            got = features[str(batch)]
            assert (got.shape, got.dtype) == ((batch, 32), np.float32)
            np.testing.assert_allclose(got, embed(photos(batch)), atol=1e-5)


def test_stablehlo_says_what_it_wants(short_backbone):
    model, variables = network(make_config())
    exported = export.deserialize(bytearray(formats.to_stablehlo(model, variables, SIZE)))
    with pytest.raises(ValueError, match="32"):
        exported.call(np.zeros((2, 48, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        exported.call(np.zeros((2, *SIZE, 3), np.float32))


@pytest.fixture
def onnx_packages():
    needs.installed("jax2onnx", "onnx", "onnxruntime")


def run_onnx(content, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (features,) = session.run(["features"], {"images": images})
    return features


@pytest.mark.usefixtures("onnx_packages")
def test_onnx_in_onnxruntime(short_backbone, capfd):
    import onnx

    model, variables = network(make_config())
    content = formats.to_onnx(model, variables, SIZE)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert capfd.readouterr() == ("", "")  # none of the converter's output
    embed = embedding(model, variables)
    for batch in BATCHES:
        got = run_onnx(content, photos(batch))
        assert (got.shape, got.dtype) == ((batch, 32), np.float32)
        np.testing.assert_allclose(got, embed(photos(batch)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["osnet_ain_x1_0", "osnet_ibn_x1_0"])
@pytest.mark.usefixtures("onnx_packages")
def test_onnx_of_osnet(backbone, short_osnet):
    options = {"backbone": backbone, "neck": "fc", "attention": "none", "num_parts": 0}
    model, variables = network(make_config(**options))
    content = formats.to_onnx(model, variables, SIZE)
    features = run_onnx(content, photos(3))
    np.testing.assert_allclose(features, embedding(model, variables)(photos(3)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "neck"), [("fastreid_r50_ibn_nl", "bnneck_gem"), ("vit_s14_dinov2_reg4", "bnneck")]
)
@pytest.mark.usefixtures("onnx_packages")
def test_onnx_of_other_backbones(backbone, neck, short_resnet):
    options = {"backbone": backbone, "neck": neck, "attention": "none", "num_parts": 0}
    model, variables = network(make_config(**options))
    content = formats.to_onnx(model, variables, SIZE)
    features = run_onnx(content, photos(3))
    np.testing.assert_allclose(features, embedding(model, variables)(photos(3)), atol=1e-4)


@pytest.mark.usefixtures("onnx_packages")
def test_a_wrong_conversion_is_not_written(short_backbone, monkeypatch):
    wrong = lambda *args, **kwargs: 1.01 * embed_folded(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr(formats, "embed_folded", wrong)
    model, variables = network(make_config(num_parts=0, attention="none"))
    with pytest.raises(RuntimeError, match=r"differs by 0\.0"):
        formats.to_onnx(model, variables, SIZE)


def make_exported(**changes):
    config = make_config()
    config.data.manual_dir = "/home/somebody/photos"
    config.data.train = ("msmt17:v2", "folder:/home/somebody/ours")
    config.init["from"] = "/home/somebody/weights.pth"
    who = [["msmt17-v2", 3, ""], ["msmt17-v2", 5, ""], ["folder-ours", 0, "ann"]]
    result = {
        **{"dataset": "msmt17-v2", "split": "test", "mAP": 0.5678, "mINP": 0.1234},
        "ap": "precision",
        **{"num_valid_query": 11659, "num_gallery": 82161, "same_camera": "remove"},
        "cmc": {"1": 0.795, "5": 0.891, "10": 0.911, "20": 0.93},
    }  # fmt: skip
    run = checkpoints.metadata(config, who)
    sizes = {"appearance": 16, "part": 16}
    base = ExportedModel(1200, run, [result], 34567, SIZE, "ab" * 32, 890, sizes)
    return base._replace(**changes)


def test_the_card_says_what_the_file_is():
    card = model_card("m.stablehlo", make_exported())
    for text in (
        "# m.stablehlo",
        f"890 bytes, SHA-256 `{'ab' * 32}`",
        "34,567 parameters, at step 1,200",
        "| input | `images` | uint8 | batch, 32, 32, 3 |",
        "| output | `features` | float32 | batch, 32 |",
        "A feature is appearance, 16 numbers and part, 16 numbers, each of unit length",
        "- msmt17-v2: 2 identities.",
        "- folder-ours: 1 identities.",
        "from weights of `weights.pth`, seed 0",
        "| msmt17-v2 | test | 56.8 | 12.3 | 79.5 | 89.1 | 91.1 | 11,659 | 82,161 |",
        "Average precision: precision",
        "given out for research only",
        "who knows their terms and the consent",
        f"jax {jax.__version__}",
        "export.deserialize",
    ):
        assert text in card, text
    assert "somebody" not in card  # no path of this machine
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    assert settings["data"]["train"] == ["msmt17-v2", "folder-ours"]
    assert settings["model"]["width"] == 1 / 16


def test_the_card_without_figures_or_settings():
    """A checkpoint of the first versions, never evaluated, of imported weights."""
    run = {"model": make_exported().metadata["model"], "identities": [["imported", 0, ""]]}
    card = model_card("m.onnx", make_exported(metadata=run, results=[]))
    assert "has not been evaluated" in card
    assert "the weights were imported" in card
    assert "onnxruntime.InferenceSession" in card


def save_checkpoint(config, workdir):
    recipe = make_recipe(config, num_identities=2, steps_per_epoch=1)
    state = init_state(recipe, SIZE)
    run = checkpoints.metadata(config, [["pedestrians", i, ""] for i in range(2)])
    with checkpoints.open_manager(workdir) as manager:
        checkpoints.save(manager, 3, state, run)


def test_a_checkpoint_becomes_a_file_and_a_card(tmp_path, capsys):
    config = make_config(num_parts=0)
    save_checkpoint(config, tmp_path / "run")
    (tmp_path / "run" / "eval").mkdir()
    for name in ("step_3.json", "step_3_pedestrians.json", "step_30.json"):
        changed = {"dataset": name.replace("step_3.json", "pedestrians")}
        result = make_exported().results[0] | changed
        (tmp_path / "run" / "eval" / name).write_text(json.dumps(result))
    output = tmp_path / "new" / "m.stablehlo"
    export_mode.run(config, tmp_path / "run", output=output)
    assert {p.name for p in output.parent.iterdir()} == {"m.stablehlo", "m.stablehlo.md"}
    card = (output.parent / "m.stablehlo.md").read_text()
    assert hashlib.sha256(output.read_bytes()).hexdigest() in card
    assert "- pedestrians: 2 identities." in card
    assert "| pedestrians | test | 56.8 |" in card
    assert "step_30" not in card
    assert "no person is shown" in card
    assert str(output) in capsys.readouterr().out
    config.data.image_size = (48, 32)
    export_mode.run(config, tmp_path / "run", output=output.with_name("w.safetensors"))
    assert "note: for images of 48 x 32, and trained on 32 x 32" in capsys.readouterr().out
    assert "published PyTorch code" in (output.parent / "w.safetensors.md").read_text()


def test_mistakes_are_named_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "m.onnx").mkdir()
    before = sorted(tmp_path.rglob("*"))

    def refused(name, match):
        with pytest.raises(UserError, match=match) as caught:
            export_mode.run(make_config(), tmp_path / "no run", output=tmp_path / name)
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.rglob("*")) == before

    refused("m.tflite", r"m.tflite does not end in one of \.stablehlo, \.onnx, \.pth")
    refused("file/m.stablehlo", "cannot write to .*file")
    refused("m.stablehlo", "no checkpoint")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: object())
    refused("m.onnx", "is a folder")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    refused("n.onnx", r"needs jax2onnx and onnxruntime: pip install 'batnet-jax\[onnx\]'")


def test_a_file_is_written_whole_or_not(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    write_whole(path, b"old")

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        write_whole(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.onnx", b"old")]


@pytest.mark.usefixtures("onnx_packages")
@pytest.mark.slow
def test_full_width(tmp_path):
    """The paper's network, 256 x 128, in both formats at each batch."""
    config = default_config()
    size = tuple(config.data.image_size)
    model, variables = network(config)
    variables = settled(model, variables, photos(8, size))
    onnx = formats.to_onnx(model, variables, size)
    exported = export.deserialize(bytearray(formats.to_stablehlo(model, variables, size)))
    embed = jax.jit(partial(embed_step, variables, model=model))
    for batch in BATCHES:
        images = photos(batch, size)
        want = embed(images)
        np.testing.assert_allclose(exported.call(images), want, atol=1e-5)
        np.testing.assert_allclose(run_onnx(onnx, images), want, atol=1e-4)
