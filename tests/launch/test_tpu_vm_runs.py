"""Runs of launch/tpu_vm.sh that end, are preempted, lose their connection or are interrupted."""

import os
import signal
import time
from pathlib import Path

import pytest
from support.fake_gcloud import ARGUMENTS, HERE, MACHINE, TPU, needs_linux, wait_for
from support.variants import few

pytestmark = needs_linux


@pytest.mark.parametrize(
    ("main", "expected"), few([(0, 0), (143, 143), (137, 1), (2, 2), (1, 1)], keep=[0, 1, 2])
)
def test_train_ends_as_main_does_and_leaves_the_machine(world, main, expected):
    world.run(TPU, "create", *MACHINE)
    world.run(TPU, "setup", *HERE)
    world.plan("main", main)
    assert world.run(TPU, "train", *HERE, *ARGUMENTS)[0] == expected
    assert world.has_machine()
    assert len(world.calls("python")) == 1


@pytest.mark.parametrize(("main", "expected"), [(2, 2), (1, 1)])
def test_run_does_not_repeat_what_main_refuses_or_fails_at(world, main, expected):
    world.plan("main", main)
    assert world.run(TPU, "run", *MACHINE, *ARGUMENTS)[0] == expected
    assert (world.verbs().count("create"), world.has_machine()) == (1, False)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    few([((143, 1), 143), ((0, 1), 1), ((0, 0), 0), ((1, 2), 2)], keep=[0, 1]),
)
def test_of_several_hosts_the_worst_counts(make_world, statuses, expected):
    world = make_world(hosts=2)
    world.run(TPU, "create", *MACHINE)
    world.run(TPU, "setup", *HERE)
    world.plan("main", *[f"meet{status}" for status in statuses])
    patient = {"BATNET_POLL": "2"}  # one may write its status a little later
    assert world.run(TPU, "train", *HERE, *ARGUMENTS, env=patient)[0] == expected


@pytest.mark.parametrize("call", few(range(4), keep=[0, 3]))
def test_run_goes_on_with_a_new_machine_after_a_preemption(world, call):
    kind, calls = ("scp", 0) if call == 0 else ("ssh", call - 1)  # setup, start, look
    world.plan(kind, *["ok"] * calls, "preempt")
    status, _, err = world.run(TPU, "run", *MACHINE, "--spot", *ARGUMENTS)
    assert status == 0, err
    verbs = world.verbs()
    assert (verbs.count("create"), verbs.count("delete")) == (2, 2)
    assert verbs.index("delete") < verbs.index("create", 1)
    assert len({tuple(args) for args in world.calls("python")}) == 1  # the same command resumes
    assert not world.has_machine()


def test_run_goes_on_after_main_was_told_to_stop(world):
    world.plan("main", 143)
    assert world.run(TPU, "run", *MACHINE, *ARGUMENTS)[0] == 0
    assert world.verbs().count("create") == 2


def test_preemptions_are_bounded(world):
    world.plan("main", *[143] * 9)
    assert world.run(TPU, "run", *MACHINE, "--attempts=3", *ARGUMENTS)[0] == 143
    assert (world.verbs().count("create"), world.has_machine()) == (3, False)


def test_a_failure_beside_a_preemption_is_one(world):
    world.plan("main", 1)
    world.plan("describe-tpu-vm", "ok", "PREEMPTED")  # gcloud knows it after main has failed
    assert world.run(TPU, "run", *MACHINE, *ARGUMENTS)[0] == 0
    assert world.verbs().count("create") == 2


def test_a_dropped_connection_does_not_end_the_run(world):
    world.plan("scp", "drop")
    world.plan("ssh", "drop", "ok", "drop", "ok", "drop", "drop", "drop")
    status, _, err = world.run(TPU, "run", *MACHINE, *ARGUMENTS)
    assert status == 0, err
    assert world.verbs().count("create") == 1
    assert "no connection to batnet" in err


def test_main_starts_once_although_the_connection_breaks_after_it(world):
    world.plan("ssh", "ok", "lost")
    assert world.run(TPU, "run", *MACHINE, *ARGUMENTS)[0] == 0
    assert len(world.calls("python")) == 1


def test_hosts_out_of_reach_are_given_up(world):
    world.run(TPU, "create", *MACHINE)
    world.plan("scp", *["drop"] * 9)
    assert world.run(TPU, "setup", *HERE)[0] == 5
    assert world.verbs().count("scp") == 4


def test_run_replaces_hosts_out_of_reach(world):
    world.plan("scp", *["drop"] * 4)
    assert world.run(TPU, "run", *MACHINE, *ARGUMENTS)[0] == 0
    assert (world.verbs().count("create"), world.verbs().count("delete")) == (2, 2)


def start_sleeping(world, verb="train"):
    """A command whose main is at work on the host."""
    world.plan("main", "sleep")
    if verb == "train":
        world.run(TPU, "create", *MACHINE)
        world.run(TPU, "setup", *HERE)
    process = world.start(TPU, verb, *MACHINE, *ARGUMENTS, env={"BATNET_POLL": "60"})
    wait_for(lambda: (world.folder / "sleeping").exists() and looks(world))
    return process


