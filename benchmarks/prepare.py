"""What preparing a data set costs: time and memory against the number of images.

    python benchmarks/prepare.py [--images 8000 32000 126000] [--bytes 10000] [--dir DIR]

The script writes trees in Market-1501's layout into a temporary folder, one size after the other. A
tree needs twice images x bytes of disk. Each tree is prepared in its own process, and a Markdown
table is printed. The images have 128 x 64 pixels, and padding after their end up to --bytes. Memory
is the peak of the process's resident memory; the last column subtracts the memory of the imports.
`docs/data.md` shows the table.
"""

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

SHARES = {"bounding_box_train": 0.4, "query": 0.1, "bounding_box_test": 0.5}
PER_PERSON = 16
PICTURES = 64
"""Different ones to decode; the rest of the bytes tells the files apart."""

CHILD = """
import json, re, sys, time
from batnet_jax.data import load_dataset

def peak():  # of resident memory, in KiB; getrusage would count the parent's too
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1])

imports = peak()
start = time.perf_counter()
load_dataset("market1501", data_dir=sys.argv[1], manual_dir=sys.argv[2])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "imports": imports, "peak": peak()}))
"""


@functools.cache
def picture(number: int) -> bytes:
    """A JPEG file of smooth noise, 128 x 64 pixels, some 5 kB."""
    noise = np.random.default_rng(number).integers(0, 256, (128, 64, 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return cv2.imencode(".jpg", cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX))[1].tobytes()


def make_image(number: int, size: int) -> bytes:
    """A JPEG file of `size` bytes, or as few more as it needs, unlike that of any other number."""
    encoded = picture(number % PICTURES) + b"%09d" % number
    return encoded + bytes(max(size - len(encoded), 0))


def write_tree(root: Path, images: int, size: int) -> int:
    """Writes a tree in Market-1501's layout; returns the number of images in it."""
    number = 0
    for folder, share in SHARES.items():
        (root / folder).mkdir(parents=True)
        for _ in range(round(share * images)):
            pid, shot = 1 + number // PER_PERSON, number % PER_PERSON
            name = f"{pid:05}_c{1 + shot % 6}s1_{shot:06}_00.jpg"
            (root / folder / name).write_bytes(make_image(number, size))
            number += 1
    return number


def prepare(data: Path, tree: Path) -> dict:
    """Prepares in a process of its own; returns seconds, and KiB of memory."""
    command = [sys.executable, "-c", CHILD, str(data), str(tree)]
    home = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": home}
    )
    return json.loads(done.stdout)


def machine() -> str:
    """The processor, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def run(argv: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[8_000, 32_000, 126_000])
    parser.add_argument("--bytes", type=int, default=10_000, help="of one image file")
    parser.add_argument("--dir", help="where to put the trees; the system's folder for such")
    options = parser.parse_args(argv)
    print(f"\n{machine()}; files of {options.bytes:,} bytes\n")
    print("| images | seconds | images/s | peak memory, MiB | of it over the imports, MiB |")
    print("|---:|---:|---:|---:|---:|")
    for images in options.images:
        if options.dir:
            Path(options.dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            number = write_tree(Path(folder) / "tree", images, options.bytes)
            cost = prepare(Path(folder) / "data", Path(folder) / "tree")
        numbers = (f"{number:,}", f"{cost['seconds']:.1f}", f"{number / cost['seconds']:,.0f}")
        memory = (f"{cost['peak'] / 1024:.0f}", f"{(cost['peak'] - cost['imports']) / 1024:.0f}")
        print(f"| {' | '.join(numbers + memory)} |", flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])
