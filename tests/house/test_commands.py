"""The commands in the documents: each is understood by its program, and the long test runs them.

A command is a line of a fenced block that begins with one of the programs below, or such code
within a sentence. Those of other projects (gcloud, pip, sbatch) are not ours to run; `launch/` has
tests of its own that do so with stand-ins.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from support import needs
from support.paths import PAGES, ROOT
from support.run_main import SMALL

from batnet_jax.commands.config_files import config_names
from batnet_jax.commands.table import MODES

INLINE = re.compile(r"`((?:python|make|batnet) [^`]+)`")
MAIN = ("python -m batnet_jax.main ", "batnet ")
BENCHMARK = (".venv/bin/python benchmarks/", "python benchmarks/")
LAUNCH = ("launch/tpu_vm.sh", "launch/local.sh")


def commands(*programs):
    """(page, command) of all that begin so: continued lines joined, what is optional left out."""
    found = []
    for page in PAGES:
        blocks, text = split(page.read_text())
        lines = blocks.replace("\\\n", " ").splitlines()
        lines += [" ".join(code.split()) for code in INLINE.findall(text)]
        for line in lines:
            line = re.sub(r"^(BATNET_\w+=\S+ +)+", "", line.strip())
            line = re.sub(r" *\[[^]]*\]|;$|  +#.*", "", line).strip()
            is_name = line.removeprefix("batnet ") in MODES  # `batnet eval` in a sentence
            if line.startswith(programs) and not is_name:
                found.append((page.name, line))
    return list(dict.fromkeys(found))


def split(text):
    """What stands in fenced blocks other than Python's, and what outside all of them."""
    inside, outside, language = [], [], None
    for line in text.splitlines():
        if line.strip().startswith("```"):
            language = line.strip()[3:] if language is None else None
        elif language is None:
            outside.append(line)
        elif language != "python":
            inside.append(line)
    return "\n".join(inside), "\n".join(outside)


def arguments(command):
    """What follows the program's name, of a command of the main job."""
    words = shlex.split(command)
    return words[3:] if words[0] == "python" else words[1:]


