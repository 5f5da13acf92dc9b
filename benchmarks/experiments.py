"""Run the experiments of experiment_list.py over seeds, and print their tables.

    python benchmarks/experiments.py run NAME [--arms A,B] [--seeds 0-9] [--jobs 2]
        [--dir runs/experiments] [--files DIR] [--keep-runs]
    python benchmarks/experiments.py tables [NAME ...]
    python benchmarks/experiments.py write

`run` starts the main program for each arm and seed that has no result yet. A run that was ended
goes on. Some experiments read images and weights that are not in the repository from the folder of
--files. A finished run leaves a small JSON file in docs/results/NAME/, and its workdir is removed.
With --jobs 2 two runs share the machine, and each has half of the cores. `tables` prints the tables
of the results. `write` puts them into docs/results.md and docs/training.md.

A table has a row an arm: mean and standard deviation (n - 1) over the seeds, and the difference to
the first arm, paired by seed, with the 95 % interval of Student's t.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiment_list import EXPERIMENTS, Experiment
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "docs" / name for name in ("results.md", "training.md")]
LOSSES = 40  # losses kept of a run, each the mean of a stretch of the log


def arguments(experiment: Experiment, arm: str, seed: int, files: str = "FILES") -> list[str]:
    """Return the settings of a run as arguments of the main program."""
    settings = experiment.settings | experiment.arms[arm] | {"seed": seed}
    settings.pop("devices", None)
    return [f"--config=configs/{experiment.config}.py"] + [
        f"--config.{name}={value}".replace("=FILES/", f"={files}/")
        for name, value in settings.items()
    ]


def reads_files(experiment: Experiment) -> bool:
    """Return whether runs of the experiment read the folder of --files."""
    return "FILES/" in str((experiment.settings, experiment.arms))


def train(name: str, arm: str, seed: int, folder: Path, files: str, cores: set[int]) -> None:
    """Train and evaluate one run on some cores, or go on with it.

    Raises: SystemExit if the main program fails.
    """
    experiment = EXPERIMENTS[name]
    workdir = folder / name / f"{arm}-{seed}"
    workdir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "batnet_jax.main", *arguments(experiment, arm, seed, files)]
    devices = (experiment.settings | experiment.arms[arm]).get("devices", 1)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "XLA_FLAGS": flags.strip(),
        "JAX_COMPILATION_CACHE_DIR": str((folder / "compiled").absolute()),
    }
    began = time.monotonic()
    with workdir.with_suffix(".txt").open("w") as log:
        done = subprocess.run(
            [*command, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    if done.returncode:
        raise SystemExit(f"error: {name}, {arm}, seed {seed}: see '{workdir.with_suffix('.txt')}'")
    found = {
        "experiment": name,
        "arm": arm,
        "seed": seed,
        "command": " ".join(["python -m batnet_jax.main", *arguments(experiment, arm, seed)]),
        "devices": devices,
        **read_run(workdir),
        "seconds": round(time.monotonic() - began),
        "cores": len(cores),
        "machine": processor(),
        "versions": {package: version(package) for package in ("batnet-jax", "jax", "jaxlib")},
    }
    path = RESULTS / name / f"{arm}-{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def read_run(workdir: Path) -> dict[str, Any]:
    """Return the figures at the end, the figures while training, and the losses of a run."""
    curve = []
    for path in sorted((workdir / "eval").glob("step_*.json"), key=lambda p: int(p.stem[5:])):
        figures = json.loads(path.read_text())
        curve.append([int(path.stem[5:]), round(figures["mAP"], 5), round(figures["cmc"]["1"], 5)])
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    stretch = -(-len(losses) // LOSSES)
    parts = [losses[i : i + stretch] for i in range(0, len(losses), stretch)]
    return {
        "steps": curve[-1][0],
        "mAP": curve[-1][1],
        "Rank-1": curve[-1][2],
        "curve": curve,
        "losses": [[part[-1][0], round(statistics.fmean(v for _, v in part), 4)] for part in parts],
    }


def processor() -> str:
    """Return the processor's name and the number of its cores here."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores"


