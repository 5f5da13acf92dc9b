"""The load that the search page bears: one client on this machine sends many searches at once.

    pip install -e '.[serve]'
    python benchmarks/serve_load.py --workdir runs/demo --gallery photos.npz
        [--searches 200] [--at_once 32] [--seed 0]

The server runs in a process of its own. Each search is a JPEG of 256 x 128 pixels with other
colours. The script prints the machine, how many searches were answered, the median and the 99th
percentile of the time from sending to the whole answer, and the server's peak of resident memory,
before the searches and with them. It ends with status 1 if a search was lost.
"""

import argparse
import concurrent.futures
import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 256, 128
"""Height and width of a query in pixels."""
TIMEOUT = 120


def draw_query(seed: int, number: int) -> bytes:
    """Draw an image of smooth colours."""
    rng = np.random.default_rng([seed, number])
    coarse = Image.fromarray(rng.integers(0, 256, (8, 4, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def search(address: str, image: bytes) -> float | None:
    """Search an image; return the seconds, or None if there is no list."""
    request = urllib.request.Request(
        f"{address}/search?top=10", image, {"Content-Type": "image/jpeg"}
    )
    start = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            found = b'"hits"' in answer.read()
    except (urllib.error.URLError, OSError) as error:
        print(f"lost: {error}", file=sys.stderr)
        return None
    return time.perf_counter() - start if found else None


def peak_mib(pid: int) -> float:
    """Return the peak of a process's resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def machine() -> str:
    """Return the CPU's name and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown CPU'}, {len(os.sched_getaffinity(0))} cores"


def main() -> int:
    """Start the server, search, stop it, print the figures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="the run that embeds the queries")
    parser.add_argument("--gallery", required=True, help="what embed wrote, or a folder of images")
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--at_once", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of the queries' colours")
    args = parser.parse_args()
    command = [sys.executable, "-m", "batnet_jax.main", "--mode=serve", "--port=0"]
    command += [f"--workdir={args.workdir}", f"--gallery={args.gallery}"]
    queries = [draw_query(args.seed, number) for number in range(args.searches)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            address = re.search(r"http://[^/ ]+", line)
            if address is None:
                return 1
            before = peak_mib(server.pid)
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(args.at_once) as threads:
                found = list(threads.map(lambda image: search(address[0], image), queries))
            seconds = time.perf_counter() - start
            peak = peak_mib(server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
    answered = [time for time in found if time is not None]
    middle, late = np.percentile(answered, (50, 99)) if answered else (np.nan, np.nan)
    print(f"{machine()}; {line.partition(';')[0]}; {args.at_once} searches at once")
    print("| answered | p50, s | p99, s | searches/s | MiB before | peak MiB |")
    print("|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {len(answered)} of {len(found)} | {middle:.2f} | {late:.2f} |"
        f" {len(answered) / seconds:.1f} | {before:.0f} | {peak:.0f} |"
    )
    return 0 if len(answered) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