PARSE = """
import contextlib, io, json, os, sys
from batnet_jax.commands import command_line, pages
from batnet_jax.commands.words import to_flags
from batnet_jax.config import default_config
from batnet_jax.inference import saved_settings
from batnet_jax.runtime import download
download.fetch = lambda *_, **__: True
read = saved_settings.read_config
saved_settings.read_config = lambda path: (  # of a run that is not there
    default_config() if path.parts[0] == "runs" else read(path)
)
for number, words in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                is_page = pages.show(["main", *words])
            if not is_page:
                sys.argv = to_flags(["main", *words])
                command_line.parse(sys.argv)
        except BaseException as error:
            print(f"{number} {type(error).__name__}: {error}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_the_main_job_knows_its_commands(tmp_path):
    """Every flag, every field, every config."""
    found = [
        c for _, c in commands(*MAIN) if not {"...", "<"} & set(c.split("=")) and "..." not in c
    ]
    assert len(found) > 20
    words = [arguments(command.replace("$t", "5")) for command in found]
    words = [w for w in words if w[0] != "completion"]  # argcomplete may be missing here
    words = [w for w in words if w[:3] != ["weights", "get", "NAME"]]
    wrong = ["train", "--config=demo", "--config.model.no_such_field=1"]
    os.symlink(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "people").mkdir()
    (tmp_path / "people.csv").touch()
    if importlib.util.find_spec("torch"):
        write_osnets(tmp_path)
    else:
        words = [w for w in words if not any(".pth" in word for word in w)]
    done = subprocess.run(
        [sys.executable, "-c", PARSE], input=json.dumps([*words, wrong]), text=True,
        capture_output=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in said] == [str(len(words))], "\n".join(said)
    assert "no_such_field" in said[0]


def test_benchmarks_know_their_options():
    found = commands(*BENCHMARK)
    assert len(found) > 8
    for page, command in found:
        _, script, *words = shlex.split(command)
        text = (ROOT / script).read_text()
        for word in words:
            if word.startswith("--") and not word.startswith("--config"):
                name = word.split("=")[0].lstrip("-")
                known = f'"--{name}"' in text or f'"{name}"' in text
                assert known, f"{page}: {command}: --{name}"


def test_make_knows_its_targets():
    found = commands("make ")
    assert len(found) > 5
    make = needs.program("make")
    for page, command in found:
        words = [word for word in shlex.split(command) if word != "-n"]
        done = subprocess.run(
            [make, "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{page}: {command}: {done.stderr}"


def test_launch_scripts_show_what_they_would_do():
    found = [c for c in commands(*LAUNCH) if "..." not in c[1]]
    assert len(found) > 5
    bash = needs.program("bash")
    for page, command in found:
        before, dashes, after = command.partition(" -- ")
        words = shlex.split(f"{before} --dry-run{dashes}{after}")
        words[0] = str(ROOT / words[0])
        done = subprocess.run(
            [bash, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{page}: {command}: {done.stderr}"


def small(config):
    """Overrides that make a config's run a matter of seconds."""
    more = [*SMALL, "--config.steps=2", "--config.eval.batch=16", "--config.decay_epochs=(1,)"]
    if "folder" in config:
        return [word for word in more if not word.startswith("--config.data.variant")]
    data = ["--config.data.dataset=pedestrians", "--config.data.val_identities=0"]
    return [*more, *data]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the documents take for granted: runs, images, weights."""
    needs.package("torch")  # the documents' weights are PyTorch's
    place = tmp_path_factory.mktemp("commands")
    for name in ("configs", "benchmarks", "launch"):
        os.symlink(ROOT / name, place / name)
    rng = np.random.default_rng(0)
    for person in "ann", "bob", "cay", "dan", "eve", "fay", "gus", "hal":
        for number in range(1, 9):
            path = place / "people" / person / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 32, 3), dtype=np.uint8)).save(path)
    shutil.copytree(place / "people", place / "photos")
    shutil.copy(place / "people" / "ann" / "1.jpg", place / "me.jpg")
    (place / "docs" / "images").mkdir(parents=True)
    for name in ("demo", "market1501"):
        run(place, f"python -m batnet_jax.main --config=configs/{name}.py")
    for name in ("msmt17", "a", "b", "c"):
        shutil.copytree(place / "runs" / "market1501", place / "runs" / name)
    export = "python -m batnet_jax.main --mode=export --config=configs/market1501.py"
    run(place, f"{export} --output=F.pth")
    shutil.copy(place / "F.pth", place / "inceptionV1_bn_noModule.pth.tar")
    write_resnet(place / "resnet50.pth")
    write_osnets(place)
    for name in ("gallery.npz", "photos.npz"):
        embed = "python -m batnet_jax.main --mode=embed --workdir=runs/demo"
        run(place, f"{embed} --images=photos --output={name}")
    for path in place.glob("F.pth"):
        path.rename(place / "theirs.pth")
    return place


def write_resnet(path):
    """torchvision's file, as wide as `SMALL` says."""
    import torch
    from support import torch_resnet

    torch.save(torch_resnet.TorchResNet50(width=1 / 16, classes=10).state_dict(), path)


def write_osnets(place):
    """Torchreid's files, as wide as `SMALL` says."""
    import torch
    from torch_osnet import TorchOSNet

    state = TorchOSNet(width=1 / 16, classes=10).state_dict()
    for trained_on in ("imagenet", "msmt17"):
        torch.save(state, place / f"osnet_x1_0_{trained_on}.pth")


