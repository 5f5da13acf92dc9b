"""A run with frozen blocks on several devices: every bit stays, also over a resumption."""

import numpy as np
import pytest
from support.run_main import arrays, run_small

FROZEN = ("blk1", "blk2")
FREEZE = ("--config.train.freeze=blk1,blk2", "--config.train.backbone_rate=0.5")
THREE = ("--config.batch.identities=3", "--config.loss.num_negatives=2")
"""Batches that three devices share; a mean over three devices rounds, even of equal values."""


@pytest.mark.slow
def test_frozen_blocks_keep_every_bit_under_pmap_and_when_resumed(tmp_path):
    def run(name, *flags, devices=3):
        process = run_small(tmp_path, tmp_path / name, *THREE, *flags, devices=devices)
        return process.returncode, process.stderr

    assert run("first", "--config.steps=2")[0] == 0
    start = (*FREEZE, f"--config.init.from={tmp_path / 'first'}", "--config.seed=5")
    assert run("whole", *start, "--config.steps=4")[0] == 0
    assert run("parts", *start, "--config.steps=2")[0] == 0
    status, text = run("parts", *start[1:], "--config.steps=4")
    assert status == 2
    assert "holds a run with config.train.freeze='blk1,blk2', not ''" in text
    status, text = run("parts", start[0], *start[2:], "--config.steps=4")
    assert status == 2
    assert "config.train.backbone_rate=0.5, not 1.0" in text
    assert run("parts", *start, "--config.steps=4")[0] == 0

    first, whole, parts = (
        arrays(tmp_path / name, step) for name, step in (("first", 2), ("whole", 4), ("parts", 4))
    )
    still = moved = 0
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name], err_msg=name)
        if name.startswith(("['params']", "['batch_stats']")):
            same = value.tobytes() == first[name].tobytes()
            if any(f"['{block}']" in name for block in FROZEN):
                assert same, name
                still += 1
            elif "stream" not in name:
                moved += not same
    assert still > 20
    assert moved > 20
