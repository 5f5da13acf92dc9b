"""Checkpoints with missing or changed files are reported, and the one before is used."""

import shutil

import numpy as np
import pytest
from support.stub_training import STEPS, Runs, arrays, steps_saved
from support.stub_training import prepared as prepared
from support.stub_training import runs as runs

from batnet_jax.errors import UserError
from batnet_jax.workdir import checkpoints

# TensorStore reports the failure to event loops that Orbax has already closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return Runs(tmp_path_factory.mktemp("whole"), prepared, patch).train()


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty_folder(path):
    shutil.rmtree(path)
    path.mkdir()


DAMAGE = {  # kind of damage: files of a checkpoint, and the change of each file
    "metadata cut off": ("run/metadata", halve),
    "metadata empty": ("run/metadata", empty),
    "no metadata": ("run", remove),
    "metadata not JSON": ("run/metadata", flip),
    "no arrays": ("state", remove),
    "arrays cut off": ("state/d/*", halve),
    "arrays emptied": ("state/d/*", empty),
    "arrays removed": ("state/d/*", remove),
    "arrays changed": ("state/d/*", flip),
    "parts changed": ("state/ocdbt.process_0/d/*", flip),
    "manifest cut off": ("state/manifest.ocdbt", halve),
    "no manifest": ("state/manifest.ocdbt", remove),
    "structure cut off": ("state/_METADATA", halve),
    "no structure": ("state/_METADATA", remove),
    "notes cut off": ("_CHECKPOINT_METADATA", halve),
    "no notes": ("_CHECKPOINT_METADATA", remove),
    "empty folder": ("", empty_folder),
    "everything changed": ("**/*", flip),
    "everything cut off": ("**/*", halve),
}


QUICK = (
    "metadata cut off",
    "arrays changed",
    "no manifest",
    "no notes",
)


@pytest.mark.parametrize(
    "damage", [*QUICK, *(pytest.param(d, marks=pytest.mark.slow) for d in DAMAGE if d not in QUICK)]
)
def test_damage_is_survived(whole, runs, damage, capfd):
    """Damage is reported and the checkpoint before is used, or the damage has no effect."""
    shutil.copytree(whole, runs.folder / "run")
    pattern, act = DAMAGE[damage]
    folder = runs.folder / "run" / "checkpoints" / str(STEPS)
    paths = list(folder.glob(pattern)) if pattern else [folder]
    assert paths
    for path in paths:
        if pattern != "**/*" or path.is_file():
            act(path)
    workdir = runs.train()
    err = capfd.readouterr().err
    if (workdir / "damaged").exists():
        assert f"warning: checkpoint {STEPS} in '{workdir}' is damaged" in err
        assert f"it is now '{workdir / 'damaged' / str(STEPS)}', the one before is used" in err
    assert "Traceback" not in err
    assert steps_saved(workdir) == list(range(1, STEPS + 1))
    for name, value in arrays(whole).items():
        np.testing.assert_array_equal(arrays(workdir)[name], value, err_msg=name)
    harmless = damage in ("no notes", "notes cut off", "no structure")
    assert (workdir / "damaged").exists() or harmless


def test_several_damaged_ones(whole, runs):
    shutil.copytree(whole, runs.folder / "run")
    for step in (STEPS, STEPS - 1, STEPS - 2):
        halve(runs.folder / "run" / "checkpoints" / str(step) / "run" / "metadata")
    workdir = runs.train()
    assert {p.name for p in (workdir / "damaged").iterdir()} == {"6", "7", "8"}
    for name, value in arrays(whole).items():
        np.testing.assert_array_equal(arrays(workdir)[name], value, err_msg=name)


def test_the_only_one_is_damaged(runs):
    workdir = runs.train(**{"checkpoint.keep": 1})
    halve(workdir / "checkpoints" / str(STEPS) / "run" / "metadata")
    with pytest.raises(UserError, match=f"checkpoint {STEPS} in '.*' is damaged") as error:
        runs.train(**{"checkpoint.keep": 1})
    assert "\n" not in str(error.value)
    assert steps_saved(workdir) == [STEPS]  # nothing is removed


def test_the_remains_of_a_killed_save_are_removed(whole, runs):
    shutil.copytree(whole, runs.folder / "run")
    folder = runs.folder / "run" / "checkpoints"
    (folder / str(STEPS)).rename(folder / f"{STEPS}.orbax-checkpoint-tmp")
    workdir = runs.train()
    assert {p.name for p in folder.iterdir()} == {str(step) for step in range(1, STEPS + 1)}
    assert checkpoints.restore_metadata(workdir, STEPS)["config"]["seed"] == 0