def run(
    name: str,
    arms: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    folder: Path,
    keep: bool,
    files: str = "FILES",
) -> None:
    """Train every run of an experiment that has no result, seed by seed, `jobs` side by side."""
    missing = [
        (arm, seed)
        for seed in seeds
        for arm in arms
        if not (RESULTS / name / f"{arm}-{seed}.json").exists()
    ]
    everything = sorted(os.sched_getaffinity(0))
    share = max(1, len(everything) // jobs)
    free = [set(everything[i * share : (i + 1) * share]) or set(everything) for i in range(jobs)]

    def one(arm: str, seed: int) -> None:
        cores = free.pop()
        try:
            train(name, arm, seed, folder, files, cores)
        finally:
            free.append(cores)
        if not keep:
            shutil.rmtree(folder / name / f"{arm}-{seed}")
        print(f"{name}: {arm}, seed {seed}: done", flush=True)

    print(f"{name}: {len(missing)} runs, in '{folder / name}'", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for job in [pool.submit(one, arm, seed) for arm, seed in missing]:
            job.result()


def read_results(name: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results of an experiment by arm and seed, those of other experiments first."""
    experiment = EXPERIMENTS[name]
    places = dict(experiment.elsewhere) | {arm: (name, arm) for arm in experiment.arms}
    return {arm: read_arm(*place) for arm, place in places.items()}


def read_arm(name: str, arm: str) -> dict[int, dict[str, Any]]:
    """Return the results of an arm by seed."""
    paths = (RESULTS / name).glob(f"{arm}-*.json")
    return {run["seed"]: run for run in (json.loads(path.read_text()) for path in sorted(paths))}


def paired_difference(ours: dict[int, float], other: dict[int, float]) -> tuple[float, float, int]:
    """Return the mean difference over the common seeds, half its 95 % interval, and their number.

    The interval is Student's, of the differences of a seed; it is NaN for fewer than two seeds.
    """
    seeds = sorted(ours.keys() & other.keys())
    differences = [ours[seed] - other[seed] for seed in seeds]
    if len(seeds) < 2:
        return (differences[0] if seeds else float("nan")), float("nan"), len(seeds)
    error = statistics.stdev(differences) / len(seeds) ** 0.5
    return statistics.fmean(differences), stats.t.ppf(0.975, len(seeds) - 1) * error, len(seeds)


def mean_and_spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation as text."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def table(name: str) -> str:
    """Return an experiment's table as Markdown, with the command and the machine below it."""
    experiment, found = EXPERIMENTS[name], read_results(name)
    found = {arm: runs for arm, runs in found.items() if runs}
    if not found.keys() & experiment.arms.keys():
        return f"No run of `{name}` has finished yet."
    first = next(iter(found))
    head = ["", "runs", "mAP", "Rank-1", "lowest Rank-1", f"mAP minus `{first}`", "95 % interval"]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for arm, runs in found.items():
        values = {k: {seed: run[k] for seed, run in runs.items()} for k in ("mAP", "Rank-1")}
        cells = [f"`{arm}`", str(len(runs))]
        cells += [mean_and_spread(list(values[k].values())) for k in ("mAP", "Rank-1")]
        cells.append(f"{min(values['Rank-1'].values()):.3f}")
        if arm == first:
            cells += ["", ""]
        else:
            base = {seed: run["mAP"] for seed, run in found[first].items()}
            mean, half, pairs = paired_difference(values["mAP"], base)
            cells.append(f"{mean:+.3f}" if pairs else "no common seed")
            cells.append(f"{mean - half:+.3f} to {mean + half:+.3f}" if pairs > 1 else "-")
        lines.append(f"| {' | '.join(cells)} |")
    runs = [run for of_arm in found.values() for run in of_arm.values()]
    machines = ", ".join(sorted({run["machine"] for run in runs}))
    steps = ", ".join(map(str, sorted({run["steps"] for run in runs})))
    lines += ["", f"{experiment.question} {steps} steps; {machines}.", ""]
    files = " --files FILES" if reads_files(experiment) else ""
    lines += ["```", f"python benchmarks/experiments.py run {name}{files}", "```"]
    return "\n".join(lines)


def write() -> None:
    """Replace the tables in the pages, which stand between comments that name them."""
    for page in PAGES:
        text = page.read_text()
        for name in EXPERIMENTS:
            pattern = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
            text = re.sub(pattern, lambda m, n=name: m[1] + table(n) + m[2], text, flags=re.DOTALL)
        page.write_text(text)


def numbers(text: str) -> list[int]:
    """Return the numbers of `0-9` or `0,3,5`."""
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(n) for n in text.split(",")]


def main() -> None:
    """Run or print what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="train what has no result yet")
    one.add_argument("name", choices=EXPERIMENTS)
    one.add_argument("--arms", help="some of its arms, with commas; default all")
    one.add_argument("--seeds", help="as in 0-9 or 0,3; default the experiment's")
    one.add_argument("--jobs", type=int, default=1)
    one.add_argument("--dir", type=Path, default=Path("runs/experiments"))
    one.add_argument("--files", type=Path, help="the folder of images and weights from elsewhere")
    one.add_argument("--keep-runs", action="store_true", help="do not remove finished workdirs")
    some = commands.add_parser("tables", help="print tables")
    some.add_argument("names", nargs="*", default=list(EXPERIMENTS))
    commands.add_parser("write", help="put the tables into the pages of docs/")
    args = parser.parse_args()
    if args.command == "run":
        experiment = EXPERIMENTS[args.name]
        arms = args.arms.split(",") if args.arms else list(experiment.arms)
        seeds = numbers(args.seeds) if args.seeds else list(range(experiment.seeds))
        if reads_files(experiment) and not (args.files and args.files.is_dir()):
            parser.error(f"{args.name} needs --files DIR, the folder of its images and weights")
        files = str(args.files.resolve()) if args.files else "FILES"
        run(args.name, arms, seeds, args.jobs, args.dir.resolve(), args.keep_runs, files)
    elif args.command == "tables":
        print("\n\n".join(f"## {name}\n\n{table(name)}" for name in args.names))
    else:
        write()


if __name__ == "__main__":
    main()
