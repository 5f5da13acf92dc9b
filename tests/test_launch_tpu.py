"""launch/tpu_vm.sh, with a stand-in for gcloud and the hosts behind it."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launch_world import (
    ARGUMENTS,
    AWKWARD,
    HERE,
    MACHINE,
    TPU,
    needs_linux,
    wait_for,
)

pytestmark = needs_linux


@pytest.mark.parametrize(
    "verb", ["create", "setup", "train", "eval", "run", "logs", "status", "delete"]
)
def test_dry_run_prints_what_is_called_otherwise(world, verb):
    arguments = ARGUMENTS if verb in ("train", "eval", "run") else []
    status, out, _ = world.run(TPU, verb, *MACHINE, "--dry-run", *arguments)
    assert status == 0
    assert world.calls() == []
    assert [path.name for path in world.folder.glob("tmp*")] == []
    printed = [args for args in split_commands(out) if args[0] == "gcloud"]

    if verb not in ("create", "run"):
        world.run(TPU, "create", *MACHINE)
    if verb in ("train", "eval", "logs"):
        world.run(TPU, "setup", *MACHINE)
    before = len(world.calls())
    process = world.start(TPU, verb, *MACHINE, *arguments)
    if verb == "logs":
        wait_for(lambda: len(world.calls()) >= before + len(printed))
        process.terminate()
    process.communicate(timeout=60)
    called = world.calls()[before:]
    # Looks at a run go on until it ends; the scratch folder and the run's id differ.
    looks = [args for args in called if "run:lost" in args[-1]]
    for extra in looks[1:]:
        called.remove(extra)
    assert [normal(args[1:]) for args in printed] == [normal(args) for args in called]


def split_commands(out):
    """The commands that a dry run printed, each a list of words; bash reads what bash quoted."""
    lines = 'eval "words=($line)"; printf "%s\\0" "${words[@]}"; printf "\\n\\0"'
    script = f"while IFS= read -r line; do {lines}; done"
    done = subprocess.run(["bash", "-c", script], input=out, capture_output=True, text=True)
    commands = done.stdout.split("\0\n\0")
    return [command.split("\0") for command in commands if command]


def normal(args):
    text = "\0".join(args)
    return re.sub(r"/\S*/batnet_jax.tgz|\b\d+-\d+\b(?=[; ]| >id)", "X", text)


def test_run_creates_trains_and_deletes(world):
    status, out, err = world.run(TPU, "run", *MACHINE, *ARGUMENTS)
    assert status == 0, err
    assert world.verbs()[:3] == ["create", "scp", "ssh"]
    assert world.verbs()[-1] == "delete"
    assert "the log of main" in out
    assert "not billed" in err
    assert not world.has_machine()


def test_create_passes_its_options_on(world):
    options = ["--name=n-1", "--project=p", "--spot", "--version=v"]
    assert world.run(TPU, "create", *MACHINE, *options)[0] == 0
    (args,) = [args for args in world.calls() if args[3] == "create"]
    assert args[2:5] == ["tpu-vm", "create", "n-1"]
    assert {"--project=p", "--zone=us-central2-b", "--spot", "--version=v"} <= set(args)
    assert "--accelerator-type=v4-8" in args


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v3-8", "tpu-ubuntu2204-base"),
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_software_follows_from_the_type(world, kind, version):
    _, out, _ = world.run(TPU, "create", *HERE, f"--type={kind}", "--dry-run")
    assert f"--version={version} " in out


def test_create_leaves_the_machine_and_says_so(world):
    status, _, err = world.run(TPU, "create", *MACHINE)
    assert (status, world.verbs()) == (0, ["create"])
    assert world.has_machine()
    assert "billed until: launch/tpu_vm.sh delete --name=batnet --zone=us-central2-b" in err


@pytest.mark.parametrize("verb", ["create", "run"])
def test_a_machine_that_is_there_already_is_left_alone(world, verb):
    world.run(TPU, "create", *MACHINE)
    status, _, err = world.run(TPU, verb, *MACHINE, *(ARGUMENTS if verb == "run" else []))
    assert (status, world.verbs()) == (2, ["create"])
    assert "already" in err


def test_a_machine_that_appears_meanwhile_is_left_alone(world):
    world.plan("create", "exists")
    status, _, err = world.run(TPU, "run", *MACHINE, *ARGUMENTS)
    assert (status, world.verbs()) == (2, ["create"])
    assert "already" in err


def test_nothing_is_created_where_gcloud_cannot_look(world):
    world.plan("describe-tpu-vm", "unknown")
    status, _, err = world.run(TPU, "run", *MACHINE, *ARGUMENTS)
    assert (status, world.verbs()) == (1, [])
    assert "network is unreachable" in err


@pytest.mark.parametrize("verb", ["setup", "train", "eval", "logs"])
def test_verbs_that_need_a_machine_say_so(world, verb):
    status, _, err = world.run(TPU, verb, *HERE, *(ARGUMENTS if verb in ("train", "eval") else []))
    assert (status, world.verbs()) == (2, [])
    assert "there is no 'batnet' in us-central2-b" in err


@pytest.mark.parametrize(
    ("outcome", "expected"), [("quota", 3), ("capacity", 3), ("timeout", 5), ("denied", 1)]
)
def test_create_that_fails_says_why_and_leaves_nothing(world, outcome, expected):
    world.plan("create", outcome)
    status, _, err = world.run(TPU, "create", *MACHINE)
    assert status == expected
    assert "ERROR: " in err
    assert not world.has_machine()


@pytest.mark.parametrize("outcome", ["quota", "timeout"])
def test_run_tries_again_for_a_machine_a_bounded_number_of_times(world, outcome):
    world.plan("create", outcome, outcome)
    assert world.run(TPU, "run", *MACHINE, "--attempts=3", *ARGUMENTS)[0] == 0
    assert world.verbs().count("create") == 3

    world.plan("create", *[outcome] * 9)
    status, _, err = world.run(TPU, "run", *MACHINE, "--attempts=4", *ARGUMENTS)
    assert status == (3 if outcome == "quota" else 5)
    assert world.verbs().count("create") == 3 + 4
    assert "giving up after 4 machines" in err


def test_run_does_not_repeat_what_cannot_succeed(world):
    world.plan("create", "denied")
    assert world.run(TPU, "run", *MACHINE, *ARGUMENTS)[0] == 1
    assert world.verbs() == ["create"]


def test_waits_are_doubled_up_to_a_bound(world):
    world.program("bin/sleep", "")
    world.plan("create", *["quota"] * 9)
    world.run(TPU, "run", *MACHINE, "--attempts=8", *ARGUMENTS, env={"BATNET_BACKOFF": "20"})
    assert [int(seconds) for (seconds,) in world.calls("sleep")] == [20, 40, 80, 160, 320, 600, 600]


def test_queued_resource_is_waited_for_and_deleted(world):
    looks = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ok"]
    world.plan("describe-queued-resources", "ok", *looks)
    status, _, err = world.run(TPU, "run", *MACHINE, "--queued", "--spot", *ARGUMENTS)
    assert status == 0, err
    created, deleted = [a for a in world.calls() if a[3] in ("create", "delete")]
    assert created[2:5] == ["queued-resources", "create", "batnet"]
    assert {"--node-id=batnet", "--runtime-version=tpu-ubuntu2204-base", "--spot"} <= set(created)
    assert deleted[2:] == ["queued-resources", "delete", "batnet", *HERE, "--force", "--quiet"]
    assert not world.has_machine()


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", "WAITING_FOR_RESOURCES"])
def test_queued_resource_that_comes_to_nothing_is_deleted(world, state):
    world.plan("describe-queued-resources", "ok", *[state] * 2)
    status, _, err = world.run(TPU, "create", *MACHINE, "--queued", "--wait=0")
    assert status == 3
    assert f"the queued resource is {state}" in err
    assert not world.has_machine()


def test_delete_finds_out_what_there_is(world):
    world.run(TPU, "create", *MACHINE, "--queued")
    assert world.run(TPU, "delete", *HERE)[0] == 0  # --queued need not be said again
    assert world.calls()[-3][2:4] == ["queued-resources", "delete"]
    assert not world.has_machine()


def test_delete_of_nothing_is_a_success(world):
    status, _, err = world.run(TPU, "delete", *HERE)
    assert (status, world.verbs()) == (0, [])
    assert "not billed" in err


def test_delete_is_tried_again_and_its_failure_is_loud(world):
    world.run(TPU, "create", *MACHINE)
    world.plan("delete", "fail", "fail")
    assert world.run(TPU, "delete", *HERE)[0] == 0
    assert not world.has_machine()

    world.plan("delete", *["fail"] * 99)
    status, _, err = world.run(TPU, "run", *MACHINE, *ARGUMENTS)
    assert status == 4
    assert "MAY BE BILLED" in err
    assert "launch/tpu_vm.sh delete --name=batnet --zone=us-central2-b" in err


def test_delete_without_an_answer_is_no_success(world):
    world.run(TPU, "create", *MACHINE)
    world.plan("describe-tpu-vm", *["unknown"] * 99)
    assert world.run(TPU, "delete", *HERE)[0] == 4


def test_setup_installs_on_all_hosts(make_world, tmp_path):
    world = make_world(hosts=4)
    world.run(TPU, "create", *HERE, "--type=v4-32")
    status, _, err = world.run(TPU, "setup", *HERE, "--data=gs://bucket/my images")
    assert status == 0, err
    assert all("--worker=all" in args for args in world.calls() if args[3] in ("ssh", "scp"))
    installs = [args for args in world.calls("uv") if args[0] == "pip"]
    assert len(installs) == 4
    assert {" ".join(args) for args in installs} == {
        "pip install --quiet --python .venv/bin/python -c constraints.txt -e .[tpu]"
    }
    assert ["venv", "--quiet", "--python", "3.12", ".venv"] in world.calls("uv")
    for number in range(4):
        package = tmp_path / f"home{number}/batnet_jax"
        for name in ("batnet_jax/main.py", "configs/demo.py", "constraints.txt", "LICENSE"):
            assert (package / name).is_file()
        assert (package / "data/manual/from_bucket").exists()
    copied = [args for args in world.calls() if args[0] == "storage"]
    assert (
        copied == [["storage", "rsync", "--recursive", "gs://bucket/my images", "data/manual"]] * 4
    )
    # A second time, uv and .venv are there.
    assert world.run(TPU, "setup", *HERE)[0] == 0
    assert len(world.calls("python3")) == 4


def test_setup_that_fails_is_not_repeated(world):
    world.plan("install", "fail")
    status, _, err = world.run(TPU, "run", *MACHINE, *ARGUMENTS)
    assert status == 1
    assert "installing failed" in err
    assert world.verbs() == ["create", "scp", "ssh", "delete"]


def test_arguments_survive_all_quoting(make_world):
    world = make_world(hosts=2)
    status, _, err = world.run(TPU, "run", *MACHINE, *ARGUMENTS, *AWKWARD)
    assert status == 0, err
    assert world.calls("python") == [["-m", "batnet_jax.main", *ARGUMENTS[1:], *AWKWARD]] * 2
    assert world.environments("python") == [{"BATNET_DISTRIBUTED": "1"}] * 2


def test_eval_is_a_mode(world):
    world.run(TPU, "create", *MACHINE)
    world.run(TPU, "setup", *HERE)
    status, out, _ = world.run(TPU, "eval", *HERE, *ARGUMENTS)
    assert (status, "the log of main" in out) == (0, True)
    assert world.calls("python") == [["-m", "batnet_jax.main", *ARGUMENTS[1:], "--mode=eval"]]
    assert world.has_machine()


@pytest.mark.parametrize(("main", "expected"), [(0, 0), (2, 2), (143, 143), (1, 1), (137, 1)])
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
    ("statuses", "expected"), [((0, 0), 0), ((143, 1), 143), ((1, 2), 2), ((0, 1), 1)]
)
def test_of_several_hosts_the_worst_counts(make_world, statuses, expected):
    world = make_world(hosts=2)
    world.run(TPU, "create", *MACHINE)
    world.run(TPU, "setup", *HERE)
    world.plan("main", *[f"meet{status}" for status in statuses])
    patient = {"BATNET_POLL": "2"}  # one may write its status a little later
    assert world.run(TPU, "train", *HERE, *ARGUMENTS, env=patient)[0] == expected


@pytest.mark.parametrize("call", range(4))
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
    assert "goes on there" in err
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
    assert "started anew" in err


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
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


def test_logs_are_of_the_wanted_host(make_world, tmp_path):
    world = make_world(hosts=2)
    world.run(TPU, "create", *MACHINE)
    (tmp_path / "home1/batnet_run").mkdir()
    (tmp_path / "home1/batnet_run/log").write_text("host 1\n")
    process = world.start(TPU, "logs", *HERE, "--worker=1")
    assert process.stdout.readline() == "host 1\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
