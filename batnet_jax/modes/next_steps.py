"""The last lines of a training run: where its results are, and the next commands to paste."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import ml_collections
import numpy as np

from batnet_jax.data import Split, split_name
from batnet_jax.data.files.tree import is_image_name
from batnet_jax.data.run_data import RetrievalTest, RunData
from batnet_jax.errors import RunFailure, UserError, printable
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.paths import is_file, is_folder
from batnet_jax.validation import own_code
from batnet_jax.workdir.gcs import is_bucket

SAMPLES = "samples"
"""The folder of a workdir with images of the test, if the user's data set is not a folder."""
PEOPLE, IMAGES_OF_EACH = 5, 4
FEATURES = "gallery.npz"


def describe_end(config: ml_collections.ConfigDict, data: RunData, workdir: Path) -> str:
    """Return lines about the files of a run, and three commands to continue with.

    The commands name images that exist: the user's folder, or samples that are written here. A run
    in a bucket has no commands, as they work on folders.

    Args:
      config: of the run.
      data: of the run.
      workdir: of the run.
    """
    lines = [
        f"in '{workdir}': the network (checkpoints/), its figures and ranked lists (eval/), its "
        "curves (metrics.jsonl, tensorboard/)"
    ]
    test = next(iter(data.tests), None)
    found = None
    if test is not None and not is_bucket(workdir):
        found = user_images(config, test) or write_samples(test, workdir / SAMPLES)
    if found is None:
        return printable(lines[0])
    images, query = found
    trusted = {path.partition(":")[0].partition(".")[0] for _, path in own_code(config)}
    trust = [f"--trust={','.join(sorted(trusted))}"] if trusted else []
    features = str(workdir / FEATURES)
    commands = [
        ["report", str(workdir), *trust],
        ["embed", str(workdir), str(images), features, *trust],
        ["search", str(workdir), str(query), features, *trust],
    ]
    lines.append("next: write its report, embed images, and search them:")
    lines += [f"  {program()} {shlex.join(map(as_word, words))}" for words in commands]
    return "\n".join(map(printable, lines))


def as_word(word: str) -> str:
    """Return a path; one that begins with a dash gets a form that is not a flag."""
    is_path = word.startswith("-") and not word.startswith("--trust=")
    return os.path.join(".", word) if is_path else word


def program() -> str:
    """Return the command that starts this program in the user's shell."""
    own = Path(sys.argv[0])
    if own.name == "batnet":
        return "batnet" if shutil.which("batnet") else shlex.quote(str(own))
    python = Path(sys.executable)
    for name in ("python", "python3"):
        if (there := shutil.which(name)) and Path(there) == python:
            return f"{name} -m batnet_jax.main"
    here = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shlex.quote(str(here))} -m batnet_jax.main"


def user_images(config: ml_collections.ConfigDict, test: RetrievalTest) -> tuple[Path, Path] | None:
    """Return the user's folder of images and a query in it; None for other data sets."""
    name = (config.eval.datasets or config.data.train or (config.data.dataset,))[0]
    base, detail, _ = split_name(name)
    place = Path(detail or config.data.manual_dir)
    if base != "folder" or not is_folder(place):
        return None
    name = test.query.filenames[0]
    if is_file(place / name):
        return place, place / name
    deeper = next(place.rglob(Path(name).name), None)  # names begin at the folder of their split
    return None if deeper is None else (place, deeper)


def write_samples(test: RetrievalTest, folder: Path) -> tuple[Path, Path] | None:
    """Write a few images of a few people of a test as files.

    Returns: the folder and a query in it; None if they cannot be written.
    """
    pids = np.unique(test.query.pids[np.isin(test.query.pids, test.gallery.pids)])
    chosen = pids[np.unique(np.linspace(0, len(pids) - 1, PEOPLE).astype(int))] if len(pids) else ()
    written = []
    try:
        for pid in chosen:
            query = _images_of(test.query, pid)[:1]
            gallery = _images_of(test.gallery, pid)[: IMAGES_OF_EACH - 1]
            for number, (name, content) in enumerate([*query, *gallery], 1):
                suffix = Path(name).suffix.lower()
                path = folder / f"person_{pid}_{number}{suffix}"
                if is_image_name(path.name):
                    write_atomically(path, content)
                    written.append(path)
    except (OSError, UserError, RunFailure):  # the run itself is complete
        return None
    return (folder, written[0]) if written else None


def _images_of(split: Split, pid: int) -> list[tuple[str, bytes]]:
    rows = np.flatnonzero(split.pids == pid)[:IMAGES_OF_EACH].tolist()
    return [(split.filenames[row], split.encoded(row)) for row in rows]