def looks(world):
    """The looks at a run."""
    return [args for args in world.calls() if "run:lost" in args[-1]]


def end_main(world):
    """As a reboot does: main is gone without a word."""
    for pid in world.pids():
        parent = int(Path(f"/proc/{pid}/stat").read_text().split()[3])
        os.kill(parent, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        (world.folder / f"pid{pid}").unlink()


def test_train_that_is_stopped_leaves_the_run_alone(world):
    process = start_sleeping(world)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "continues there" in err
    assert world.has_machine()

    status, out, _ = world.run(TPU, "status", *HERE)
    assert (status, out) == (0, "machine: READY\nqueued resource: NONE\nrun:running\n")
    status, _, err = world.run(TPU, "train", *HERE, *ARGUMENTS)
    assert status == 1
    assert "another run is in progress" in err

    # A look between making the status and writing it.
    (world.folder / "home0/batnet_run/status").touch()
    assert world.run(TPU, "status", *HERE)[1].endswith("run:running\n")

    end_main(world)
    assert world.run(TPU, "status", *HERE)[1].endswith("run:lost\n")
    world.plan("main", 0)
    assert world.run(TPU, "train", *HERE, *ARGUMENTS)[0] == 0
    assert world.run(TPU, "status", *HERE)[1].endswith("run:0\n")
    world.run(TPU, "delete", *HERE)
    assert world.run(TPU, "status", *HERE)[1] == "machine: NONE\nqueued resource: NONE\n"


def test_a_run_that_takes_its_lock_during_a_look_is_not_lost(world):
    world.run(TPU, "create", *MACHINE)
    lock = world.folder / "home0/batnet_run/lock"
    lock.parent.mkdir()
    lock.touch()
    world.program("hostbin/sleep", TAKE_LOCK)  # what a look does after it found the lock free
    assert world.run(TPU, "status", *HERE)[1].endswith("run:running\n")


# For the time of another process that has inherited it.
TAKE_LOCK = """
lock = open("lock")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
subprocess.Popen(["/bin/sleep", "3"], pass_fds=[lock.fileno()], **quiet)
"""


def test_a_host_that_was_started_anew_counts_as_preempted(world):
    process = start_sleeping(world, "run")
    process.send_signal(signal.SIGTERM)  # and its deletion finds the run
    process.communicate(timeout=30)
    world.plan("main", "sleep")
    (world.folder / "sleeping").unlink()
    process = world.start(TPU, "run", *MACHINE, *ARGUMENTS, env={"BATNET_POLL": "1"})
    wait_for((world.folder / "sleeping").exists)
    end_main(world)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "restarted during the run" in err


@pytest.mark.parametrize(
    ("number", "expected"),
    few([(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)], keep=[0, 1]),
)
def test_run_that_is_interrupted_deletes_its_machine(world, number, expected):
    process = start_sleeping(world, "run")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == expected
    assert "deleting 'batnet'" in err
    assert not world.has_machine()
    assert list(world.folder.glob("tmp*")) == []


def test_the_whole_foreground_may_be_interrupted_twice(world):
    process = start_sleeping(world, "run")
    process.send_signal(signal.SIGINT)
    while process.poll() is None:  # ever again, also while it deletes
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate()
    assert (process.returncode, world.has_machine()) == (130, False)


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_creation_that_is_interrupted_leaves_nothing(world, verb):
    world.plan("create", "late")
    process = world.start(TPU, verb, *MACHINE, *(ARGUMENTS if verb == "run" else []))
    wait_for(lambda: world.verbs() == ["create"])
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert (process.returncode, world.has_machine()) == (130, False)


def test_a_command_that_has_just_begun_is_stopped(world):
    """The signal comes before the script's next line; whoever reads stderr waits for gcloud."""
    world.plan("create", "slow")
    begin = '  "$@" </dev/null &\n'
    text = TPU.read_text()
    assert text.count(begin) == 1
    script = world.folder / "launch" / TPU.name
    script.parent.mkdir()
    script.write_text(
        text.replace(begin, f"{begin}  if [[ $* == *' create '* ]]; then kill -TERM $$; fi\n")
    )
    process = world.start("bash", script, "create", *MACHINE)
    process.communicate(timeout=30)
    assert (process.returncode, world.has_machine()) == (143, False)


def test_an_interrupted_creation_is_looked_for_twice(world):
    world.plan("create", "slow")
    world.plan("describe-tpu-vm", "ok", "NONE", "NONE", "CREATING")
    process = world.start(TPU, "create", *MACHINE)
    wait_for(lambda: world.verbs() == ["create"])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert world.verbs() == ["create", "delete"]


def test_a_creation_that_timed_out_is_looked_for_twice(world):
    world.plan("create", "timeout")
    world.plan("describe-tpu-vm", "ok", "NONE", "NONE", "CREATING")
    assert world.run(TPU, "create", *MACHINE)[0] == 5
    assert world.verbs() == ["create", "delete"]
