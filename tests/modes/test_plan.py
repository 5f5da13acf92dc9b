"""`batnet plan`: what a run needs on a TPU slice, with a compiler that is not there."""

from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from support import needs
from support.paths import ROOT
from support.run_main import TOY as TOY_MAIN
from support.run_main import call_main, run_main
from support.tiny_datasets import write_tree

from batnet_jax.modes import plan
from batnet_jax.runtime import tpu_chips

TOY = ["--config.model.backbone=toy", "--config.model.width=0.0625", "--config.model.num_parts=1"]
NUMBERS = ["--training-images=1000", "--training-people=50"]


class Lowered:
    """A program of 2 GB, which takes 10 to 60 ms on a v5e: 30 ms by the estimate."""

    def compile(self):
        memory = SimpleNamespace(
            argument_size_in_bytes=10**9,
            output_size_in_bytes=10**9,
            alias_size_in_bytes=10**9,
            temp_size_in_bytes=900 * 10**6,
            generated_code_size_in_bytes=100 * 10**6,
        )
        text = "ENTRY %m (a: f32[8]) -> f32[8] {\n ROOT %x = f32[8] fusion(%a), calls=%f, "
        text += f'backend_config={{"estimated_cycles":"{int(0.03 * 197e12 / 131072)}"}}\n}}'
        return SimpleNamespace(
            memory_analysis=lambda: memory,
            cost_analysis=lambda: {"flops": 1.97e12},
            as_text=lambda: text,
        )


class TooLarge:
    def compile(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm")


@pytest.fixture
def compiler(monkeypatch):
    """Replace the compiler; return the arguments of each step that is lowered."""
    asked = []

    def lower_step(config, devices, **numbers):
        asked.append((len(devices), numbers))
        return Lowered()

    monkeypatch.setattr(plan, "describe_devices", lambda chip, count: (chip,) * count)
    monkeypatch.setattr(plan, "lower_step", lower_step)
    monkeypatch.setattr(plan, "lower_embedding", lambda *_, **__: Lowered())
    yield asked
    jax.config.update("jax_enable_compilation_cache", True)


def test_what_a_run_needs_and_costs(compiler, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["market1501", "--slice=v5litepod-4", "--price=2.5", *NUMBERS]
    assert call_main("plan", *line, "--config.num_epochs=240") == (0, "")
    said = " ".join(capsys.readouterr().out.split())
    assert "v5litepod-4: 4 x v5e, hosts: 1" in said
    assert "64 images, 16 a chip, float32; 2 GB of a chip's 17.2 GB, fits" in said
    assert "10 to 60 ms a step, estimated, not measured" in said
    # 1,000 images are 15 steps of 64; 3,600 steps of 10 to 60 ms are 0.01 to 0.06 hours of 4 chips.
    assert "3,600 steps: 0.01 to 0.06 hours" in said
    assert "0.1 to 0.6, at 2.5 a chip and hour" in said
    assert compiler == [(4, {"num_identities": 50, "steps_per_epoch": 15})]
    assert list(tmp_path.iterdir()) == []


def test_the_data_set_is_looked_at(compiler, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo = cv2.imencode(".jpg", np.zeros((12, 6, 3), np.uint8))[1].tobytes()
    write_tree(
        tmp_path,
        {f"people/p{i}/{k}.jpg": photo + bytes([i, k]) for i in range(8) for k in range(5)},
    )
    line = ["people", "--slice=v5litepod-1", "--config.batch.identities=4"]
    assert call_main("plan", *line)[0] == 0
    assert compiler[0][1]["num_identities"] == 6  # two of the eight are the test
    assert "cost" not in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["people"]


def test_a_run_that_does_not_fit_is_a_failure(compiler, monkeypatch):
    monkeypatch.setattr(plan, "lower_step", lambda *_, **__: TooLarge())
    status, said = call_main("plan", "market1501", "--slice=v5litepod-1", *NUMBERS)
    assert status == 1
    assert "a training step does not fit: it needs 21.5 GB of a chip that has 16.9 GB" in said


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--slice=v9-8"], "the slice 'v9-8' is not known"),
        (["--slice=v4-256"], "64 images do not divide among the 128 chips of --slice=v4-256"),
        (["--slice=v4-8", "--price=cheap"], "--price=cheap: give a number"),
        (["--slice=v4-8", "--price=-1"], "--price=-1: give a number"),
        (["--slice=v4-8", "--training-people=3"], "give both --training_images and"),
        ([], "--slice"),
    ],
)
def test_mistakes(line, message, compiler):
    numbers = [] if "--training-people=3" in line else NUMBERS
    status, said = call_main("plan", "market1501", *line, *numbers)
    assert status == 2
    assert message in said.splitlines()[-1]


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(tpu_chips, "has_compiler", lambda: False)
    status, said = call_main("plan", "market1501", "--slice=v4-8", *NUMBERS)
    assert (status, "pip install" in said) == (2, True)


@pytest.mark.slow
def test_a_toy_is_compiled_for_chips_that_are_not_there():
    needs.installed("libtpu")
    line = ["--mode=plan", "--slice=v5litepod-4", "--price=1", *TOY]
    line += [f"--config={ROOT / 'configs/demo.py'}", "--training_images=90", "--training_people=9"]
    done = run_main(*line, entry=TOY_MAIN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("fits") == 2
    assert "4 x v5e" in done.stdout
