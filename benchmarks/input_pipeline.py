"""How fast images come: ours against PyTorch's DataLoader, on the same files in the same run.

    pip install torch
    python benchmarks/input_pipeline.py [--images 4000] [--workers 2] [--repeats 3] [--dir DIR]

The script writes JPEG files of Market-1501's and MSMT17's sizes into a temporary folder, and
prepares them as the data set `folder`. Each contestant reads all images in shuffled order, in
batches of 64, resized to 256 x 128. Each measurement runs in its own process, and imports are not
timed. The contestants take turns, and the best of the repeats counts. Two Markdown tables are
printed for each size. They show images per second, and images per second of processor time, over
all processes of a contestant. If other programs run on the machine, the second table tells more.

The DataLoaders keep their processes between epochs. PyTorch offers no cache, so their later epochs
decode again.
* Pillow: Torchreid and FastReID read images in this way. Images are normalised float32, channels
  first.
* OpenCV: the fastest way that we know of. Images are resized in place, and stay bytes.

Ours:
* memory: the first epoch decodes, later ones are read from memory.
* disk, filled: the first epoch decodes and writes the cache on disk.
* disk, another run: a later run reads the cache of the same images; its first epoch compares
  checksums.
* device: as memory; the time ends when the last batch is on JAX's device.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

BATCH = 64
SIZE = (256, 128)
EPOCHS = 3
PER_PERSON = 16
CASES = {"Market-1501": (128, 64), "MSMT17": (300, 150)}
"""(height, width) of the files; MSMT17's vary about this."""
PEERS = {"DataLoader, Pillow": "pillow", "DataLoader, OpenCV": "opencv"}
OURS = {
    "ours, memory": "memory",
    "ours, disk, filled": "fill",
    "ours, disk, another run": "disk",
    "ours, device": "device",
}

Epoch = Callable[[], Iterator]
"""Yields the batches of images."""


def picture(number: int, size: tuple[int, int]) -> bytes:
    """A JPEG file of noise at several scales, about as many bytes as a photo."""
    rng = np.random.default_rng(number)
    height, width = size
    image = np.full((height, width, 3), 128, np.float32)
    for cells, contrast in ((2, 45), (4, 32), (8, 22), (16, 16), (32, 9)):
        noise = rng.standard_normal((2 * cells, cells, 3)).astype(np.float32)
        image += contrast * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def write_tree(root: Path, images: int, size: tuple[int, int]) -> int:
    """Writes `train/`, and one image each into `query/` and `gallery/`; returns the mean bytes."""
    folders = ["train"] * images + ["query", "gallery"]
    total = 0
    for number, folder in enumerate(folders):
        pid = number // PER_PERSON if folder == "train" else images  # nobody in train
        path = root / folder / f"{pid:05}_c{1 + number % 6}_{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        total += path.write_bytes(picture(number, size))
    return round(total / len(folders))


def torch_epoch(way: str, tree: Path, workers: int) -> Epoch:
    """A DataLoader of `train/`."""
    import PIL.Image
    import torch

    files = sorted((tree / "train").glob("*.jpg"))
    mean = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)

    def pillow(path: Path) -> torch.Tensor:
        # As torchvision's Resize, ToTensor and Normalize.
        image = PIL.Image.open(path).convert("RGB")
        image = image.resize(SIZE[::-1], PIL.Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub_(mean).div_(std)

    def opencv(path: Path) -> torch.Tensor:
        image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
        return torch.from_numpy(cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_LINEAR))

    load = {"pillow": pillow, "opencv": opencv}[way]

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> torch.Tensor:
            return load(files[i])

    loader = torch.utils.data.DataLoader(
        Images(),
        BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
    )
    return lambda: iter(loader)


