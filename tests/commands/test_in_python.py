"""`batnet_jax.train`: the same runs as the command's, as objects."""

import json

import numpy as np
import pytest
from PIL import Image
from support.run_main import call_main

import batnet_jax
from batnet_jax.commands import in_python
from batnet_jax.errors import UserError

SMALL = {
    "data.image_size": (64, 32),
    "model.backbone": "toy",
    "model.width": 0.0625,
    "model.num_parts": 1,
    "model.embedding_dim": 16,
    "batch.identities": 4,
    "batch.images_per_identity": 2,
    "eval.batch": 16,
    "log.every_steps": 1,
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder of eight people, of four images each."""
    folder = tmp_path_factory.mktemp("some people")
    rng = np.random.default_rng(0)
    for person in range(8):
        for number in range(4):
            path = folder / f"person {person}" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(path)
    return folder


def settings(folder):
    return SMALL | {"data.dir": str(folder / "data"), "num_epochs": 1}


def test_images_give_the_run_of_the_command(people, tmp_path, capsys):
    fields = settings(tmp_path)
    figures, model = batnet_jax.train(people, tmp_path / "python", fields)
    assert "next:" not in capsys.readouterr().out
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    status, said = call_main("train", people, f"--workdir={tmp_path / 'command'}", *flags)
    assert status == 0, said
    runs = [tmp_path / name for name in ("python", "command")]
    configs = [(run / "config.json").read_text() for run in runs]
    assert configs[0] == configs[1]
    (path,) = (runs[1] / "eval").glob("step_*.json")
    assert json.loads(json.dumps(figures)) == json.loads(path.read_text())
    assert model.step == figures["step"] == int(path.stem.removeprefix("step_"))
    loaded = batnet_jax.load(runs[1])
    assert loaded.fingerprint == model.fingerprint
    # A finished run trains no further.
    again = batnet_jax.train(people, tmp_path / "python", fields)
    assert (again.figures, again.model.fingerprint) == (figures, model.fingerprint)


def test_settings_that_the_caller_changed_are_not_chosen(monkeypatch, people, tmp_path):
    seen = []

    def prepare(config, workdir, given):
        seen.append((config, workdir, given))
        raise KeyboardInterrupt

    monkeypatch.setattr(in_python, "prepare", prepare)
    monkeypatch.chdir(tmp_path)
    config = batnet_jax.load_config("folder")
    config.num_epochs, config.data.manual_dir = 3, str(people)
    for call in (
        lambda: batnet_jax.train(config, "here", {"seed": 0}),
        lambda: batnet_jax.train("demo"),
        lambda: batnet_jax.train(people),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()
    (_, _, mine), (demo, place, _), (_, own_place, chosen) = seen
    assert {"num_epochs", "seed"} <= mine
    assert not {"learning_rate", "batch.identities"} & mine
    assert (demo.data.dataset, str(place)) == ("pedestrians", "runs/demo")
    assert str(own_place) == f"runs/{people.name}"
    assert "num_epochs" not in chosen
    assert config.seed == batnet_jax.load_config("folder").seed  # the caller's stays as it is


def test_mistakes_are_named(people, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = batnet_jax.load_config("demo")
    cases = {
        "there is no config 'dmeo'": lambda: batnet_jax.load_config("dmeo"),
        "'nobody' does not exist": lambda: batnet_jax.train("nobody"),
        "settings without a name need a workdir": lambda: batnet_jax.train(config),
        "there is no setting 'model.widht'": lambda: batnet_jax.train(
            people, fields={"model.widht": 1}
        ),
        "config.model.width=-1": lambda: batnet_jax.train(people, fields={"model.width": -1.0}),
        "fields: steps='9' is of another type: give a value such as 0": lambda: batnet_jax.train(
            people, fields={"steps": "9"}
        ),
    }
    for message, call in cases.items():
        with pytest.raises(UserError, match=message):
            call()
    assert not list(tmp_path.iterdir())


def test_the_package_lists_its_names():
    for name in batnet_jax.__all__:
        assert getattr(batnet_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        batnet_jax.trian  # noqa: B018
