"""The embedded data set: pedestrians drawn by `pedestrians/draw.py`, without any download."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

import batnet_jax
from batnet_jax.data.builder import Photo, ReIDBuilder, SplitSource
from batnet_jax.data.dataset import Split
from batnet_jax.data.pedestrians.draw import (
    SIZES,
    SPLITS,
    Shot,
    Size,
    draw_jpeg,
    draw_layers,
    plan,
    read_shot,
)
from batnet_jax.data.pedestrians.plan import Split as SplitName

SEED = 0
"""The seed of each size's data set. A change of the drawing must raise `VERSION` below."""

IMAGES_PER_WORKER = 100
"""An image takes about 20 ms or more; the start of a worker takes about a second."""


class Pedestrians(ReIDBuilder):
    """Drawn pedestrians, with a config for each of `SIZES`; the demo uses the first."""

    BUILDER_CONFIGS = [  # noqa: RUF012 - as TFDS wants it
        tfds.core.BuilderConfig(name=name, description=f"{size.train_images} training images")
        for name, size in SIZES.items()
    ]
    VERSION = tfds.core.Version("1.0.0")
    TITLE = "drawn pedestrians"
    DISTRACTOR_PID = 0

    def sources(self) -> dict[str, SplitSource]:
        """See the base class; `manual_path` is not used."""
        return {split: _source(SIZES[self.variant], split) for split in SPLITS}


def _source(size: Size, split: SplitName) -> SplitSource:
    shots = sorted(plan(size, split, SEED))
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    workers = min(cores, len(shots) // IMAGES_PER_WORKER)
    photos = [Photo(shot.filename, shot.pid, shot.camera) for shot in shots]
    return SplitSource(photos, draw_all(shots, size, workers))


def draw_all(shots: list[Shot], size: Size, workers: int) -> Iterator[bytes]:
    """Draw the shots and yield them as JPEG files, in order.

    Worker k of n is a Python process that draws the shots k, k + n, ... and writes them to its
    pipe. Unlike the processes of `multiprocessing`, a worker does not import the caller's script
    again, and it ends when this process is killed, because its pipe breaks.

    Args:
      shots: shots of one or more splits.
      size: the size of the pictures.
      workers: number of processes; below 2, this process draws.

    Raises: RuntimeError if a worker fails; its message is on stderr.
    """
    if workers < 2:
        yield from (_draw(shot, size) for shot in shots)
        return
    command = [sys.executable, "-c", f"from {__name__} import run_worker; run_worker()"]
    path = [str(Path(batnet_jax.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    with contextlib.ExitStack() as stack:
        pipes = []
        for k in range(workers):
            task = json.dumps([size, shots[k::workers]]).encode()
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            stack.enter_context(process)
            stack.callback(process.kill)  # runs before the context above waits for the process
            assert process.stdin is not None  # for the type checker
            with process.stdin:
                process.stdin.write(task)
            pipes.append(process.stdout)
        for i in range(len(shots)):
            yield _receive(pipes[i % workers])


def is_drawn(title: str) -> bool:
    """Return whether a data set's name in results, see `data.title_of`, is of this data set."""
    return title.partition("-")[0] == Pedestrians.name


def layers_of(split: Split, rows: np.ndarray) -> np.ndarray:
    """Draw the layers of prepared images, which are not stored.

    Args:
      split: images of a prepared data set of this builder, see `is_drawn`.
      rows: [b] int, indices of images in the split; b > 0.

    Returns: [b, height, width] uint8 in `LAYERS`, of the stored images' size.
    Raises: ValueError if a filename is not of a drawn image.
    """
    shots = [read_shot(split.filenames[row]) for row in rows.tolist()]
    width, height = Image.open(io.BytesIO(split.encoded(rows[0]))).size
    return np.stack(
        [draw_layers(*shot[1:], seed=SEED, height=height, width=width) for shot in shots]
    )


def run_worker() -> None:
    """Run a worker of `draw_all`: read the shots from stdin, write the images to stdout."""
    size, shots = json.load(sys.stdin)
    try:
        for shot in shots:
            image = _draw(Shot(*shot), Size(*size))
            sys.stdout.buffer.write(struct.pack("<I", len(image)) + image)
            sys.stdout.buffer.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)  # the caller has ended: print no message


def _draw(shot: Shot, size: Size) -> bytes:
    return draw_jpeg(
        *(shot.pid, shot.camera, shot.index, shot.style),
        **{"seed": SEED, "height": size.height, "width": size.width},
    )


def _receive(pipe) -> bytes:
    header = pipe.read(4)
    image = pipe.read(struct.unpack("<I", header)[0]) if len(header) == 4 else b""
    if not image:
        raise RuntimeError("a process that draws pedestrians has ended early; see its message")
    return image
