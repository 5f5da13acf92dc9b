"""Runs with faults of disk, memory, data and numbers: the message, and the next run."""

import errno
import json
import os
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from support.stub_training import STEPS, Runs, arrays, fake_embed, fake_step, fill, steps_saved
from support.stub_training import prepared as prepared
from support.stub_training import runs as runs
from support.stub_training import small_disk as small_disk

from batnet_jax.config import FIELDS
from batnet_jax.data import load_dataset
from batnet_jax.data.dataset import Split
from batnet_jax.data.run_data import TRAIN_BY_LABEL
from batnet_jax.errors import NotFiniteError, RunFailure, UserError
from batnet_jax.evaluation import evaluate
from batnet_jax.runtime.resource_errors import MemoryRemedies, as_run_failure, disk_error
from batnet_jax.training import loop as training
from batnet_jax.validation import EVALUATION_MEMORY, TRAINING_MEMORY
from batnet_jax.workdir import checkpoints, environment, metrics_log


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """The workdir of a run without faults."""
    with pytest.MonkeyPatch.context() as patch:
        return Runs(tmp_path_factory.mktemp("whole"), prepared, patch).train()


def test_a_run_without_faults(runs, whole):
    """The other runs are compared with this one; its metadata is complete."""
    workdir = runs.train()
    assert steps_saved(workdir) == list(range(1, STEPS + 1))
    saved = checkpoints.restore_metadata(workdir, STEPS)
    assert saved["config"]["seed"] == 0
    assert len(saved["identities"]) == 12
    assert saved["data"].keys() == {"train", TRAIN_BY_LABEL, "pedestrians test"}
    assert saved["checksums"].keys() == arrays(workdir).keys() | {"facts"}
    assert (workdir / "metrics.jsonl").read_text().count("\n") == STEPS
    assert_same_arrays(workdir, whole)


