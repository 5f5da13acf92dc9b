"""The scripts of launch/, with stand-ins for what they call; tpu_vm.sh: test_tpu_vm*.py."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import fake_gcloud, needs
from support.fake_gcloud import (
    ARGUMENTS,
    AWKWARD,
    HERE,
    LOCAL,
    MACHINE,
    SLURM,
    SLURM_EMBED,
    TPU,
    needs_linux,
    ours,
    wait_for,
)

pytestmark = needs_linux

# --- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [TPU, SLURM, SLURM_EMBED, LOCAL], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    checker = Path(sys.executable).with_name("shellcheck")
    found = checker if checker.exists() else needs.program("shellcheck")
    done = subprocess.run([found, script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize("script", [TPU, SLURM, SLURM_EMBED, LOCAL], ids=lambda path: path.name)
def test_help_names_all_options(world, script):
    status, out, _ = world.run("bash", script, *(["run"] if script == TPU else []), "--help")
    assert status == 0
    parser = script.read_text().partition("\nparse() {")[2].partition("\n}")[0]
    options = set(re.findall(r"--[a-z-]{2,}(?==\*\)|\)| \|)", parser))
    assert options >= {"--help", "--dry-run"}
    assert [o for o in options if o not in out and o != "--help"] == []
    assert world.calls() == []


MISTAKES = {
    "no verb": ([TPU], "no verb"),
    "verb": ([TPU, "fly"], "unknown verb 'fly'"),
    "option": ([TPU, "status", "--zoom=3"], "unknown option '--zoom=3'"),
    "zone": ([TPU, "status"], "--zone"),
    "name": ([TPU, "status", *HERE, "--name=A b"], "--name=A b"),
    "type": ([TPU, "create", *HERE], "--type"),
    "version": ([TPU, "create", *HERE, "--type=v9-8"], "--version"),
    "number": ([TPU, "run", *MACHINE, "--attempts=x", *ARGUMENTS], "--attempts=x"),
    "data": ([TPU, "setup", *HERE, "--data=/tmp"], "gs://"),
    "config": ([TPU, "train", *HERE], "name a file of configs/"),
    "no such config": ([TPU, "train", *HERE, "--", "--config=configs/x.py"], "configs/x.py"),
    "workdir": ([TPU, "run", *MACHINE, *ARGUMENTS[:2]], "--workdir=gs://"),
    "arguments": ([TPU, "create", *MACHINE, *ARGUMENTS], "create takes no arguments"),
    "slurm option": ([SLURM, "--fast"], "unknown option '--fast'"),
    "slurm arguments": ([SLURM], "no arguments of main"),
    "array arguments": ([SLURM_EMBED], "no arguments of main"),
    "array option": ([SLURM_EMBED, "--fast"], "unknown option '--fast'"),
    "array outside": ([SLURM_EMBED, *ARGUMENTS], "not in a Slurm array"),
    "embed in a bucket": (
        [TPU, "embed", *HERE, *ARGUMENTS, "--output=gs://b/g"],
        "a folder that all",
    ),
    "embed nothing": ([TPU, "embed", *HERE, *ARGUMENTS], "embed needs a run, and a folder"),
    "slurm outside": ([SLURM, *ARGUMENTS], "sbatch"),
    "local option": ([LOCAL, "--fast"], "unknown option '--fast'"),
    "local arguments": ([LOCAL], "no arguments of main"),
    "local number": ([LOCAL, "--processes=0", *ARGUMENTS], "--processes=0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gives_one_line_and_status_2(world, name):
    command, expected = MISTAKES[name]
    status, out, err = world.run("bash", *command)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert expected in err
    assert err.count("\n") == 1
    assert world.calls() == world.calls("srun") == []


def test_environment_that_is_no_number_is_refused(world):
    for name in ("BATNET_BACKOFF", "BATNET_POLL"):
        status, _, err = world.run(TPU, "status", *HERE, env={name: "soon"})
        assert (status, err.count("\n")) == (2, 1)
        assert f"{name}=soon" in err


def test_missing_gcloud_gives_one_line(world, tmp_path):
    path = tmp_path / "few"
    path.mkdir()
    for name in ("bash", "dirname", "env", "cat"):
        (path / name).symlink_to(shutil.which(name))
    status, _, err = world.run(TPU, "status", *HERE, env={"PATH": str(path)})
    assert (status, err.count("\n")) == (2, 1)
    assert "gcloud is not installed" in err


# --- slurm.sbatch --------------------------------------------------------------------------------


@pytest.fixture
def job(world, tmp_path):
    """A submitted job's environment; the repository is a copy with a stand-in for .venv."""
    repository = tmp_path / "repository"
    (repository / "batnet_jax").mkdir(parents=True)
    (repository / "batnet_jax/main.py").touch()
    world.program("repository/.venv/bin/python", "")
    return {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(repository), "SLURM_NTASKS": "1"}


