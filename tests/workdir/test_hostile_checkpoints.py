"""Hostile settings and checkpoints: overrides on the command line, saved settings, files."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
import tensorstore as ts
from absl import flags
from hypothesis import strategies as st
from ml_collections import ConfigDict
from support.fuzzing import damaged, examples, fuzz, refused, survives
from support.fuzzing import limits as limits
from support.run_main import parse_again
from support.stub_training import fake_state, tiny_config

from batnet_jax.commands import run
from batnet_jax.commands.command_line import parse
from batnet_jax.config import default_config, flatten
from batnet_jax.export.model_card import ExportedModel, model_card
from batnet_jax.inference.loading import load
from batnet_jax.models.build import make_model
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.modes.export import with_settings
from batnet_jax.validation import from_saved, validate
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.best_checkpoint import read
from batnet_jax.workdir.checkpoint_checks import is_metadata
from batnet_jax.workdir.checksums import METADATA, metadata_checksum
from batnet_jax.workdir.run_folder import check_workdir

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # config_flags'
]
FIELDS = sorted(flatten(json.loads(default_config().to_json())))
STRANGE = ["", "None", "True", "nan", "-inf", "1e400", "9" * 400, "9" * 5000, "-1", "0", "2**99"]
STRANGE += ["(1,'a')", "()", "((((1,),),),)", "{'a': 1}", "[1, 2]", "(1e9, 16)", "-" * 50_000 + "1"]
STRANGE += ["(" * 5000, "__import__('os').system('touch hacked')", "\udcff", "p2\n", "0x7fffffff"]
STRANGE += ["lambda: 0", "b'x'", "1j", "{" * 300, "'a','b'", "../../x", "\x1b[2J", "1_0", "%s{0}"]
PLACES = ["__class__", "model.__dict__", "model.get", "items", "lock", "data", "seed.real", "", "."]
PLACES += ["data..dir", "data.dir[0]", "decay_epochs[0]", "decay_epochs[9]", "model.__init__"]
PLACES += ["['seed']", "a" * 5000, "data.dir.x", "seed[", "model['width']", "_fields", "\n"]


def settings(*arguments):
    """Return the config and the workdir that the command line gives from a command line."""
    parse_again("--config=configs/demo.py", *arguments)
    parse(sys.argv)
    return run.settings()


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [])
    yield
    monkeypatch.undo()
    flags.FLAGS.unparse_flags()


@pytest.mark.usefixtures("command_line")
@examples(150, 5_000)
def test_overrides_of_any_kind(examples):
    def check(field, value):
        found = survives(settings, f"--config.{field}={value}")
        if not isinstance(found, str):
            json.loads(found[0].to_json(), parse_constant=pytest.fail)  # no nan, no inf

    value = st.sampled_from(STRANGE) | st.integers().map(str) | st.floats().map(str) | st.text()
    fuzz(examples, check, st.sampled_from([*FIELDS, *PLACES]), value)


@pytest.mark.usefixtures("command_line")
@pytest.mark.parametrize("value", STRANGE)
def test_strange_values_of_every_field(value):
    for field in FIELDS:
        survives(settings, f"--config.{field}={value}")


@pytest.mark.usefixtures("command_line")
def test_numbers_that_would_take_all_memory():
    assert settings("--config.seed=5")[0].seed == 5
    for field, value in (("model.width", 10**9), ("model.num_parts", 10**6), ("eval.batch", 10**9)):
        refused(f"config.{field}={value}", settings, f"--config.{field}={value}")
    refused("config.data.a is unknown, or missing: give", settings, "--config.data={'a': 1}")
    refused("multiples of 16, up to 4096", settings, "--config.data.image_size=(160000, 160000)")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


@examples(60, 2_000)
def test_saved_settings_of_any_kind(examples):
    whole = json.loads(default_config().to_json())

    def check(field, value):
        saved = json.loads(json.dumps(whole))
        *sections, name = field.split(".")
        place = saved
        for section in sections:
            place = place[section]
        place[name] = value
        found = survives(from_saved, saved)
        if isinstance(found, ConfigDict):
            survives(validate, found)
        survives(from_saved, value)

    fuzz(examples, check, st.sampled_from([*FIELDS, "data", "model"]), JSON)


def test_a_network_that_would_take_all_memory():
    config = default_config()
    config.model.update({"width": 16.0, "num_parts": 1, "attention": "none"})
    refused(
        "parameters, more than 300,000,000: lower model.width, model.num_parts,",
        draw_variables,
        make_model(config, 9),
        (128, 64),
        0,
    )
    config.model.num_parts = 10**9
    refused(
        "model.num_parts=1000000000 must be 0 to 64",
        draw_variables,
        make_model(config, 9),
        (128, 64),
        0,
    )


# Checkpoints.


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a workdir with a checkpoint of three small arrays, its state and its metadata."""
    workdir = tmp_path_factory.mktemp("saved") / "run"
    config, state = tiny_config(workdir), fake_state(None, None)
    with checkpoints.open_manager(workdir) as manager:
        metadata = checkpoints.metadata(config, [["pedestrians", 3, ""], ["pedestrians", 5, ""]])
        checkpoints.save(manager, 1, state, metadata)
    return workdir, state, checkpoints.restore_metadata(workdir, 1)


