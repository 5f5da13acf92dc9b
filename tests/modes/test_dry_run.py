"""`--dry_run`: what a training run would do, in words, and nothing written."""

import jax
import numpy as np
import pytest
from support.run_main import call_main
from support.tiny_datasets import write_tree
from support.tiny_run import small_config, write_run

from batnet_jax.data.run_data import open_run_data
from batnet_jax.modes.dry_run import describe_run, format_bytes
from batnet_jax.step.memory import estimate_memory
from batnet_jax.step.train_step import init_state, make_recipe

TOY = ["--config.model.backbone=toy", "--config.model.width=0.0625", "--config.model.num_parts=1"]


def jpeg(shade):
    import cv2

    return cv2.imencode(".jpg", np.full((12, 6, 3), shade, np.uint8))[1].tobytes()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the images of eight people, five of each."""
    files = {f"people/p{i}/{k}.jpg": jpeg(20 * i + k) for i in range(8) for k in range(5)}
    write_tree(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_below(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_images_that_are_not_prepared(place, capsys):
    before = files_below(place)
    assert call_main("train", "people", "--dry-run", *TOY)[0] == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing was written" in said
    assert "train on 30 images of 6 people, cameras unknown" in said
    assert "test on folder: 4 queries of 2 people, gallery 6" in said
    assert "resized to 128 x 64 pixels; all of training 737 kB, kept in memory" in said
    assert "batch 6 people x 4 images = 24, on 1 x " in said
    assert "workdir 'runs/people'" in said
    assert "1,000: 1,000 epochs of 1 steps" in said
    assert files_below(place) == before
    assert not (place / "data").exists()


def test_a_mistake_in_the_images_is_found(place):
    (place / "people" / "p1" / "0.jpg").write_bytes(b"\xff\xd8 no image")
    status, said = call_main("train", "people", "--dry-run", *TOY)
    assert status == 2
    assert "p1/0.jpg" in said.splitlines()[-1]


def test_other_modes_have_no_dry_run(place):
    write_run(place / "run")
    status, said = call_main("eval", "run", "--dry-run")
    assert (status, "--dry_run is for --mode=train, not --mode=eval" in said) == (2, True)


def test_a_run_that_goes_on(tmp_path):
    config = small_config(tmp_path)
    config.steps = 12
    config.batch.identities, config.batch.images_per_identity = 4, 2
    data = open_run_data(config)
    workdir = write_run(tmp_path / "run")
    before = files_below(tmp_path)
    lines = describe_run(config, data, workdir).splitlines()
    assert "12: " in lines[7]
    assert lines[7].endswith("; 7 are done")
    assert files_below(tmp_path) == before
    state = init_state(
        make_recipe(config, num_identities=len(data.train.identities), steps_per_epoch=1),
        config.data.image_size,
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert f"{parameters:,} parameters" in lines[5]


def test_the_memory_follows_from_the_arrays(tmp_path):
    config = small_config(tmp_path)
    recipe = make_recipe(config, num_identities=3, steps_per_epoch=1, axis_name=None)
    small, large = (estimate_memory(recipe, (64, 32), images) for images in (4, 8))
    state = init_state(recipe, (64, 32))
    arrays = jax.tree.leaves((state.params, state.batch_stats, state.opt_state))
    assert small.state == large.state == sum(leaf.nbytes for leaf in arrays)
    assert small.parameters == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # The first layer alone keeps its input, 64 x 32 x 3 numbers of 4 bytes an image.
    assert large.activations - small.activations > 4 * 64 * 32 * 3 * 4
    config.batch.accumulate = 2
    halved = make_recipe(config, num_identities=3, steps_per_epoch=1, axis_name=None)
    assert estimate_memory(halved, (64, 32), 8).activations == small.activations


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (2.44e6, "2.44 MB"), (999.6e6, "1 GB"),
     (5.5e12, "5,500 GB")],
)  # fmt: skip
def test_bytes_have_a_unit(size, text):
    assert format_bytes(size) == text
