"""Makes the files of this folder with the package of this checkout; README.md says what they are.

python tests/kept/make.py
"""

import json
import os
import platform
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
from support.kept_files import EVALUATE, RUN, TIME, fixed_images, run_main, run_python  # noqa: E402

NAMES = ("ann", "bob", "cid", "dan", "eve", "fay", "gil", "hal")
EMBED = """
import sys, numpy as np, batnet_jax
np.save(sys.argv[3], batnet_jax.load(sys.argv[1]).embed(list(np.load(sys.argv[2]))))
"""


def draw(who, k, height=48, width=24):
    """Three bands of colours, as clothes have them: `who` chooses the colours, `k` the rest."""
    bands = np.random.default_rng([who, 7]).integers(0, 256, (3, 3))
    rng = np.random.default_rng([who, k, 8])
    rows = (np.arange(height) + int(rng.integers(-5, 6))) * 3 // height
    pixels = bands[np.clip(rows, 0, 2)][:, None].repeat(width, 1)
    pixels = pixels * rng.uniform(0.6, 1.2) + rng.integers(-25, 26, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_images(folder):
    images = {
        f"photos/{name}/{k}_c{k % 2 + 1}.png": (who, k)
        for who, name in enumerate(NAMES)
        for k in range(4)
    }
    images |= {f"queries/{who}.png": (who, 9) for who in range(8)}
    images |= {
        f"market/bounding_box_train/{who:04}_c{k}s1_00000{k}_00.jpg": (who, k)
        for who in (2, 7)
        for k in (1, 2)
    }
    images |= {f"market/query/{who:04}_c1s1_000001_00.jpg": (who, 1) for who in (1, 3, 4)}
    images |= {
        f"market/bounding_box_test/{who:04}_c{k}s1_00000{k}_00.jpg": (who, k)
        for who in (1, 3, 4)
        for k in (2, 3)
    }
    images["market/bounding_box_test/0000_c2s1_000009_00.jpg"] = (20, 0)
    images["market/bounding_box_test/-1_c2s1_000009_00.jpg"] = (21, 0)
    for name, (who, k) in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, draw(who, k))[1].tobytes())
        os.utime(path, ns=(TIME, TIME))


def neutral(folder):
    """Takes this machine's name and folders out of what the package wrote."""
    for path in folder.rglob("environment.jsonl"):
        text = path.read_text().replace(f"{ROOT}/", "")
        path.write_text(text.replace(json.dumps(platform.node()), '"host"'))
    for path in folder.rglob("commit_success.txt"):
        path.write_text(path.read_text().replace(f"{folder}/", ""))
    for path in folder.rglob("lock"):
        path.write_text("process 1 on host\n")
    for path in (p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for word in (str(ROOT), str(folder), tempfile.gettempdir(), os.path.expanduser("~")):
            assert word.encode() not in content, f"{path} holds {word}"


def pack(folder, name, *parts, without=()):
    with zipfile.ZipFile(HERE / name, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for part in parts:
            for path in sorted((folder / part).rglob("*")):
                inside = path.relative_to(folder).as_posix()
                if path.is_file() and not any(word in inside for word in without):
                    info = zipfile.ZipInfo(inside, (2024, 1, 1, 0, 0, 0))
                    info.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(info, path.read_bytes())


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        write_images(folder)

        def call(*arguments):
            process = run_main(folder, *arguments)
            print(process.stdout, process.stderr)
            process.check_returncode()

        call(*RUN, "--config.steps=3")
        shutil.copytree(folder / "run", folder / "on")
        call("--mode=embed", "--workdir=run", "--images=photos", "--output=features.npz")
        call(
            *("--mode=search", "--workdir=run", "--query=queries", "--gallery=features.npz"),
            *("--top=32", "--output=found.json"),
        )
        call(*RUN, "--mode=export", "--output=exported.safetensors")
        call(*RUN, "--mode=import", "--source=exported.safetensors", "--output=imported")
        call(*RUN, *EVALUATE, "--config.data.manual_dir=market", "--workdir=on")
        evaluated = {p.name: json.loads(p.read_text()) for p in (folder / "on/eval").glob("*.json")}
        shutil.rmtree(folder / "on")
        shutil.copytree(folder / "run", folder / "on")
        call(*RUN, "--workdir=on", "--config.steps=4")
        line = json.loads((folder / "on/metrics.jsonl").read_text().splitlines()[-1])
        np.save(folder / "images.npy", fixed_images())
        process = run_python(folder, "-c", EMBED, "run", "images.npy", "expected.npy")
        process.check_returncode()
        neutral(folder)
        pack(folder, "workdir.zip", "run", without=("tensorboard", ".png"))
        pack(
            folder, "prepared.zip", *("data/folder", "data/market1501", "photos", "queries"),
            without=("/.lock",),
        )  # fmt: skip
        pack(folder, "imported.zip", "imported")
        for name in ("features.npz", "found.json", "exported.safetensors", "expected.npy"):
            shutil.copyfile(folder / name, HERE / name)
        expected = {"eval": evaluated, "resumed": line}
        (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
