"""A run with the recipes of today on several devices: a resumption changes no bit."""

import numpy as np
import pytest
from support.run_main import TOY, arrays, run_small

RECIPE = {
    "clip_norm": 0.5,
    "ema_decay": 0.9,
    "model.classifier": "arcface",
    "model.neck": "bnneck_gem",
    "model.dtype": "bfloat16",
    "loss.function": "circle",
    "loss.margin": 0.25,
    "loss.num_negatives": 2,
    "augment.colour_jitter": 0.2,
    "augment.grey_probability": 0.1,
}


@pytest.mark.slow
def test_a_run_with_all_of_them_on_two_devices_is_resumed_bit_by_bit(tmp_path):
    def run(name, steps, **changes):
        flags = [f"--config.{field}={value}" for field, value in (RECIPE | changes).items()]
        flags += ["--config.model.backbone=toy", f"--config.steps={steps}"]
        return run_small(tmp_path, tmp_path / name, *flags, devices=2, entry=TOY)

    assert run("whole", 6).returncode == 0
    assert run("parts", 3).returncode == 0
    for field, other in (
        ("clip_norm", 0.0), ("loss.class_margin", 0.2), ("augment.colour_jitter", 0.3)
    ):  # fmt: skip
        refused = run("parts", 6, **{field: other})
        assert refused.returncode == 2
        assert f"holds a run with config.{field}=" in refused.stderr
    assert run("parts", 6).returncode == 0
    whole, parts = (arrays(tmp_path / name, 6) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(value, parts[name], err_msg=name)