def our_epoch(way: str, tree: Path, workers: int) -> Epoch:
    """The store of `train/`."""
    from batnet_jax.data import load_dataset
    from batnet_jax.data.loading.loader import ImageStore, prefetch

    data = tree.parent / "data"
    split = load_dataset(f"folder:{tree}", data_dir=data).train
    folder = data / "decoded"
    if way == "fill":
        shutil.rmtree(folder, ignore_errors=True)
    disk = way in ("fill", "disk")
    store = ImageStore(
        split,
        image_size=SIZE,
        cache_gb=0 if disk else 1e3,
        workers=workers,
        disk_cache=folder if disk else None,
        disk_cache_gb=1e3,
    )

    def epoch() -> Iterator:
        order = np.random.default_rng().permutation(len(split))
        plan = np.split(order, range(BATCH, len(order), BATCH))
        return (images for _, images in prefetch(store, plan))

    return (lambda: onto_device(epoch())) if way == "device" else epoch


def onto_device(batches: Iterator[np.ndarray]) -> Iterator:
    """Copies batches to the device, two at a time."""
    import jax

    last = jax.device_put(np.zeros(1))
    for images in batches:
        current = jax.device_put(images)
        yield last.block_until_ready()
        last = current
    yield last.block_until_ready()


def cpu_seconds() -> float:
    """Processor time of this process and of its workers that live."""
    ticks = 0
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(stat[11]) + int(stat[12])  # in the program and in the kernel
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def measure(way: str, tree: Path, workers: int) -> dict[str, float]:
    """Images/s and images/CPU s of the first epoch, and the best of the later ones."""
    epoch = (torch_epoch if way in PEERS.values() else our_epoch)(way, tree, workers)
    if way == "device":
        list(onto_device(iter(())))  # starts JAX
    rates, cpu_rates = [], []
    for _ in range(EPOCHS):
        start, cpu_start = time.perf_counter(), cpu_seconds()
        images = sum(len(batch) for batch in epoch())
        rates.append(images / (time.perf_counter() - start))
        cpu_rates.append(images / (cpu_seconds() - cpu_start))
    return {
        "first": rates[0],
        "later": max(rates[1:]),
        "first_cpu": cpu_rates[0],
        "later_cpu": max(cpu_rates[1:]),
    }


def measure_apart(way: str, tree: Path, workers: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", way, str(tree), "--workers", str(workers)]
    home = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": home}
    )
    return json.loads(done.stdout)


def compare(tree: Path, workers: int, repeats: int) -> dict[str, dict[str, float]]:
    """The best of each way's repeats."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for name, way in (PEERS | OURS).items():
            rates = measure_apart(way, tree, workers)
            old = best.get(name, rates)
            best[name] = {epoch: max(rate, old[epoch]) for epoch, rate in rates.items()}
    return best


def format_table(unit: str, columns: tuple[str, str], rates: dict[str, dict[str, float]]) -> str:
    """A row for each way, with how many times the DataLoaders' figures its own are."""
    lines = [
        f"| {unit} | first epoch | x Pillow | x OpenCV | later epochs | x Pillow | x OpenCV |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, own in rates.items():
        cells = [name]
        for column in columns:
            cells.append(f"{own[column]:,.0f}")
            cells += [f"{own[column] / rates[peer][column]:.1f}" for peer in PEERS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(workers: int) -> str:
    """What ran, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    packages = ("torch", "pillow", "opencv-python-headless", "numpy", "jax", "array-record")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    processor = names[0] if names else platform.machine()
    return f"{os.cpu_count()} cores of {processor}; {workers} workers; {versions}"


def run(argv: list[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dir", help="where to put the files; the system's folder for such")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        way, tree = options.child
        print(json.dumps(measure(way, Path(tree), options.workers)))
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit("PyTorch is not installed: pip install torch")
    print(f"\n{machine(options.workers)}")
    for title, size in CASES.items():
        if options.dir:
            Path(options.dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            tree = Path(folder) / "tree"
            nbytes = write_tree(tree, options.images, size)
            rates = compare(tree, options.workers, options.repeats)
        height, width = size
        print(f"\n{options.images:,} files as {title}'s, {height} x {width}, {nbytes:,} bytes\n")
        print(format_table("images/s", ("first", "later"), rates), end="\n\n")
        print(format_table("images/CPU s", ("first_cpu", "later_cpu"), rates), flush=True)


if __name__ == "__main__":
    run(sys.argv[1:])
