"""Does bfloat16 train as well as float32? The final mAP of both, over seeds.

    python benchmarks/precision.py --config configs/demo.py [--seeds 3] [--jobs 1]
        [--dir runs/precision] [-- --config.FIELD=VALUE ...]

The script runs the main program for each seed and type, --jobs side by side, in workdirs below
--dir. A run that was ended goes on, and a finished run is not repeated. The script prints mAP and
Rank-1 of each run, the means, the spread over the seeds (the sample's standard deviation), and the
difference of the means with its standard error.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TYPES = ("float32", "bfloat16")


def train(config: str, workdir: Path, seed: int, dtype: str, more: list[str]) -> dict[str, float]:
    """The last evaluation of a run."""
    command = [sys.executable, "-m", "batnet_jax.main", f"--config={config}"]
    command += [f"--workdir={workdir}", f"--config.seed={seed}", f"--config.model.dtype={dtype}"]
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_suffix(".txt").open("w") as log:
        done = subprocess.run([*command, *more], stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"error: see '{workdir.with_suffix('.txt')}'")
    results = sorted((workdir / "eval").glob("step_*.json"), key=lambda p: int(p.stem[5:]))
    print(f"{workdir.name}: done", file=sys.stderr, flush=True)
    return json.loads(results[-1].read_text())


def main() -> None:
    """Trains, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path("runs/precision"))
    parser.add_argument("more", nargs="*", help="further arguments of the main job, after --")
    args = parser.parse_args()
    runs = list(itertools.product(TYPES, range(args.seeds)))
    with ThreadPoolExecutor(args.jobs) as pool:
        waiting = [
            pool.submit(train, args.config, args.dir / f"{dtype}-{seed}", seed, dtype, args.more)
            for dtype, seed in runs
        ]
        found = {run: job.result() for run, job in zip(runs, waiting, strict=True)}
    print_table(found, range(args.seeds))


def print_table(found: dict[tuple[str, int], dict[str, Any]], seeds: range) -> None:
    """A row a seed, then the mean, the spread, and how far the means lie apart."""
    columns = list(itertools.product(("mAP", "Rank-1"), TYPES))
    values = {
        (figure, dtype): [
            result["mAP"] if figure == "mAP" else result["cmc"]["1"]
            for result in (found[dtype, seed] for seed in seeds)
        ]
        for figure, dtype in columns
    }
    print("| seed | " + " | ".join(f"{figure}, {dtype}" for figure, dtype in columns) + " |")
    print("|---" + "|---:" * len(columns) + "|")
    rows = {str(seed): [values[c][i] for c in columns] for i, seed in enumerate(seeds)}
    rows["mean"] = [statistics.mean(values[c]) for c in columns]
    if len(seeds) > 1:
        rows["spread"] = [statistics.stdev(values[c]) for c in columns]
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    if len(seeds) > 1:
        for figure in ("mAP", "Rank-1"):
            wide, narrow = (values[figure, dtype] for dtype in TYPES)
            apart = statistics.mean(narrow) - statistics.mean(wide)
            error = ((statistics.variance(wide) + statistics.variance(narrow)) / len(seeds)) ** 0.5
            print(f"{figure}: bfloat16 - float32 = {apart:+.3f}, standard error {error:.3f}")


if __name__ == "__main__":
    main()