def files_of(workdir):
    return sorted(p for p in (workdir / "checkpoints" / "1").rglob("*") if p.is_file())


def read_all(workdir, state):
    return checkpoints.restore_metadata(workdir, 1), checkpoints.restore_state(workdir, 1, state)


def assert_same(found, saved):
    """Check that metadata and state are those that were saved, to the last bit."""
    metadata, state = found
    assert metadata == saved[2]
    jax.tree.map(np.testing.assert_array_equal, vars(state), vars(saved[1]))


@examples(40, 1_000)
def test_damaged_checkpoints(saved, tmp_path, examples):
    whole = {p.relative_to(saved[0]): p.read_bytes() for p in files_of(saved[0])}

    def check(data):
        workdir = tmp_path / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(saved[0], workdir)
        name = data.draw(st.sampled_from(sorted(whole)))
        match data.draw(st.sampled_from(["damage", "damage", "damage", "remove", "link", "swap"])):
            case "damage":
                (workdir / name).write_bytes(data.draw(damaged([whole[name]])))
            case "remove":
                (workdir / name).unlink()
            case "link":
                (workdir / name).unlink()
                (workdir / name).symlink_to(data.draw(st.sampled_from(["/etc/passwd", name.name])))
            case "swap":
                (workdir / name).write_bytes(whole[data.draw(st.sampled_from(sorted(whole)))])
        found = survives(read_all, workdir, saved[1], folder=tmp_path)
        if not isinstance(found, str):
            assert_same(found, saved)

    fuzz(examples, check, st.data())


def rewrite(workdir, **changes):
    """Change the metadata of a checkpoint and its checksum."""
    (path,) = [p for p in files_of(workdir) if p.parent.name == "run" and p.name == "metadata"]
    run = json.loads(path.read_text()) | changes
    if isinstance(run.get("checksums"), dict):
        run["checksums"][METADATA] = metadata_checksum(run)
    path.write_text(json.dumps(run))
    return path


@examples(40, 1_000)
def test_metadata_of_any_kind(saved, tmp_path, monkeypatch, examples):
    """The checksum is right, as an attacker can compute it; the network is a stub."""
    monkeypatch.setattr("batnet_jax.inference.restore.state_shapes", fake_state)
    monkeypatch.setattr("batnet_jax.inference.model.make_embed", lambda *_, **_options: None)
    shutil.copytree(saved[0], tmp_path / "run")

    def check(name, value):
        path = rewrite(tmp_path / "run", **{name: value})
        survives(load, tmp_path / "run", folder=tmp_path)
        shutil.copy(saved[0] / path.relative_to(tmp_path / "run"), path)

    huge = st.sampled_from([{"width": 1e9}, {"num_parts": 10**9}, {"embedding_dim": 2**16}])
    fuzz(
        examples,
        check,
        st.sampled_from(["identities", "model", "config", "data", "checksums"]),
        JSON | huge | huge.map(lambda model: {"model": model}),
    )


@examples(24, 1_000)
def test_metadata_on_a_model_card(saved, examples):
    def card(run):
        exported = ExportedModel(1, with_settings(run), [], 5, (64, 32), "ab", 9, {"f": 16})
        return model_card("m.onnx", exported).encode(errors="backslashreplace")

    run = saved[2]
    assert b"- pedestrians: 2 identities." in card(run)

    def check(field, value):
        changed = json.loads(json.dumps(run))
        *sections, name = field.split(".")
        place = changed
        for section in sections:
            place = place[section]
        place[name] = value
        if is_metadata(changed):
            survives(card, changed)

    who = st.tuples(st.text(), st.integers() | st.text(), st.text()).map(list)
    people = st.lists(who, max_size=3)
    fields = st.sampled_from([f"config.{name}" for name in FIELDS] + ["config", "data"])
    fuzz(examples, check, fields, JSON)
    fuzz(examples // 4, check, st.just("identities"), JSON | people)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "1" * 10_000, "[1e999]"])
def test_hostile_json(saved, tmp_path, text):
    shutil.copytree(saved[0], tmp_path / "run")
    path = rewrite(tmp_path / "run")
    path.write_text(text)
    refused("checkpoint 1 in", load, tmp_path / "run", folder=tmp_path)
    (tmp_path / "run" / "validation.json").write_text(text)
    assert read(tmp_path / "run") == {}
    (tmp_path / "run" / "config.json").write_text(text)
    refused("config.json' is damaged", check_workdir, tiny_config(tmp_path), tmp_path / "run")


def test_an_array_of_declared_terabytes(saved, tmp_path):
    """The array takes 300 bytes on the disk, as no value of it was written."""
    shutil.copytree(saved[0], tmp_path / "run")
    state = tmp_path / "run" / "checkpoints" / "1" / "state"
    spec = {"driver": "zarr", "kvstore": f"file://{state}/|ocdbt:params.w/"}
    metadata = {"shape": [10**6, 10**6], "chunks": [10**3, 10**3], "dtype": "<f4"}
    ts.open(spec | {"metadata": metadata}, create=True, delete_existing=True).result()
    refused("its arrays take", checkpoints.restore_state, tmp_path / "run", 1, saved[1])
