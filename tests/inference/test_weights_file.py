"""A file of weights in place of a run: `load`, and the commands that take a run."""

import numpy as np
import pytest
from PIL import Image
from support.fast_jit import jit
from support.paths import ROOT
from support.run_main import call_main
from support.tiny_osnet import SIZE, draw, make_config
from support.tiny_resnet import draw as draw_resnet
from support.tiny_resnet import make_config as make_resnet
from support.tiny_run import PIXELS
from support.tiny_weights import write

import batnet_jax
from batnet_jax.commands.run import load_mode
from batnet_jax.errors import UserError
from batnet_jax.models import BACKBONES, osnet
from batnet_jax.models.preprocess import normalise
from batnet_jax.modes.import_weights import import_weights
from batnet_jax.weights.convert import flatten, to_torch
from batnet_jax.weights.given import given_config
from batnet_jax.weights.names import NAMES, OSNET, RESNET

WIDTH = 1 / 16
SMALL = f"--config.data.image_size={SIZE}"


@pytest.fixture(autouse=True, scope="module")
def one_stream():
    """Keep one stream in a block, which compiles in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(osnet, "STREAMS", 1)
        yield


def named(variables, form):
    flat = {NAMES[form](path): to_torch(path, v) for path, v in flatten(variables).items()}
    flat.pop(None, None)
    return flat


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a narrow OSNet, as its authors name it."""
    tensors = named(draw(make_config("osnet_x1_0", width=WIDTH)), OSNET)
    return write(tmp_path_factory.mktemp("weights") / "osnet_street.safetensors", tensors)


@pytest.fixture(scope="module")
def model(weights):
    return batnet_jax.load(weights, image_size=SIZE, batch=2)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with a photo and some features."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("photo.png")
    np.save("features.npy", np.eye(2, 512, dtype=np.float32))
    return tmp_path


def test_the_settings_are_told_by_the_names(weights):
    config = given_config(weights)
    model = config.model
    assert (model.backbone, model.width, model.neck) == ("osnet_x1_0", WIDTH, "fc")
    assert (model.embedding_dim, model.attention, model.num_parts) == (512, "none", 0)
    assert tuple(config.data.image_size) == (256, 128)


def test_load_embeds_as_an_import_does(weights, model, tmp_path):
    assert (model.image_size, model.dim, model.step) == (SIZE, 512, 0)
    config = given_config(weights)
    config.data.image_size = SIZE
    import_weights(config, weights, tmp_path / "run")
    imported = batnet_jax.load(tmp_path / "run", batch=2)
    assert imported.fingerprint == model.fingerprint
    images = [PIXELS, PIXELS[:, ::-1]]
    features = model.embed(images)
    np.testing.assert_array_equal(features, imported.embed(images))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert np.abs(features[0] - features[1]).max() > 1e-3


def test_a_warning_says_what_a_file_does_not(weights, capsys):
    batnet_jax.load(weights)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: '{weights}', Torchreid osnet, does not say which images")
    assert "images of 256 x 128 and ImageNet's mean and deviation are assumed" in said
    assert (said.count("\n"), "no head" in said) == (1, False)


def test_a_backbone_without_a_head_gives_its_pooled_map(tmp_path, capsys, short_resnet):
    variables = draw_resnet(make_resnet())
    tensors = named(variables, RESNET) | {"fc.weight": np.zeros((7, 128), np.float32)}
    model = batnet_jax.load(
        write(tmp_path / "resnet50.safetensors", tensors), image_size=SIZE, batch=1
    )
    assert "it has no head: features are the mean of the last map" in capsys.readouterr().err
    assert (model.dim, model.config.model.backbone) == (128, "resnet50")

    def pool(variables, x):
        for number in (1, 2, 3, 4):
            block = BACKBONES["resnet50"](number, width=WIDTH)
            own = {kind: tree[f"blk{number}"] for kind, tree in variables.items()}
            x = block.apply(own, x, train=False)
        return x.mean((1, 2))

    image = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    pooled = np.asarray(jit(pool)(variables, normalise(image)))
    np.testing.assert_allclose(
        model.embed(image), pooled / np.linalg.norm(pooled), rtol=1e-4, atol=1e-6
    )


def test_a_published_batnet_is_known_whole():
    model = given_config(ROOT / "tests" / "kept" / "exported.safetensors").model
    assert (model.backbone, model.width, model.num_parts) == ("published", 1 / 32, 1)
    assert (model.attention, model.position, model.part_sampling) == ("aia", "p2", "published")
    assert (model.neck, model.embedding_dim, model.reduction) == ("none", 16, 4)


