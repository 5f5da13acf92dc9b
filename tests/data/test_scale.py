"""Every public data set at its true size: the real lists, with small images that all differ.

Without the lists, which are not in this repository, the tests are skipped; see `needs.shared`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
import scipy.io
from support import needs
from support.paths import ROOT as REPOSITORY
from support.tiny_datasets import JPG, PNG

IMAGE_BYTES = 2048
"""Size of a file; all of MSMT17 takes 259 MB."""

pytestmark = pytest.mark.slow

# images, identities, cameras, distractors, junk: the published counts, written out again
COUNTS = {
    "market1501": {
        "train": (12_936, 751, 6, 0, 0),
        "query": (3_368, 750, 6, 0, 0),
        "gallery": (15_913, 750, 6, 2_798, 3_819),
    },
    "dukemtmc_reid": {
        "train": (16_522, 702, 8, 0, 0),
        "query": (2_228, 702, 8, 0, 0),
        "gallery": (17_661, 1_110, 8, 0, 0),
    },
    "cuhk03:labeled": {
        "train": (7_368, 767, 2, 0, 0),
        "query": (1_400, 700, 2, 0, 0),
        "gallery": (5_328, 700, 2, 0, 0),
    },
    "cuhk03:detected": {
        "train": (7_365, 767, 2, 0, 0),
        "query": (1_400, 700, 2, 0, 0),
        "gallery": (5_332, 700, 2, 0, 0),
    },
    "msmt17": {
        "train": (30_248 + 2_373, 1_041, 15, 0, 0),
        "val": (2_373, 1_041, 15, 0, 0),
        "query": (11_659, 3_060, 15, 0, 0),
        "gallery": (82_161, 3_060, 15, 0, 0),
    },
}

CHILD = """
import json, re, sys, time
import numpy as np
from batnet_jax.data import load_dataset

def peak():  # resident memory in KiB; getrusage would include the parent's
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1])

imports = peak()
start = time.perf_counter()
dataset = load_dataset(sys.argv[1], data_dir=sys.argv[2], manual_dir=sys.argv[3])
cost = {"seconds": time.perf_counter() - start, "imports": imports}
cost["peak"] = peak()
arrays = {}
for name in ("train", "val", "query", "gallery", "multi_query", "distractors"):
    split = getattr(dataset, name)
    if split is not None:
        rows = np.linspace(0, len(split) - 1, 100).astype(int)
        arrays |= {f"{name}/pid": split.pids, f"{name}/camera": split.cameras}
        arrays |= {f"{name}/filename": split.filenames, f"{name}/row": rows}
        arrays |= {f"{name}/end": [split.encoded(row)[-12:] for row in rows]}
