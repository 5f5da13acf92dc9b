"""How fast one, two and four processes embed one list of images into a folder of shards.

    python benchmarks/embed_processes.py --workdir runs/demo
        [--images 2048] [--shard_images 64] [--processes 1,2,4] [--cores 0] [--seed 0]

The images are JPEGs of 256 x 128 pixels with other colours. The processes do not know each other:
each has `--shard=I/N`, as the tasks of a Slurm array have. The rate is that of all processes
together, from the time at which each has written a shard, so it leaves out imports and compilation.
With `--cores=C` each process has C cores of its own; 0 = they share all cores, which one process
uses as well.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serve_load import draw_query

from batnet_jax.inference.shards import MANIFEST, on_disk, read_plan


def start(arguments: argparse.Namespace, folder: Path, number: int, count: int) -> subprocess.Popen:
    """Start process `number` of `count`."""
    command = [
        *(sys.executable, "-m", "batnet_jax.main", "--mode=embed"),
        *(f"--workdir={arguments.workdir}", f"--images={folder / 'images'}"),
        *(f"--output={folder / str(count)}", f"--shard={number}/{count}"),
        f"--shard_images={arguments.shard_images}",
    ]
    if arguments.cores:
        first = number * arguments.cores
        command = ["taskset", "-c", f"{first}-{first + arguments.cores - 1}", *command]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(arguments: argparse.Namespace, folder: Path, count: int) -> float:
    """Return the images a second of `count` processes."""
    output = folder / str(count)
    processes = [start(arguments, folder, number, count) for number in range(count)]
    seen: dict[int, float] = {}
    begin, before = 0.0, 0
    while any(process.poll() is None for process in processes):
        there = on_disk(output) if output.exists() else set()
        now = time.perf_counter()
        seen |= {shard: now for shard in there - seen.keys()}
        if not begin and {shard % count for shard in there} == set(range(count)):
            begin, before = now, len(there)
        time.sleep(0.01)
    if any(process.returncode for process in processes) or not (output / MANIFEST).exists():
        raise SystemExit(f"{count} processes have not ended well")
    shards = read_plan(output).shards
    return (shards - before) * arguments.shard_images / (max(seen.values()) - begin)


def main() -> None:
    """Draw the images; print a row for each number of processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--shard_images", type=int, default=64)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--cores", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for number in range(arguments.images):
            path = folder / "images" / f"{number:06}.jpg"
            path.write_bytes(draw_query(arguments.seed, number))
        first = None
        print(f"{os.cpu_count()} cores\n| processes | images/s | to one |\n|---:|---:|---:|")
        for count in map(int, arguments.processes.split(",")):
            rate = measure(arguments, folder, count)
            first = first or rate
            print(f"| {count} | {rate:.0f} | {rate / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