def test_what_load_refuses(weights, tmp_path):
    strange = write(tmp_path / "w.safetensors", {"a.weight": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match=r"is none of BAT-net, .*Torchreid osnet"):
        batnet_jax.load(strange)
    with pytest.raises(UserError, match=r"'none\.pth' does not exist: name a file of weights"):
        batnet_jax.load("none.pth")
    with pytest.raises(UserError, match="is a file of weights, which has no step 3"):
        batnet_jax.load(weights, step=3)
    with pytest.raises(UserError, match=r"image_size=\(100, 50\) must be"):
        batnet_jax.load(weights, image_size=(100, 50))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.model.attention=aia"], "has no values for bi_attention of the network: train"),
        (["--config.model.num_parts=2"], "has no values for part_head of"),
        (["--config.model.neck=none"], "has neck=fc, not none: leave the network to the file"),
        (["--config=market1501"], "has backbone=osnet_x1_0, width=0.0625, neck=fc"),
        (["--config.eval.step=3"], "which has no step 3"),
    ],
    ids=str,
)
def test_a_network_that_is_not_the_files_is_refused(words, message, weights, place):
    """Part streams would be copies of the backbone, which nothing has trained."""
    flags = ["--query=photo.png", "--gallery=features.npy", f"--workdir={weights}"]
    status, said = call_main("search", *flags, *words)
    assert (status, said.count("\n")) == (2, 1), said
    assert message in said


def test_search_and_embed_write_nothing_but_their_output(weights, place, model):
    status, said = call_main("embed", weights, "photo.png", "photos.npz", SMALL)
    assert status == 0, said
    assert said.startswith("warning: ")
    assert sorted(path.name for path in place.iterdir()) == [
        "features.npy", "photo.png", "photos.npz"
    ]  # fmt: skip
    with np.load("photos.npz") as found:
        np.testing.assert_allclose(found["features"], model.embed("photo.png"), atol=1e-6)
    model.check_gallery("photos.npz")


def test_commands_with_results_get_a_workdir(weights, place, monkeypatch, capsys):
    """Once, from the same file; another file of the same name is refused."""
    handed = []
    for mode in ("eval", "report", "export"):
        monkeypatch.setattr(
            load_mode(mode), "run", lambda config, workdir, **_: handed.append((config, workdir))
        )
    flags = ("--config.data.dataset=pedestrians", SMALL)
    assert call_main("eval", weights, *flags)[0] == 0
    assert "tensors loaded" in capsys.readouterr().out
    assert call_main("report", weights, *flags)[0] == 0
    assert call_main("export", weights, "o.onnx", SMALL)[0] == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"'runs/osnet_street' holds the weights of '{weights}'"] * 2
    assert [str(workdir) for _, workdir in handed] == ["runs/osnet_street"] * 3
    assert [config.data.dataset for config, _ in handed] == [
        "pedestrians", "pedestrians", "market1501"
    ]  # fmt: skip
    assert (place / "runs/osnet_street/import.txt").exists()
    other = write(place / "osnet_street.safetensors", named(draw(make_config()), OSNET))
    status, said = call_main("eval", other, *flags)
    assert (status, said.count("\n")) == (2, 1)
    assert "'runs/osnet_street', the place for the results of" in said


def test_import_needs_no_config(weights, place, capsys):
    assert call_main("import", weights, "mine", "--config.seed=3") == (0, "")
    assert "written: mine/checkpoints/0" in capsys.readouterr().out
    saved = batnet_jax.load("mine").config
    assert (saved.seed, saved.model.backbone, saved.model.neck) == (3, "osnet_x1_0", "fc")


@pytest.mark.slow
def test_a_file_is_evaluated_and_reported_and_exported(weights, place, capsys):
    data = ("--config.data.dataset=pedestrians", "--config.data.variant=tiny", SMALL)
    for words in (["eval", weights], ["report", weights], ["export", weights, "o.stablehlo"]):
        status, said = call_main(*words, *data)
        assert status == 0, said
    assert "mAP" in capsys.readouterr().out
    run = place / "runs/osnet_street"
    assert (run / "eval/step_0.json").exists()
    page = (run / "report/index.html").read_text()
    assert "BAT-net, osnet_x1_0, attention none, no parts, width 0.0625" in page
    assert "| pedestrians | test |" in (place / "o.stablehlo.md").read_text()
