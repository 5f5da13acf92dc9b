"""Modes that take their settings from the workdir's last checkpoint."""

import pytest
from support.run_main import call_main
from support.tiny_run import write_run

from batnet_jax.commands.run import load_mode
from batnet_jax.commands.table import MODES

OF_A_RUN = [name for name, command in MODES.items() if command.settings == "saved"]

FLAGS = {
    "export": ["--output=F.onnx"],
    "embed": ["--images=x", "--output=F.npz"],
    "search": ["--gallery=x.npz"],
    "serve": ["--gallery=x.npz"],
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("mode", OF_A_RUN)
def test_the_workdirs_config_is_used(workdir, monkeypatch, mode):
    """As `--mode=...`, as the first word, and with changed fields."""
    handed = []
    monkeypatch.setattr(
        load_mode(mode), "run", lambda config, place, **_: handed.append((config, place))
    )
    flags = [f"--workdir={workdir}", *FLAGS.get(mode, [])]
    assert call_main(f"--mode={mode}", *flags) == (0, "")
    assert call_main(mode, *flags, "--config.eval.step=3", "--config.eval.batch=2") == (0, "")
    assert [folder for _, folder in handed] == [workdir] * 2
    for config, _ in handed:
        assert (config.data.variant, tuple(config.data.image_size)) == ("tiny", (64, 32))
        assert (config.model.width, config.seed) == (0.0625, 7)
    assert [(c.eval.step, c.eval.batch) for c, _ in handed] == [(0, 6), (3, 2)]


@pytest.mark.parametrize("mode", ["eval", "report", "export"])
def test_mistakes(workdir, tmp_path, mode):
    flags = FLAGS.get(mode, [])
    for words, message in (
        ([], "no --config given: try --config=configs/demo.py or --workdir=DIR of a run"),
        ([f"--workdir={tmp_path / 'none'}"], "holds no checkpoint"),
        ([f"--workdir={tmp_path / 'none'}", "--config.eval.step=3"], "holds no checkpoint"),
        ([f"--workdir={workdir}", "--config.eval.stop=3"], "'stop'"),
        ([f"--workdir={workdir}", "--config.eval.ap=voc"], "config.eval.ap"),
    ):
        status, said = call_main(f"--mode={mode}", *flags, *words)
        assert (status, said.count("\n")) == (2, 1), said
        assert message in said


def test_training_still_needs_a_config(workdir):
    assert call_main(f"--workdir={workdir}")[0] == 2
    assert call_main(f"--workdir={workdir}", "--config.steps=3")[0] == 2
