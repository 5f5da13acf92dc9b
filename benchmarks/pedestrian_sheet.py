"""Writes a sheet of drawn pedestrians: an identity a row, its images across the cameras.

Rows follow one another in number, so families (identities in the same few colours) stand together.

python benchmarks/pedestrian_sheet.py [docs/images/pedestrians.png]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from batnet_jax.data.pedestrians.draw import SIZES, draw_image

ROWS, COLUMNS, GAP = 7, 10, 4
SEED, FIRST_PID = 0, 301  # the demo's first test identities


def make_sheet(seed: int = SEED, first_pid: int = FIRST_PID) -> Image.Image:
    """The sheet, [ROWS * (128 + GAP), COLUMNS * (64 + GAP)] pixels."""
    size = SIZES["demo"]
    rows = []
    for pid in range(first_pid, first_pid + ROWS):
        cells = []
        for index in range(COLUMNS):
            camera = index % size.cameras + 1
            cell = draw_image(pid, camera, index, seed=seed, height=size.height, width=size.width)
            cells.append(np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255))
        rows.append(np.concatenate(cells, axis=1))
    return Image.fromarray(np.concatenate(rows)[:-GAP, :-GAP])


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "docs" / "images" / "pedestrians.png"
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    target.parent.mkdir(parents=True, exist_ok=True)
    make_sheet().quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1024} kB")