def assert_same_arrays(workdir, other):
    """Compare the last checkpoints of two runs to the last bit."""
    mine, theirs = arrays(workdir), arrays(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def lose_loss(state, parts):
    bad = {name: value * jnp.nan for name, value in parts.items()}
    return state.replace(params=jax.tree.map(lambda w: w * jnp.nan, state.params)), bad


def lose_state(state, parts):
    return state.replace(opt_state=jax.tree.map(lambda m: m * jnp.inf, state.opt_state)), parts


@pytest.mark.parametrize(
    ("lose", "message"),
    [
        (lose_loss, "the loss is nan at step 5, on the images '"),
        (lose_state, "opt_state/momentum is not finite after step 5, on the images '"),
    ],
)
def test_values_that_are_not_finite_are_never_saved(runs, lose, message):
    runs.fail_at(5, lose)
    with pytest.raises(NotFiniteError) as error:  # although only each 100th step is logged
        runs.train(**{"log.every_steps": 100})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    workdir = runs.folder / "run"
    report = json.loads((workdir / "not_finite.json").read_text())
    assert (report["step"], len(report["files"]), len(report["labels"])) == (5, 8, 8)
    assert steps_saved(workdir) == [1, 2, 3, 4]
    assert all(np.isfinite(value).all() for value in arrays(workdir, 4).values())
    # Without the fault the run continues, by the same program: another one may round differently.
    runs.fail_at(STEPS + 1, lose)
    runs.train(**{"log.every_steps": 100})
    assert_same_arrays(workdir, runs.train("whole"))


def test_out_of_device_memory_in_training(runs):
    def greedy(state, batch, *, recipe):
        with jax.ensure_compile_time_eval():  # at once, as in a step XLA's CPU client would abort
            jnp.zeros((1 << 42,)).block_until_ready()
        return fake_step(state, batch, recipe=recipe)

    runs.monkeypatch.setattr(training, "train_step", greedy)
    with pytest.raises(RunFailure, match=r"out of device memory \(.*17592186044416 bytes") as error:
        runs.train()
    assert "lower config.batch.identities, config.data.image_size or" in str(error.value)
    assert "\n" not in str(error.value)


def test_out_of_device_memory_in_evaluation_keeps_the_last_step(runs):
    def greedy(model, variables):
        embed = fake_embed(model, variables)
        return lambda images: embed(images) + float(jnp.zeros((1 << 42,))[0])

    runs.monkeypatch.setattr(training, "make_embed", greedy)
    with pytest.raises(RunFailure, match=r"lower config.eval.batch; the same command"):
        runs.train(**{"checkpoint.every_epochs": 0})
    assert steps_saved(runs.folder / "run") == [STEPS]
    runs.monkeypatch.setattr(training, "make_embed", fake_embed)
    workdir = runs.train(**{"checkpoint.every_epochs": 0, "eval.batch": 8})
    assert (workdir / "eval" / f"step_{STEPS}.json").exists()


def test_out_of_host_memory(runs):
    runs.monkeypatch.setattr(Split, "encoded", lambda *_: np.empty(1 << 50))
    with pytest.raises(RunFailure, match=r"out of memory on the host: lower config.data.cache_gb"):
        runs.train()


def filling(original, folder, at):
    """Return `original` in a wrapper that fills the disk before call number `at`."""
    calls = iter(range(1, 1000))

    def call(*arguments, **keywords):
        if next(calls) == at:
            fill(folder)
        return original(*arguments, **keywords)

    return call


# TensorStore reports the failure to event loops that Orbax has already closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("where", "name", "at", "saved"),
    [
        (checkpoints, "save", 4, 3),
        pytest.param(checkpoints, "check_room", 4, 3, marks=pytest.mark.slow),
        pytest.param(metrics_log.MetricsLog, "write", 4, 3, marks=pytest.mark.slow),
        (training, "run_tests", 1, STEPS),
        (environment, "record", 1, 0),
    ],
)
def test_a_full_disk(runs, whole, small_disk, where, name, at, saved, capfd):
    """The last save may be incomplete when the disk fills up; the save before is complete."""
    full = filling(getattr(where, name), small_disk, at)
    if name == "check_room":  # as if the disk filled up after the check
        full = filling(lambda *_: None, small_disk, at)
    runs.monkeypatch.setattr(where, name, full)
    message = "cannot write to the workdir '.*' .*No space left on device.*: make room"
    with pytest.raises(RunFailure, match=message) as error:
        runs.train("disk/run")
    assert "\n" not in str(error.value)
    assert "Exception in thread" not in capfd.readouterr().err
    if saved:
        assert steps_saved(small_disk / "run")[: saved - 1] == list(range(1, saved))
    (small_disk / "filler").unlink()
    workdir = runs.train("disk/run")  # with room again
    assert_same_arrays(workdir, whole)
    assert not [p for p in (workdir / "checkpoints").iterdir() if "tmp" in p.name]
    figures = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in figures] == list(range(1, STEPS + 1))


def test_a_full_disk_while_preparing(small_disk):
    fill(small_disk, leave=50_000)
    with pytest.raises(UserError, match=r"cannot write to '.*' \(.*\): make room") as error:
        load_dataset("pedestrians", variant="tiny", data_dir=small_disk)
    assert "\n" not in str(error.value)
    (small_disk / "filler").unlink()
    assert len(load_dataset("pedestrians", variant="tiny", data_dir=small_disk).train) > 0


REMEDIES = MemoryRemedies(device="take a smaller step", host="close other programs")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("20 GB"), "out of memory on the host: close other programs"),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\n a table"),
            "out of device memory (Out of memory allocating 8 bytes): take a smaller step",
        ),
    ],
)
def test_too_little_memory_ends_with_the_callers_remedy(tmp_path, error, message):
    with pytest.raises(RunFailure) as failure, as_run_failure(tmp_path, memory=REMEDIES):
        raise error
    assert str(failure.value) == message


