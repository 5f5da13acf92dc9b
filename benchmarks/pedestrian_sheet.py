"""Writes a sheet of drawn pedestrians: an identity a row, its images across the cameras.

Rows follow one another in number, so families (identities in the same few colours) stand together.
With --layers the sheet shows a few images, with occluders and passers-by, above their layers.

python benchmarks/pedestrian_sheet.py [docs/images/pedestrians.png]
python benchmarks/pedestrian_sheet.py --hard [docs/images/pedestrians_hard.png]
python benchmarks/pedestrian_sheet.py --layers [docs/images/pedestrian_layers.png]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from batnet_jax.data.pedestrians.draw import LAYERS, SIZES, draw_image, draw_layers, plan
from batnet_jax.report.layers import paint_layers

ROWS, COLUMNS, GAP = 7, 10, 4
SEED = 0
FIRST_PIDS = {"demo": 301, "hard": 606}  # test identities; of "hard", a family of six
SHOWN = {"occluder": 5, "passer-by": 3}  # images of the sheet with layers; the others have neither


def make_sheet(variant: str = "demo", seed: int = SEED) -> Image.Image:
    """The sheet, [ROWS * (128 + GAP), COLUMNS * (64 + GAP)] pixels."""
    size, first_pid = SIZES[variant], FIRST_PIDS[variant]
    rows = []
    for pid in range(first_pid, first_pid + ROWS):
        row = []
        for index in range(COLUMNS):
            camera = index % size.cameras + 1
            shape = {"height": size.height, "width": size.width}
            cell = draw_image(pid, camera, index, size.style, seed=seed, **shape)
            row.append(cell)
        rows.append(row)
    return join(rows)


def make_layer_sheet(seed: int = SEED) -> Image.Image:
    """A row of COLUMNS images of the demo's queries, and a row of their layers."""
    size = SIZES["demo"]
    wanted = {"": COLUMNS - sum(SHOWN.values()), **SHOWN}
    found: dict[str, list] = {name: [] for name in wanted}
    for shot in plan(size, "query", seed):
        options = {"seed": seed, "height": size.height, "width": size.width}
        layers = draw_layers(*shot[1:], **options)
        name = next((name for name in SHOWN if (layers == LAYERS[name]).mean() > 0.02), "")
        if len(found[name]) < wanted[name]:
            image = draw_image(*shot[1:], **options)
            found[name].append((image, paint_layers(image, layers, LAYERS)))
    return join(list(zip(*[pair for pairs in found.values() for pair in pairs], strict=True)))


def join(rows: list) -> Image.Image:
    """Rows of images [128, 64, 3] with gaps between them."""
    gap = ((0, GAP), (0, GAP), (0, 0))
    lines = [
        np.concatenate([np.pad(cell, gap, constant_values=255) for cell in row], axis=1)
        for row in rows
    ]
    return Image.fromarray(np.concatenate(lines)[:-GAP, :-GAP])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", type=Path, nargs="?")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--hard", action="store_true")
    args = parser.parse_args()
    name = "pedestrians_hard.png" if args.hard else "pedestrians.png"
    name = "pedestrian_layers.png" if args.layers else name
    target = args.target or Path(__file__).parents[1] / "docs" / "images" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    variant = "hard" if args.hard else "demo"
    sheet = make_layer_sheet() if args.layers else make_sheet(variant)
    sheet.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1024} kB")
