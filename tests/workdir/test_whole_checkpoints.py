"""A checkpoint that is whole stays where it is, whatever has changed around it."""

import errno
import re
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from support.paths import ROOT
from support.stub_training import STEPS, Runs, fake_state, steps_saved
from support.stub_training import prepared as prepared
from support.stub_training import runs as runs

from batnet_jax import data
from batnet_jax.data.run_data import TRAIN_BY_LABEL, open_run_data
from batnet_jax.errors import UserError
from batnet_jax.runtime import read_files
from batnet_jax.training import loop as training
from batnet_jax.training import start
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.run_folder import check_workdir

# TensorStore reports the failure to event loops that Orbax has already closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """Return the workdir of a whole run."""
    with pytest.MonkeyPatch.context() as patch:
        return Runs(tmp_path_factory.mktemp("whole"), prepared, patch).train()


@pytest.fixture
def workdir(whole, runs):
    """Return a copy of the workdir that `runs.train()` resumes."""
    return shutil.copytree(whole, runs.folder / "run")


def files_in(workdir):
    """Return the content of every file but the lock, which each start writes."""
    paths = (path for path in workdir.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(workdir): path.read_bytes() for path in paths}


def refuse(message, runs, workdir):
    """Check that training is refused in one line, and changes nothing in the workdir."""
    before = files_in(workdir)
    with pytest.raises(UserError, match=message) as error:
        runs.train()
    assert "\n" not in str(error.value)
    assert files_in(workdir) == before
    return str(error.value)


def change_people(monkeypatch, change):
    """Let `change` rename the run's identities: a list of [data set, pid, name]."""
    plain = checkpoints.metadata

    def metadata(config, identities, data=None):
        people, images = change([list(who) for who in identities]), dict(data or {})
        other = dict.fromkeys(("train", TRAIN_BY_LABEL), "other images")
        return plain(config, people, images | other)

    monkeypatch.setattr(training.checkpoints, "metadata", metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: [*w, ["pedestrians", 99, "zoe"]], r"the 13 of .* \(1 new: zoe; none gone\)"),
        (lambda w: w[1:], r"12 identities .* the 11 of .* \(none new; 1 gone: \d+\)"),
        (lambda w: [["folder", pid, "x"] for _, pid, _ in w], r"\(1 new: x; 12 gone: .*, \.\.\.\)"),
        (lambda w: w, r"on other images \(fingerprint \w+, now other images\)"),
    ],
)
def test_other_people_are_refused_before_an_array_is_read(runs, workdir, change, message):
    def read(*_):
        raise AssertionError("an array was read")

    change_people(runs.monkeypatch, change)
    runs.monkeypatch.setattr(checkpoints, "restore_state", read)
    told = refuse(message, runs, workdir)
    assert f"--config.init.from={workdir} and another --workdir" in told


def test_another_architecture_is_refused_before_an_array_is_read(runs, workdir):
    saved = checkpoints.restore_metadata(workdir, STEPS)
    saved["model"]["reduction"] = 3
    runs.monkeypatch.setattr(checkpoints, "restore_metadata", lambda *_: saved)
    runs.monkeypatch.setattr(checkpoints, "restore_state", lambda *_: pytest.fail("was read"))
    refuse("holds a network with model.reduction=3", runs, workdir)


STATES = {
    "shape": lambda s: s.replace(params={"w": np.zeros((30, 41), np.float32)}),
    "more": lambda s: s.replace(params=s.params | {"v": np.zeros(3, np.float32)}),
    "fewer": lambda s: s.replace(opt_state={}),
    "names": lambda s: s.replace(params={"v": s.params["w"]}),
}


@pytest.mark.parametrize("change", STATES)
def test_arrays_of_another_version_are_no_damage(runs, workdir, change):
    """The metadata agrees; the network or the optimizer has other arrays."""
    runs.monkeypatch.setattr(start, "init_state", lambda *_: STATES[change](fake_state(*_)))
    told = refuse(f"checkpoint {STEPS} in '.*' is whole, but another version's", runs, workdir)
    assert "damaged" not in told


def test_damaged_arrays_of_another_version_are_damage(runs, workdir):
    like = STATES["more"](fake_state(None, None))
    for path in (workdir / "checkpoints" / str(STEPS) / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    with pytest.raises(checkpoints.DamagedError):
        checkpoints.restore_state(workdir, STEPS, like)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        ValueError('PERMISSION_DENIED: Error opening "zarr" driver'),
        ValueError('UNAVAILABLE: Error reading "gs://bucket"'),
    ],
)
def test_a_checkpoint_out_of_reach_is_no_damage(runs, workdir, error):
    def restore(*_, **__):
        raise error

    runs.monkeypatch.setattr(ocp.Checkpointer, "restore", restore)
    refuse(f"checkpoint {STEPS} in '.*' cannot be read .*; it stays where it is", runs, workdir)


def test_settings_out_of_reach_are_not_called_damaged(runs, workdir):
    """Nobody is told to delete a file that is whole."""

    def forbid(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    runs.monkeypatch.setattr(read_files, "open_regular", forbid)
    with pytest.raises(UserError, match=r"config.json' cannot be read \(Permission denied\)"):
        check_workdir(runs.config(), workdir)
    runs.monkeypatch.undo()
    runs.monkeypatch.setattr(data.prepared, "_open_split", forbid)
    with pytest.raises(UserError, match=r"cannot be read \(.*: let this user read it") as error:
        open_run_data(runs.config())
    assert "delete" not in str(error.value)


def test_a_damaged_checkpoint_stays_if_the_one_before_is_refused(runs, workdir):
    (workdir / "checkpoints" / str(STEPS) / "run" / "metadata").write_bytes(b"{")
    change_people(runs.monkeypatch, lambda who: who[1:])
    refuse("12 identities that are not the 11", runs, workdir)


def test_nothing_is_moved_if_every_checkpoint_is_damaged(runs, workdir):
    for step in steps_saved(workdir):
        (workdir / "checkpoints" / str(step) / "run" / "metadata").write_bytes(b"{")
    refuse(f"checkpoint {STEPS} in '.*' is damaged", runs, workdir)


def test_the_data_put_back_resumes_the_run(runs, workdir, capfd):
    before = steps_saved(workdir)
    change_people(runs.monkeypatch, lambda who: who[1:])
    refuse("the 11 of the training data now", runs, workdir)
    runs.monkeypatch.undo()
    Runs(runs.folder, runs.data, runs.monkeypatch).train()
    assert f"resuming '{workdir}' after step {STEPS}" in capfd.readouterr().out
    assert steps_saved(workdir) == before


def test_orbax_is_named_in_one_module():
    """A new Orbax changes one file."""
    package = ROOT / "batnet_jax"
    naming = re.compile(r"^ *(from|import) orbax", re.MULTILINE)
    files = [path for path in package.rglob("*.py") if naming.search(path.read_text())]
    assert [str(path.relative_to(package)) for path in files] == ["runtime/orbax_calls.py"]