def run(place, command, until=None):
    """Runs a command of the main job, small; `until`: ends it once it has said that."""
    words = arguments(command)
    config = next((w for w in words if w.startswith("--config=")), "")
    config = config or ("folder" if words[0] == "train" else "")
    more = small(config) if config else []
    if "--mode=tables" in words:
        more += ["--config.eval.every_epochs=0", "--seeds=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "batnet_jax.main", *words, *more], cwd=place, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if until:
        said, end = "", time.monotonic() + 120
        while until not in said and process.poll() is None and time.monotonic() < end:
            said += process.stdout.readline()
        process.kill()
        process.communicate()
        assert until in said
        return
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, f"{command}\n{output[-3000:]}"


RUNS = [
    (page, command)
    for page, command in commands(*MAIN)
    if "..." not in command
    and not re.search(
        r"gs://|DIR/|<|--processes|\b[A-Z]{3,}\b|batnet (metrics|plan|weights)|completion", command
    )
]
"""The commands that the long test runs; a word in capitals stands for another.

tests/modes/test_metrics.py has the files of `batnet metrics`; `batnet plan` wants libtpu, and
`batnet weights` the network.
"""


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), RUNS, ids=[f"{p}: {c}" for p, c in RUNS])
def test_the_main_job_runs_its_commands(place, page, command):
    words = shlex.split(command)
    if "F.pth" in command:
        shutil.copy(place / "theirs.pth", place / "F.pth")
        shutil.rmtree(place / "runs" / "theirs", ignore_errors=True)
    elif words[1] in ("embed", "export"):
        (place / words[-1]).unlink(missing_ok=True)
    if "--config.init.from" in command:
        begun = re.search(r"configs/(\w+)\.py|train (\w+)", command)
        command += f" --workdir=runs/begun_{begun[1] or begun[2]}"
    if "--config.model" in command and "--workdir" not in command and "import" not in command:
        command += " --workdir=runs/other"
    run(place, command.replace("$t", "5"), until="http://" if "batnet serve" in command else None)


SMALLER = {
    "baselines.py": small("folder"),
    "bench.py": ["--quick", "--only", "images"],
    "bi_attention.py": ["--batch=2", "--reductions", "16", "--repeats=1", "--ways", "ours"],
    "embed_processes.py": ["--images=64", "--shard_images=8", "--processes=1"],
    "evaluator.py": ["--sizes", "64", "--only", "ours"],
    "evaluator_gpu.py": ["--size=64", "--repeats=1"],
    "host_overhead.py": [*small("demo"), "--windows=2", "--window_steps=2"],
    "input_pipeline.py": ["--images=32", "--repeats=1", "--workers=1"],
    "mask_on_person.py": ["--images=8"],
    "pedestrian_sheet.py": ["sheet.png"],
    "precision.py": ["--seeds=1", "--", *small("demo")],
    "serve_load.py": ["--searches=8", "--at_once=4"],
    "train_step.py": ["--quick", "--device=cpu", "--dtype=float32", "--only", "ours"],
}
"""What makes a benchmark small. The last of two values counts."""
BENCHMARKS = [
    c for _, c in commands(*BENCHMARK) if c.split()[1].removeprefix("benchmarks/") in SMALLER
]


@pytest.mark.slow
@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmarks_run(place, command):
    # A GPU, peers and lists are not everywhere; `n` stands for a number.
    gone = ["--peers DIR", "--lists MSMT17_V1", "--accumulate n"]
    if importlib.util.find_spec("matplotlib") is None:
        gone.append("--plot docs/images/evaluator.png")
    for left_out in gone:
        command = command.replace(left_out, "")
    _, script, *words = shlex.split(command)
    if workdir := re.search(r"--workdir=(\S+)", command):
        write_evaluation(place / workdir[1])
    done = subprocess.run(
        [sys.executable, script, *words, *SMALLER[script.split("/")[1]]],
        cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def write_evaluation(workdir):
    """What a run there would have left of its last evaluation, unless one has."""
    if not list(workdir.glob("eval/step_*.json")):
        (workdir / "eval").mkdir(parents=True)
        result = {"step": 2, "mAP": 0.5, "cmc": {"1": 0.5}}
        (workdir / "eval" / "step_2.json").write_text(json.dumps(result))


def test_all_benchmarks_in_the_documents_are_run():
    known = SMALLER.keys() | {"rerank.py", "search.py", "export.py", "convolution.py", "kernels.py"}
    # They want the plugin for CUDA, and libtpu.
    known |= {"gpu_program.py", "tpu_program.py", "tpu_count.py"}
    # They want a trained run, or minutes.
    known |= {"rounded_products.py", "vit.py", "boxes.py", "deployed.py"}
    known |= {"evaluator_shards.py"}  # many minutes, and 10 GB of disk
    known |= {"indices.py"}  # hours; tests/house/test_indices_table.py has its table
    known |= {"experiments.py"}  # hours; tests/house/test_experiments.py has its tables
    assert {c.split()[1].removeprefix("benchmarks/") for _, c in commands(*BENCHMARK)} <= known


def test_configs_are_known_by_name():
    named = {name for page, c in commands(*MAIN) for name in re.findall(r"--config=(\w+)$", c)}
    assert named <= set(config_names())
