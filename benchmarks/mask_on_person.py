"""Does the mask look at the person? Shares of the maps' energy on the person of drawn images.

    python benchmarks/mask_on_person.py --runs DIR,DIR,... [--json FILE] [--pictures DIR]
        [--images N] [--step N]

The script takes runs on `pedestrians`, with an attention and without, and measures all query and
gallery images, or N evenly spaced ones with --images. It prints a Markdown table of the runs, and a
table of means over the runs of equal networks. `before` is the map that enters the attention. A
network without attention has the map at the same position instead. The energy is the sum of squares
over the channels. `On others` is the share of an image's energy that lies on the persons of the
other images. If a map only knows where people usually are, its share on its own person is no
higher.

--pictures also writes DIR/<run>.png for each run with an attention. It shows a few images with
their layers and maps; half of the images are the ones with the most clutter before and behind the
person.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from batnet_jax.data import Split
from batnet_jax.data.dataset import concatenate
from batnet_jax.data.pedestrians.draw import LAYERS
from batnet_jax.data.run_data import RetrievalTest, open_tests
from batnet_jax.data.sources.pedestrians import is_drawn
from batnet_jax.errors import UserError
from batnet_jax.evaluation.layer_shares import LayerShares, measure_layers, summarise
from batnet_jax.inference.restore import restore_network
from batnet_jax.inference.saved_settings import choose_checkpoint, read_config
from batnet_jax.models import parse_positions
from batnet_jax.models.batnet import POSITIONS
from batnet_jax.modes.report_attention import attention_rows
from batnet_jax.report.attention_maps import draw_attention_maps
from batnet_jax.report.layers import MAPS
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.xla_flags import choose_cpu_libraries

NETWORK = ("attention", "kernel", "reduction", "num_parts", "width", "backbone")
COLUMNS = {**MAPS, "gain": "after less before"}
PICTURED = 4


class Run(NamedTuple):
    """A trained run and the images to measure."""

    name: str
    workdir: Path
    config: ml_collections.ConfigDict
    step: int
    test: RetrievalTest
    images: Split

    @property
    def positions(self) -> tuple[str, ...]:
        """The positions of the attention; none if there is none."""
        model = self.config.model
        return () if model.attention == "none" else parse_positions(model.position)


def open_run(path: Path, step: int, count: int) -> Run:
    """Opens a run and its test images; `count`: so many of them, 0 = all.

    Raises: UserError if it was not tested on drawn images.
    """
    config = read_config(path, step)
    workdir, step = choose_checkpoint(path, step)
    tests = [t for t in open_tests(config) if t.split == "test" and is_drawn(t.name)]
    if not tests:
        raise UserError(f"'{path}' is not tested on pedestrians, and only drawn images have layers")
    images = concatenate([tests[0].query, tests[0].gallery])
    if count:
        images = images.take(np.unique(np.linspace(0, len(images) - 1, count).astype(int)))
    return Run(workdir.name, workdir, config, step, tests[0], images)


def check_images(runs: list[Run]) -> None:
    """Refuses runs that are tested on different images.

    Raises: UserError naming two of them.
    """
    first = runs[0]
    for run in runs:
        if run.images.content_fingerprint() != first.images.content_fingerprint():
            raise UserError(
                f"'{first.workdir}' and '{run.workdir}' are tested on different images: measure "
                "them one by one"
            )


def measure(run: Run, positions: tuple[str, ...], pictures: Path | None) -> dict[str, Any]:
    """The figures of a run, see `summarise`; also draws its picture."""
    model, variables = restore_network(run.config, run.workdir, run.step)
    shares = measure_layers(run.config, model, variables, run.images, positions=positions)
    if pictures and run.positions:
        test = run.test._replace(query=run.images)
        rows = attention_rows(run.config, model, variables, test, pictured(shares))
        pictures.mkdir(parents=True, exist_ok=True)
        draw_attention_maps(
            pictures / f"{run.name}.png", rows, dataset=run.test.name, step=run.step
        )
    network = {name: run.config.model[name] for name in NETWORK}
    return {
        "run": str(run.workdir),
        "dataset": run.test.name,
        "step": run.step,
        "seed": run.config.seed,
        "network": {**network, "position": ",".join(run.positions)},
        **summarise(shares),
    }


def pictured(shares: LayerShares) -> list[int]:
    """A few images: those with most pixels of occluders and passers-by, and others."""
    clutter = shares.areas[:, [LAYERS["occluder"], LAYERS["passer-by"]]]
    most = [int(np.argmax(column)) for column in clutter.T]
    others = np.linspace(0, len(clutter) - 1, PICTURED - len(most) + 2).astype(int)[1:-1]
    return list(dict.fromkeys([*others.tolist(), *most]))


def describe(network: dict[str, Any]) -> str:
    """The attention in a few words; the tables have a column for a single position."""
    if network["attention"] == "none":
        return "no attention"
    text = f"{network['attention']}, {network['kernel']}, r = {network['reduction']}"
    return f"{text}, at {network['position']}" if "," in network["position"] else text


def print_tables(results: list[dict[str, Any]]) -> None:
    """A row for each run and position; then, where networks have several runs, their means."""
    first = results[0]
    print(
        f"\n{first['dataset']}, {first['num_image']:,} images of {first['num_identity']:,} people: "
        f"the person's share of the energy, per cent [{100 * first['level']:.0f}% interval], and "
        f"the lift, this share divided by the person's share of the area, "
        f"{100 * first['area']['person']:.1f}%\n"
    )
    print_head(["run, step", "network", "position"])
    for result in results:
        name = f"{Path(result['run']).name}, {result['step']}"
        for position, maps in result["positions"].items():
            cells = [cell(maps.get(column)) for column in COLUMNS]
            print_row([name, describe(result["network"]), position, *cells])
            others = [cell(maps.get(column), "elsewhere") for column in COLUMNS]
            print_row(["", "", "on others", *others])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        for position, maps in result["positions"].items():
            network = json.dumps(result["network"])
            groups.setdefault((network, position), []).append(maps)
    if len(groups) < sum(map(len, groups.values())):
        print("\nMeans over the runs of a network ± standard deviation (n - 1), per cent\n")
        print_head(["network", "position", "runs"])
        for (network, position), runs in groups.items():
            cells = [mean_cell([maps.get(name) for maps in runs]) for name in COLUMNS]
            print_row([describe(json.loads(network)), position, str(len(runs)), *cells])


def print_head(names: list[str]) -> None:
    """The head of a table, with the columns of the maps."""
    print_row([*names, *COLUMNS.values()])
    print("|" + "---|" * len(names) + "--:|" * len(COLUMNS))


def print_row(cells: list[str]) -> None:
    """A row of a table."""
    print(f"| {' | '.join(cells)} |")


def cell(figures: dict[str, Any] | None, name: str = "person") -> str:
    """A share, its interval and its lift; a gain has no lift and is on no other person."""
    if figures is None or name not in figures or figures[name]["value"] is None:
        return "-"
    sign = "" if "lift" in figures else "+"
    value, interval = figures[name]["value"], figures[name]["interval"]
    low, high = (f"{100 * end:{sign}.1f}" for end in interval)
    lift = f" {figures['lift']['value']:.2f}x" if "lift" in figures and name == "person" else ""
    return f"{100 * value:{sign}.1f} [{low}, {high}]{lift}"


def mean_cell(runs: list[dict[str, Any] | None]) -> str:
    """The mean of a share over runs, and the standard deviation of several."""
    values = [run["person"]["value"] if run else None for run in runs]
    known = [100 * value for value in values if value is not None]
    if len(known) < len(runs):
        return "-"
    sign = "" if runs[0] and "lift" in runs[0] else "+"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):{sign}.1f}{spread}"


def main(argv: list[str]) -> None:
    """Measures the runs, prints the tables, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", required=True, help="workdirs, separated by commas")
    parser.add_argument("--json", type=Path, default=Path("runs/mask_on_person.json"))
    parser.add_argument("--pictures", type=Path, help="folder of pictures; default: none")
    parser.add_argument("--images", type=int, default=0, help="so many images; 0 = all")
    parser.add_argument("--step", type=int, default=0, help="the checkpoints'; 0 = the latest")
    args = parser.parse_args(argv)
    choose_cpu_libraries()
    paths = [Path(name) for name in args.runs.split(",") if name]
    runs = [open_run(path, args.step, args.images) for path in paths]
    check_images(runs)
    attended = {position for run in runs for position in run.positions} or set(POSITIONS)
    elsewhere = tuple(position for position in POSITIONS if position in attended)
    results = [measure(run, run.positions or elsewhere, args.pictures) for run in runs]
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.json, json.dumps(results, indent=1) + "\n")
    print_tables(results)
    print(f"\nwritten: {args.json}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
