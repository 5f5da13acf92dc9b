"""Step, run and data of a checkpoint belong together: what is mixed or renamed is noticed."""

import json
import re
import shutil

import pytest
from support.stub_training import Runs, fake_state, steps_saved
from support.stub_training import prepared as prepared
from support.stub_training import runs as runs

from batnet_jax.errors import UserError
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.checkpoints import DamagedError, restore_metadata, restore_state, steps_of
from batnet_jax.workdir.checksums import METADATA, SEAL, metadata_checksum

LIKE = fake_state(None, None)


@pytest.fixture(scope="module")
def saved(prepared, tmp_path_factory):
    """Return a workdir with checkpoints 1 to 3, and one of another run."""
    with pytest.MonkeyPatch.context() as patch:
        runs = Runs(tmp_path_factory.mktemp("sealed"), prepared, patch)
        return runs.train("run", steps=3), runs.train("other", steps=3, seed=1)


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "run")


def folder(workdir, step):
    return workdir / "checkpoints" / str(step)


def change_metadata(workdir, step, *remove, own_checksum=False, **changes):
    """Change the metadata of a checkpoint."""
    path = folder(workdir, step) / "run" / "metadata"
    run = json.loads(path.read_text()) | changes
    for name in remove:
        del run[name]
    if own_checksum:
        run["checksums"][METADATA] = metadata_checksum(run)
    path.write_text(json.dumps(run))


def make_older(workdir, step, *, with_sums):
    """Write a checkpoint's metadata as older versions did."""
    if with_sums:
        change_metadata(workdir, step, SEAL, own_checksum=True)
    else:
        change_metadata(workdir, step, SEAL, "checksums")


def take_state(workdir, step, source):
    """Put the state of another checkpoint into this one."""
    shutil.rmtree(folder(workdir, step) / "state")
    shutil.copytree(source / "state", folder(workdir, step) / "state")


def read(workdir, step):
    restore_metadata(workdir, step)
    return restore_state(workdir, step, LIKE)


def test_whole_ones_are_read_in_their_place_and_outside_of_it(workdir, tmp_path, capsys):
    assert [int(read(workdir, step).step) for step in steps_of(workdir)] == [1, 2, 3]
    copy = shutil.copytree(folder(workdir, 2), tmp_path / "999")
    place = checkpoints.locate(copy)
    assert place == (copy, checkpoints.ITSELF)
    assert int(read(*place).step) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("older", [None, True, False])
def test_renamed(workdir, older):
    if older is not None:
        make_older(workdir, 2, with_sums=older)
    folder(workdir, 2).rename(folder(workdir, 999))
    message = r"checkpoint 999 in '.*' holds the state of step 2: give the folder its name 2 again"
    with pytest.raises(UserError, match=message) as error:
        read(workdir, 999)
    assert not isinstance(error.value, DamagedError)


def test_a_run_is_not_resumed_from_a_renamed_checkpoint(saved, runs):
    workdir = shutil.copytree(saved[0], runs.folder / "run")
    folder(workdir, 2).rename(folder(workdir, 999))
    with pytest.raises(UserError, match=r"checkpoint 999 in .* holds the state of step 2"):
        runs.train(steps=4)
    assert steps_saved(workdir) == [1, 3, 999]  # a whole checkpoint is never moved
    folder(workdir, 999).rename(folder(workdir, 2))
    runs.train(steps=4)
    assert steps_saved(workdir) == [1, 2, 3, 4]


@pytest.mark.parametrize("older", [None, True, False])
def test_the_state_of_another_step(workdir, older):
    """With and without checksums."""
    if older is not None:
        make_older(workdir, 3, with_sums=older)
    take_state(workdir, 3, folder(workdir, 2))
    message = "holds the state of step 2" if older is False else "does not match its checksum"
    with pytest.raises(UserError, match=message):
        read(workdir, 3)


def test_the_state_of_another_run(workdir, saved):
    take_state(workdir, 3, folder(saved[1], 3))
    with pytest.raises(DamagedError, match="does not match its checksum"):
        read(workdir, 3)


REMOVED = [("checksums",), (SEAL,), ("config",), ("data",)]


@pytest.mark.parametrize("names", REMOVED)
def test_what_is_taken_away_is_noticed(workdir, names, capsys):
    change_metadata(workdir, 3, *names)
    with pytest.raises(DamagedError, match=r"in '.*' is damaged"):
        read(workdir, 3)
    assert capsys.readouterr().err == ""


SEALS = [{}, [], 7, "x", None, {"step": 3}, {"step": "3", "arrays": 0}, {"step": True, "arrays": 1}]


@pytest.mark.parametrize("seal", SEALS, ids=repr)
def test_odd_seals(workdir, seal):
    """Also with the checksum that an attacker would compute."""
    change_metadata(workdir, 3, own_checksum=True, **{SEAL: seal})
    with pytest.raises(DamagedError, match="its checksums are not those that it was saved with"):
        read(workdir, 3)


def test_checksums_of_another_checkpoint(workdir):
    path = folder(workdir, 2) / "run" / "metadata"
    other = json.loads(path.read_text())["checksums"]
    change_metadata(workdir, 3, own_checksum=True, checksums=other)
    take_state(workdir, 3, folder(workdir, 2))
    with pytest.raises(DamagedError, match="its checksums are not those that it was saved with"):
        read(workdir, 3)


def test_older_ones_open_and_the_oldest_with_one_warning(workdir, capsys):
    make_older(workdir, 2, with_sums=True)
    make_older(workdir, 3, with_sums=False)
    for step in (2, 3):
        assert int(read(workdir, step).step) == step
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"warning: checkpoint 3 in '.*' is of an older version and has no .*", line)


def test_only_names_that_orbax_gives_are_steps(workdir):
    for name in ("007", "\u0663", "1_0", "-1", "+2", "2.orbax-checkpoint-tmp", "9" * 30, " 5"):
        (workdir / "checkpoints" / name).mkdir()
    assert steps_of(workdir) == [1, 2, 3]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Orbax removes an older one afterwards."""
    seen, flush = [], checkpoints.flush_tree

    def record(path):
        names = {p.name for p in path.rglob("*") if p.is_file()}
        steps = sorted(p.name for p in path.parent.iterdir() if p.name.isdecimal())
        seen.append((path.name.partition(".")[0], "metadata" in names, steps))
        flush(path)

    monkeypatch.setattr(checkpoints, "flush_tree", record)
    run = {"model": {}, "identities": []}
    with checkpoints.open_manager(tmp_path, keep=1) as manager:
        for step in (1, 2):
            checkpoints.save(manager, step, LIKE, run)
    assert seen == [("1", True, []), ("2", True, ["1"])]
    assert steps_saved(tmp_path) == [2]
