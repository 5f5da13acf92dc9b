"""launch/tpu_vm.sh, with a stand-in for gcloud and the hosts behind it: machines and options.

What becomes of a run there: launch/test_tpu_vm_runs.py.
"""

import os
import re
import signal
import subprocess

import pytest
from support.fake_gcloud import ARGUMENTS, AWKWARD, HERE, MACHINE, TPU, needs_linux, wait_for
from support.variants import few

pytestmark = needs_linux


@pytest.mark.parametrize(
    "verb",
    few(["create", "run", "delete", "setup", "train", "eval", "logs", "status"], keep=[0, 1, 2]),
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


def test_plan_compiles_on_this_computer(world, tmp_path):
    """Main gets the type and the price, but no workdir; no machine is asked for."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"; exit 3\n')
    python.chmod(0o755)
    line = [TPU, "plan", "--type=v4-8", "--price=1.5", "--", "--config=configs/demo.py"]
    done = subprocess.run(
        [*line, "--workdir=gs://b/run"],
        cwd=tmp_path,
        env=os.environ | {"BATNET_PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    words = ["-m", "batnet_jax.main", "--mode=plan", "--slice=v4-8", "--config=configs/demo.py"]
    assert (done.returncode, done.stdout.splitlines()) == (3, [*words, "--price=1.5"])
    assert world.calls() == []
    without = subprocess.run([*line[:2], *line[4:]], capture_output=True, text=True)
    assert (without.returncode, without.stderr) == (
        2,
        "error: plan needs --type=TYPE, such as v4-8\n",
    )


@pytest.mark.parametrize("asked", ["", "highest"])
def test_the_precision_of_products_is_handed_on(asked):
    done = subprocess.run(
        [TPU, "train", *MACHINE, "--dry-run", *ARGUMENTS],
        env=os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": asked},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ("JAX_DEFAULT_MATMUL_PRECISION" in done.stdout) == bool(asked)
    assert ("JAX_DEFAULT_MATMUL_PRECISION=highest" in done.stdout) == bool(asked)


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


@pytest.mark.parametrize("outcome", few(["quota", "timeout"], keep=[0]))
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


def test_embed_is_a_mode(world):
    """All hosts embed into one folder; the settings are those of the run."""
    world.run(TPU, "create", *MACHINE)
    world.run(TPU, "setup", *HERE)
    words = ["--workdir=gs://bucket/run", "--images=/mnt/images", "--output=/mnt/gallery"]
    status, _, err = world.run(TPU, "embed", *HERE, "--", *words)
    assert status == 0, err
    assert world.calls("python") == [["-m", "batnet_jax.main", *words, "--mode=embed"]]


def test_eval_is_a_mode(world):
    world.run(TPU, "create", *MACHINE)
    world.run(TPU, "setup", *HERE)
    status, out, _ = world.run(TPU, "eval", *HERE, *ARGUMENTS)
    assert (status, "the log of main" in out) == (0, True)
    assert world.calls("python") == [["-m", "batnet_jax.main", *ARGUMENTS[1:], "--mode=eval"]]
    assert world.has_machine()


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