np.savez(sys.argv[4], **arrays)
print(json.dumps(cost))
"""


class Tree:
    """Writes images; the last bytes of each are its number."""

    def __init__(self, root):
        self.root = root
        self.numbers = {}

    def add(self, name, encoded=JPG):
        """Write an image, unless it has been written before."""
        if name in self.numbers:
            return
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.numbers[name] = len(self.numbers)
        path.write_bytes(encoded.ljust(IMAGE_BYTES - 12, b"\0") + b"%012d" % self.numbers[name])


def from_csv(tree, folder):
    """Write Market-1501 or DukeMTMC-reID; return {split: {filename: (pid, camera)}}."""
    labels = {}
    for split, part in (("train", "train"), ("query", "query"), ("gallery", "test")):
        labels[split] = {}
        for line in needs.shared("protocols", folder, f"{part}.csv").read_text().split():
            pid, name = line.split(",")
            tree.add(name)
            if int(pid) != -1:
                camera = name.split("/")[1].split("_")[1][1]  # _c1s1_ or _c1_
                labels[split][name.split("/")[1]] = (int(pid), int(camera))
    return labels


def market1501(tree):
    return from_csv(tree, "market1501")


def dukemtmc_reid(tree):
    return from_csv(tree, "dukemtmc")


def msmt17(tree):
    labels = defaultdict(dict)
    for split, folder in {
        "train": "train",
        "val": "train",
        "query": "test",
        "gallery": "test",
    }.items():
        name = f"list_{split}.txt"
        tree.root.mkdir(exist_ok=True)
        listed = needs.shared("protocols", "msmt17", name)
        shutil.copy(listed, tree.root)
        for line in listed.read_text().splitlines():
            path, pid = line.split(" ")
            tree.add(f"{folder}/{path}")
            label = (int(pid), int(path.split("/")[1].split("_")[2]))
            labels[split][path] = label
            if split == "val":
                labels["train"][path] = label
    return labels


def cuhk03(boxes):
    """Return a writer of CUHK03-NP's folders, with the protocol's labels in the filenames."""

    def write(tree):
        path = needs.shared("protocols", "cuhk03", f"cuhk03_new_protocol_config_{boxes}.mat")
        protocol = {
            name: value.ravel() for name, value in scipy.io.loadmat(path).items() if name[0] != "_"
        }
        labels = {}
        folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
        for split, folder in folders.items():
            labels[split] = {}
            for number, row in enumerate(protocol[f"{split}_idx"].astype(int) - 1, 1):
                pid, camera = int(protocol["labels"][row]), int(protocol["camId"][row])
                name = f"{pid:04}_c{camera}_{number}.png"
                tree.add(f"{boxes}/{folder}/{name}", PNG)
                labels[split][name] = (pid, camera)
        return labels

    return write


WRITERS = {
    "market1501": market1501,
    "dukemtmc_reid": dukemtmc_reid,
    "cuhk03:labeled": cuhk03("labeled"),
    "cuhk03:detected": cuhk03("detected"),
    "msmt17": msmt17,
}
FOLDERS = {
    "market1501": {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    "msmt17": {"train": "train", "val": "train", "query": "test", "gallery": "test"},
}


def prepare(name, root):
    """Prepare a data set in another process; return its cost, its stderr and all labels."""
    command = [sys.executable, "-c", CHILD, name, root / "data", root / "tree", root / "labels.npz"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(root / "labels.npz") as arrays:
        return json.loads(done.stdout), done.stderr, dict(arrays)


@pytest.mark.parametrize("name", list(COUNTS))
def test_full_size(name, tmp_path):
    """Check counts, labels, order and bytes; no warnings; no images kept in memory."""
    try:
        tree = Tree(tmp_path / "tree")
        labels = WRITERS[name](tree)
        cost, said, arrays = prepare(name, tmp_path)
    finally:
        for folder in ("tree", "data"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)

    assert {key.split("/")[0] for key in arrays} == set(COUNTS[name])
    shown = re.findall(r"^  (\w+)" + r" +([\d,]+)" * 5 + "$", said, re.MULTILINE)
    assert {
        split: tuple(int(number.replace(",", "")) for number in numbers)
        for split, *numbers in shown
    } == COUNTS[name]
    assert "warning" not in said
    base, _, boxes = name.partition(":")
    folders = FOLDERS.get(base, FOLDERS["market1501"])
    for split, expected in labels.items():
        names = arrays[f"{split}/filename"].tolist()
        assert names == sorted(expected)
        pairs = zip(
            arrays[f"{split}/pid"].tolist(), arrays[f"{split}/camera"].tolist(), strict=True
        )
        assert list(pairs) == [expected[name] for name in names]
        own = [
            f"{boxes}/{folders[split]}/{names[row]}".lstrip("/") for row in arrays[f"{split}/row"]
        ]
        assert arrays[f"{split}/end"].tolist() == [b"%012d" % tree.numbers[name] for name in own]

    images = sum(numbers[0] for numbers in COUNTS[name].values())
    grown = (cost["peak"] - cost["imports"]) * 1024
    print(
        f"\n| {name} | {images:,} | {cost['seconds']:.1f} s | {images / cost['seconds']:,.0f}/s | "
        f"{cost['peak'] / 1024:.0f} MiB | {grown / 2**20:.0f} MiB |"
    )
    # Filenames and labels, in several copies, take about 750 bytes an image, and the rest 20 MB.
    # Images kept in memory would add 2,048 bytes each: too much except for CUHK03.
    assert grown < 40e6 + 900 * images
