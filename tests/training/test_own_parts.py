"""A run of a user's own backbone, head, kernel, loss and data set, named by import paths."""

import io
import json
import shlex
import sys

import numpy as np
import pytest
from mypkg import images
from PIL import Image
from support.run_main import call_main
from support.tiny_run import IDENTITIES, small_config
from support.variants import few

import batnet_jax
from batnet_jax.errors import UserError
from batnet_jax.runtime.own_code import VARIABLE
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.weights.sources import open_source
from batnet_jax.workdir import checkpoints

SMALL = (
    "--config=configs/demo.py",
    "--config.data.variant=",
    "--config.data.image_size=(64, 32)",
    "--config.model.width=0.0625",
    "--config.model.num_parts=1",
    "--config.model.embedding_dim=16",
    "--config.batch.identities=4",
    "--config.batch.images_per_identity=2",
    "--config.log.every_steps=1",
    "--config.steps=2",
)
OWN = {
    "data.dataset": "mypkg.images:Planes",
    "model.backbone": "mypkg.nets:Block",
    "model.neck": "mypkg.nets:CosineHead",
    "model.kernel": "mypkg.nets:signed_square",
    "loss.function": "mypkg.losses:classify",
}


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def train(folder, own, *more):
    fields = [f"--config.{name}={path}" for name, path in own.items()]
    places = [f"--config.data.dir={folder / 'data'}", f"--workdir={folder / 'run'}"]
    return call_main("train", *SMALL, *places, *fields, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the data and the run of all own parts, and photos of two people."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "photos").mkdir()
    status, said = train(folder, OWN)
    assert status == 0, said
    for photo in images.Planes.sources(None)["query"].photos[::4]:
        Image.open(io.BytesIO(images.draw(photo))).save(folder / "photos" / photo.filename)
    return folder


def test_all_parts_are_used_and_saved_by_their_paths(folder):
    run = folder / "run"
    saved = json.loads((run / "config.json").read_text())
    assert {name: saved[name.split(".")[0]][name.split(".")[1]] for name in OWN} == OWN
    figures = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in figures:
        assert line["loss"] == pytest.approx(line["loss_ce"] + line["loss_length"], rel=1e-6)
        assert line["loss_length"] == pytest.approx(2, rel=1e-3)  # two streams of unit length
        assert "loss_triplet" not in line
    result = json.loads((run / "eval" / "step_2.json").read_text())
    assert (result["dataset"], result["num_query"]) == ("mypkg.images.Planes", 8)
    assert (folder / "data" / "mypkg.images" / "planes").is_dir()


def test_the_checkpoint_imports_nothing_unasked(folder):
    for words in (
        ["embed", folder / "run", folder / "photos", folder / "no.npz"],
        ["eval", folder / "run"],
    ):
        status, said = call_main(*words)
        assert (status, said.count("\n")) == (2, 1)
        assert "names code to import, model.backbone=mypkg.nets:Block" in said
        assert "--trust=mypkg" in said
        assert f"{VARIABLE}=mypkg" in said
    with pytest.raises(UserError, match=r"names code to import.*trust='mypkg'"):
        batnet_jax.load(folder / "run")
    with pytest.raises(UserError, match="names code to import"):
        batnet_jax.load(folder / "run", trust="mypkg.losses")
    assert not (folder / "no.npz").exists()


def test_embedding_needs_the_trust_of_the_network_alone(folder, monkeypatch):
    output = folder / "F.npz"
    words = ["embed", folder / "run", folder / "photos", output]
    status, said = call_main(*words, "--trust=mypkg.nets")
    assert status == 0, said
    model = batnet_jax.load(folder / "run", trust="mypkg.nets")
    with np.load(output) as file:
        features = file["features"]
    np.testing.assert_array_equal(features, model.embed(folder / "photos"))
    assert features.shape == (2, model.dim) == (2, 32)
    monkeypatch.setenv(VARIABLE, "others, mypkg")
    assert call_main(*words)[0] == 0


def test_evaluating_needs_the_trust_of_the_data_set_too(folder):
    place = f"--config.data.dir={folder / 'data'}"
    before = (folder / "run" / "eval" / "step_2.json").read_text()
    status, said = call_main("eval", folder / "run", place, "--trust=mypkg.nets")
    assert (status, said.count("\n")) == (2, 1)
    assert "data.dataset=mypkg.images:Planes" in said
    # A setting of the user's own word needs no trust.
    given = f"--config.data.dataset={OWN['data.dataset']}"
    status, said = call_main("eval", folder / "run", place, given, "--trust", "mypkg.nets")
    assert status == 0, said
    assert (folder / "run" / "eval" / "step_2.json").read_text() == before


def test_a_model_in_python_evaluates_if_the_data_set_is_trusted(folder):
    model = batnet_jax.load(folder / "run", trust="mypkg.nets")
    with pytest.raises(UserError, match="'the model' names code to import, data"):
        model.evaluate()
    figures = model.evaluate(trust="mypkg")
    assert json.loads((folder / "run" / "eval" / "step_2.json").read_text()) == json.loads(
        json.dumps(figures)
    )


@pytest.mark.parametrize("run", few([False, True], keep=[0]), ids=["named", "run"])
def test_the_commands_at_the_end_of_a_run_trust_its_parts(folder, capsys, run):
    status, said = train(folder, OWN)  # there is nothing left to train
    assert status == 0, said
    lines = capsys.readouterr().out.splitlines()[-3:]
    for line, name in zip(lines, ("report", "embed", "search"), strict=True):
        words = shlex.split(line)
        words = words[words.index(name) :]
        assert words[-1] == "--trust=mypkg"
        if run:
            status, said = call_main(*words)
            assert status == 0, said


@pytest.mark.slow  # commands/test_in_python trains in Python in the default run
def test_training_in_python_takes_parts_of_ones_own(folder, tmp_path):
    fields = OWN | {
        "data.variant": "",
        "data.dir": str(folder / "data"),
        "data.image_size": (64, 32),
        "model.width": 0.0625,
        "model.num_parts": 1,
        "model.embedding_dim": 16,
        "batch.identities": 4,
        "batch.images_per_identity": 2,
        "log.every_steps": 1,
        "steps": 2,
    }
    trained = batnet_jax.train("demo", tmp_path / "run", fields)
    assert trained.figures == json.loads((folder / "run" / "eval" / "step_2.json").read_text())
    with pytest.raises(UserError, match="names code to import"):
        batnet_jax.load(tmp_path / "run")


def test_trust_is_for_checkpoints(folder):
    status, said = train(folder, OWN, "--trust=mypkg")
    assert (status, said) == (2, "error: --trust is for the settings of a checkpoint, not "
                                 "--mode=train\n")  # fmt: skip


@pytest.mark.parametrize(
    ("field", "path", "message"),
    [
        ("model.backbone", "mypkg.nets:Blok", "'mypkg.nets:Blok': mypkg.nets has no 'Blok' (did"),
        ("model.backbone", "mypkg.net:Block", "there is no module mypkg.net: install its package"),
        ("model.backbone", "mypkg.losses:classify", "cannot be called with (number, width=..., "),
        ("model.backbone", "mypkg/nets:Block", "is not one of published, torchvision, torchvision"),
        ("model.neck", "mypkg.nets:NUMBER", "'mypkg.nets:NUMBER' is of the type int: name a func"),
        ("model.kernel", "mypkg.losses:classify", "cannot be called with (x): missing a required"),
        ("loss.function", "mypkg.nets:signed_square", "cannot be called with (outputs, labels, m"),
        ("data.dataset", "mypkg.nets:Block", "is not a subclass of batnet_jax.data.ReIDBuilder"),
        ("data.dataset", "marekt:v1", "no module marekt: install its package, or add the folder"),
        ("data.train", "('market1501','mypkg.images:Plane',)", "did you mean Planes?"),
        ("data.dataset", "mypkg.images:Planes:v2", "'v2' is not a variant of planes: it has none"),
        ("eval.datasets", "('mypkg.images',)", "is unknown: choose pedestrians, market1501"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_made(tmp_path, field, path, message):
    status, said = train(tmp_path, {"model.backbone": "toy", field: path})
    assert (status, said.count("\n")) == (2, 1), said
    assert message in said
    assert not list(tmp_path.iterdir())


def write_bomb(folder, field):
    """Write a checkpoint whose settings name a module that leaves a file if it is imported."""
    (folder / "bomb.py").write_text(
        f"import pathlib\npathlib.Path({str(folder / 'gone off')!r}).touch()\n"
    )
    config = small_config(folder)
    recipe = make_recipe(config, num_identities=3, steps_per_epoch=1)
    state = init_state(recipe, config.data.image_size)
    config.update_from_flattened_dict({field: "bomb:Net"})
    with checkpoints.open_manager(folder / "run") as manager:
        checkpoints.save(manager, 0, state, checkpoints.metadata(config, IDENTITIES))
    return folder / "run"


@pytest.mark.parametrize("field", ["model.backbone", "model.neck", "model.kernel"])
def test_a_strangers_code_does_not_run(tmp_path, monkeypatch, field):
    run = write_bomb(tmp_path, field)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for trust in ((), "mypkg", "bom", "bomb.more"):
        with pytest.raises(UserError, match="names code to import"):
            batnet_jax.load(run, trust=trust)
    for words in (["embed", run, tmp_path, "F.npz"], ["search", run, tmp_path, tmp_path],
                  ["export", run, "F.stablehlo"], ["report", run], ["eval", run],
                  ["eval", run, "--config.eval.batch=3"], ["serve", run, tmp_path]):  # fmt: skip
        status, said = call_main(*words)
        assert (status, said.count("\n")) == (2, 1), said
        assert f"{field}=bomb:Net" in said
    with pytest.raises(UserError, match="names code to import"):
        open_source(small_config(tmp_path), run)
    assert "bomb" not in sys.modules
    assert not (tmp_path / "gone off").exists()
    # The same checkpoint, trusted: the module is imported, and has not what is named.
    with pytest.raises(UserError, match="bomb has no 'Net'"):
        batnet_jax.load(run, trust="bomb")
    assert (tmp_path / "gone off").exists()
    del sys.modules["bomb"]


def test_a_data_set_that_embedding_does_not_need_may_be_missing(tmp_path):
    run = write_bomb(tmp_path, "data.dataset")
    assert batnet_jax.load(run).embed(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 32)
    status, said = call_main("eval", run)
    assert (status, said.count("\n")) == (2, 1)
    assert "data.dataset=bomb:Net" in said
    assert "bomb" not in sys.modules