def test_slurm_runs_main_with_its_arguments(world, job):
    status, _, err = world.run("bash", SLURM, *ARGUMENTS, *AWKWARD, env=job)
    assert (status, err) == (0, "")
    main = [".venv/bin/python", "-m", "batnet_jax.main", *ARGUMENTS[1:], *AWKWARD]
    assert world.calls("srun") == [["--kill-on-bad-exit=1", *main]]
    assert world.calls("scontrol") == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # One process on one node sees all its GPUs without help.
        ({"SLURM_GPUS_ON_NODE": "4"}, {}),
        # One a GPU is what JAX expects of Slurm.
        (
            {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"},
            {"BATNET_DISTRIBUTED": "1"},
        ),
        # One a node has to be told of all its GPUs.
        (
            {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"},
            {"BATNET_DISTRIBUTED": "1", "JAX_LOCAL_DEVICE_IDS": "0,1,2,3"},
        ),
        (
            {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"},
            {"BATNET_DISTRIBUTED": "1"},
        ),
    ],
    ids=["one", "one a GPU", "one a node", "one GPU a node"],
)
def test_slurm_processes_find_their_devices(world, job, given, expected):
    assert world.run("bash", SLURM, *ARGUMENTS, env=job | given)[0] == 0
    (env,) = world.environments("srun")
    assert ours(env) == expected


@pytest.mark.parametrize(
    ("main", "requeues"), [(0, []), (1, []), (2, []), (143, [["requeue", "7"]])]
)
def test_slurm_requeues_what_was_stopped_and_nothing_else(world, job, main, requeues):
    world.plan("main", main)
    assert world.run("bash", SLURM, *ARGUMENTS, env=job)[0] == main
    assert world.calls("scontrol") == requeues


def test_slurm_requeues_are_bounded(world, job):
    world.plan("main", 143, 143)
    bound = {"BATNET_MAX_REQUEUES": "3"}
    world.run("bash", SLURM, *ARGUMENTS, env=job | bound | {"SLURM_RESTART_COUNT": "2"})
    assert len(world.calls("scontrol")) == 1
    status, _, err = world.run(
        "bash", SLURM, *ARGUMENTS, env=job | bound | {"SLURM_RESTART_COUNT": "3"}
    )
    assert (status, len(world.calls("scontrol"))) == (143, 1)
    assert "the same sbatch command resumes" in err


def test_slurm_says_when_it_cannot_requeue(world, job):
    world.plan("main", 143)
    world.program("bin/scontrol", "sys.exit(1)")
    status, _, err = world.run("bash", SLURM, *ARGUMENTS, env=job)
    assert status == 143
    assert "cannot requeue" in err


def test_slurm_cancelled_stays_cancelled(world, job):
    """`scancel` ends main and this shell with the same signal."""
    world.plan("main", 143)
    world.program("bin/srun", "os.kill(os.getppid(), signal.SIGTERM); sys.exit(143)")
    assert world.run("bash", SLURM, *ARGUMENTS, env=job)[0] == -signal.SIGTERM
    assert world.calls("scontrol") == []


def test_slurm_signals_the_steps_and_not_the_script():
    options = re.findall(r"^#SBATCH (.*)$", SLURM.read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append", "--signal=TERM@300"} <= set(options)


def test_slurm_dry_run_calls_nothing(world):
    status, out, _ = world.run("bash", SLURM, "--dry-run", *ARGUMENTS)
    assert status == 0
    assert out.splitlines() == [
        f"srun --kill-on-bad-exit=1 .venv/bin/python -m batnet_jax.main {' '.join(ARGUMENTS[1:])} ",
        "# and if that ends with 143:",
        "scontrol requeue JOB ",
    ]
    assert world.calls("srun") == world.calls("scontrol") == []


def test_slurm_says_what_is_missing(world, job, tmp_path):
    status, _, err = world.run(
        "bash", SLURM, *ARGUMENTS, env=job | {"SLURM_SUBMIT_DIR": str(tmp_path)}
    )
    assert (status, "root: submit from there" in err) == (2, True)
    shutil.rmtree(tmp_path / "repository/.venv")
    status, _, err = world.run("bash", SLURM, *ARGUMENTS, env=job)
    assert (status, "make gpu" in err) == (2, True)


# --- slurm_embed.sbatch --------------------------------------------------------------------------

EMBED = ["--", "--workdir=runs/people", "--images=photos", "--output=gallery"]


@pytest.mark.parametrize(
    ("given", "shard"),
    [
        ({"TASK_ID": "0", "TASK_MIN": "0", "TASK_COUNT": "8"}, "0/8"),
        ({"TASK_ID": "16", "TASK_MIN": "1", "TASK_COUNT": "16"}, "15/16"),
        ({"TASK_ID": "6", "TASK_MIN": "2", "TASK_COUNT": "3", "TASK_STEP": "2"}, "2/3"),
        ({"TASK_ID": "17", "TASK_MIN": "3", "TASK_COUNT": "2"}, "0/2"),
    ],
    ids=["the first", "from 1 on", "in steps", "a few numbers"],
)
def test_a_task_of_an_array_embeds_its_share(world, job, given, shard):
    array = {f"SLURM_ARRAY_{name}": value for name, value in given.items()}
    status, _, err = world.run("bash", SLURM_EMBED, *EMBED, *AWKWARD, env=job | array)
    assert (status, err) == (0, "")
    main = [".venv/bin/python", "-m", "batnet_jax.main", "--mode=embed", f"--shard={shard}"]
    assert world.calls("srun") == [[*main, *EMBED[1:], *AWKWARD]]
    assert world.calls("scontrol") == []
    assert ours(world.environments("srun")[0]) == {}


@pytest.mark.parametrize(
    ("main", "requeues"), [(0, []), (1, []), (2, []), (143, [["requeue", "7"]])]
)
def test_a_task_that_was_stopped_is_requeued(world, job, main, requeues):
    world.plan("main", main, main)
    array = job | {"SLURM_ARRAY_TASK_ID": "0"}
    assert world.run("bash", SLURM_EMBED, *EMBED, env=array)[0] == main
    assert world.calls("scontrol") == requeues
    bound = {"BATNET_MAX_REQUEUES": "3", "SLURM_RESTART_COUNT": "3"}
    status, _, err = world.run("bash", SLURM_EMBED, *EMBED, env=array | bound)
    assert (status, "the same sbatch command continues" in err) == (main, main == 143)
    assert world.calls("scontrol") == requeues


def test_the_dry_run_of_an_array_calls_nothing(world):
    status, out, _ = world.run("bash", SLURM_EMBED, "--dry-run", *EMBED)
    assert status == 0
    assert out.splitlines()[0].startswith("srun .venv/bin/python -m batnet_jax.main --mode=embed")
    assert world.calls("srun") == world.calls("scontrol") == []
    options = re.findall(r"^#SBATCH (.*)$", SLURM_EMBED.read_text(), re.MULTILINE)
    assert {"--array=0-7", "--requeue", "--open-mode=append", "--signal=TERM@60"} <= set(options)


# --- local.sh ------------------------------------------------------------------------------------


@pytest.fixture
def local(world, tmp_path):
    """The script in a repository with a stand-in for .venv."""
    (tmp_path / "repository/launch").mkdir(parents=True)
    shutil.copy(LOCAL, tmp_path / "repository/launch")
    world.program("repository/.venv/bin/python", fake_gcloud.MAIN)
    return tmp_path / "repository/launch/local.sh"


def test_local_makes_the_environment_and_runs_main(world, local):
    status, out, _ = world.run(local, *ARGUMENTS, *AWKWARD)
    assert (status, out) == (0, "the log of main\n")
    assert world.calls("make") == [["--silent", ".venv/.test"]]
    assert world.calls("python")[-1] == ["-m", "batnet_jax.main", *ARGUMENTS[1:], *AWKWARD]
    assert ours(world.environments("python")[-1]) == {}


@pytest.mark.parametrize("main", [1, 2, 143])
def test_local_ends_as_main_does(world, local, main):
    world.plan("main", main)
    assert world.run(local, *ARGUMENTS)[0] == main


def test_local_without_an_environment_says_so(world, local):
    world.plan("make", 1)
    status, _, err = world.run(local, *ARGUMENTS)
    assert (status, "cannot make .venv" in err) == (2, True)


def test_local_devices_are_fake(world, local):
    assert world.run(local, "--devices=4", *ARGUMENTS, env={"XLA_FLAGS": "--a"})[0] == 0
    assert ours(world.environments("python")[-1]) == {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--a --xla_force_host_platform_device_count=4",
    }


def test_local_processes_know_each_other(world, local):
    status, out, err = world.run(local, "--processes=3", "--port=999", *ARGUMENTS, *AWKWARD)
    assert (status, out) == (0, "the log of main\n")
    envs = sorted(map(ours, world.environments("python")), key=lambda env: env["BATNET_PROCESS_ID"])
    assert envs == [
        {
            "JAX_PLATFORMS": "cpu",
            "BATNET_DISTRIBUTED": "1",
            "BATNET_COORDINATOR": "localhost:999",
            "BATNET_NUM_PROCESSES": "3",
            "BATNET_PROCESS_ID": str(number),
        }
        for number in range(3)
    ]
    assert world.calls("python") == [["-m", "batnet_jax.main", *ARGUMENTS[1:], *AWKWARD]] * 3
    (logs,) = re.findall(r"\S+/process_\*\.log", err)
    written = sorted(Path(logs).parent.glob("*.log"))
    assert [path.read_text() for path in written] == ["the log of main\n"] * 2


def test_local_failure_stops_the_other_processes(world, local):
    world.plan("main", "sleep", 3)
    start = time.monotonic()
    assert world.run(local, "--processes=2", *ARGUMENTS)[0] in (3, 143)
    assert time.monotonic() - start < 30  # half of what the other would have slept


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_local_interruption_stops_all_processes(world, local, number, expected):
    world.plan("main", "sleep", "sleep")
    process = world.start(local, "--processes=2", *ARGUMENTS)
    wait_for(lambda: len(world.pids()) == 2)
    pids = world.pids()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == expected
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_local_stops_a_process_that_has_just_begun(world, local):
    """The signal comes before the script's next line."""
    begin = '    "$@" &\n'
    text = local.read_text()
    assert text.count(begin) == 1
    local.write_text(text.replace(begin, f"{begin}    kill -TERM $$\n"))
    world.plan("main", "sleep")
    assert (
        world.run(local, "--processes=2", *ARGUMENTS)[0] == 143
    )  # a reader of stderr waits for all
    assert [pid for pid in world.pids() if Path(f"/proc/{pid}").exists()] == []


def test_local_dry_run_calls_nothing(world, local):
    status, out, _ = world.run(local, "--processes=2", "--devices=2", "--dry-run", *ARGUMENTS)
    lines = out.splitlines()
    assert (status, lines[0]) == (0, "make --silent .venv/.test ")
    assert [f"BATNET_PROCESS_ID={n} .venv/bin/python -m" in lines[n + 1] for n in (0, 1)] == [
        True
    ] * 2
    assert world.calls("make") == world.calls("python") == []