@pytest.mark.parametrize("remedies", [TRAINING_MEMORY, EVALUATION_MEMORY])
def test_remedies_name_settings(remedies):
    for remedy in remedies:
        names = re.findall(r"config\.([a-z_.]+[a-z])", remedy)
        assert names
        assert set(names) <= FIELDS.keys()
        resumes = all(FIELDS[name].resumable for name in names)
        assert resumes == ("another workdir" not in remedy)


def test_other_errors_are_raised_unchanged(tmp_path):
    for error in (ValueError("a bug"), OSError(errno.EINVAL, "x"), KeyError("x")):
        with pytest.raises(type(error)) as raised, as_run_failure(tmp_path, memory=REMEDIES):
            raise error
        assert raised.value is error
    text = "RESOURCE_EXHAUSTED: Failed to write 3 bytes to file 11: x [os_error_code='28']"
    assert disk_error(ValueError(text)) == os.strerror(errno.ENOSPC)
    assert disk_error(ValueError("NOT_FOUND: [os_error_code='9']")) is None


def test_a_read_only_workdir(runs, small_disk):
    workdir = runs.train("disk/run", steps=2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for steps in (2, 3):
        with pytest.raises(UserError, match=r"cannot write to the workdir '.*': name another"):
            runs.train("disk/run", steps=steps)
    with pytest.raises(UserError, match="cannot write to the workdir"):
        runs.train("disk/new")
    assert checkpoints.restore_metadata(workdir, 2)["config"]["seed"] == 0  # it can be read


def test_an_image_that_a_worker_cannot_read(runs):
    encoded = Split.encoded

    def broken(split, i):
        if split.filenames[i] == split.filenames[3]:
            raise IndexError("the reader's own words\non two lines")
        return encoded(split, i)

    runs.monkeypatch.setattr(Split, "encoded", broken)
    message = r"'.*' cannot be read \(the reader's own words on two lines\): were the prepared"
    with pytest.raises(RunFailure, match=message):
        runs.train()


def test_data_that_is_deleted_or_overwritten_in_a_run(runs, whole):
    """A deleted file that is open stays readable; a file with other bytes is an error."""
    options = {"data.cache_gb": 0.0, "data.disk_cache_gb": 0.0, "data.dir": str(runs.folder / "d")}
    load_dataset("pedestrians", variant="tiny", data_dir=runs.folder / "d")
    files = list((runs.folder / "d").rglob("*.array_record*"))
    write = metrics_log.MetricsLog.write

    def then(change):
        def call(self, figures):
            write(self, figures)
            if figures["step"] == 3:
                for path in files:
                    change(path)

        return call

    kept = {path: path.read_bytes() for path in files}
    runs.monkeypatch.setattr(metrics_log.MetricsLog, "write", then(lambda path: path.unlink()))
    gone = runs.train("gone", **options)
    assert arrays(gone).keys() == arrays(whole).keys()
    for path, content in kept.items():
        path.write_bytes(content)
    zeros = then(lambda path: path.write_bytes(bytes(len(kept[path]))))
    runs.monkeypatch.setattr(metrics_log.MetricsLog, "write", zeros)
    with pytest.raises((RunFailure, UserError), match=r"cannot be (read|decoded)") as error:
        runs.train("zeros", **options)
    assert "\n" not in str(error.value)


def test_an_interrupted_evaluation_is_repeated_by_the_next_run(runs):
    plan = {"eval.every_epochs": 4}
    whole = runs.train("whole", **plan)
    write_result = evaluate.write_result

    def killed(*arguments):
        raise KeyboardInterrupt  # in place of SIGKILL: nothing after it happens

    runs.monkeypatch.setattr(evaluate, "write_result", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.train(**plan)
    assert steps_saved(runs.folder / "run") == [1, 2, 3, 4]
    runs.monkeypatch.setattr(evaluate, "write_result", write_result)
    workdir = runs.train(**plan)
    for name in ("step_4.json", f"step_{STEPS}.json"):
        mine, theirs = ((w / "eval" / name).read_text() for w in (workdir, whole))
        assert mine == theirs
