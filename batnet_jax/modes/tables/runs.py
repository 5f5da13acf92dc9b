"""Running a table: an ordinary training run for each row and seed, kept where it is finished."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from batnet_jax.data.run_data import RunData, open_run_data
from batnet_jax.errors import NotFiniteError, UserError
from batnet_jax.modes.tables.paper import TABLES, Row, Table
from batnet_jax.modes.tables.text import Setting, describe, write_table
from batnet_jax.training.loop import train
from batnet_jax.training.run_length import plan_run
from batnet_jax.training.start import check_run
from batnet_jax.validation import validate
from batnet_jax.weights.sources import check_agrees, open_source
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.run_folder import CONFIG

FOLDER = "tables"
# On these of the `eval` section's fields the figures depend.
EVAL_FIELDS = ("ap", "same_camera", "multi_query", "distractors", "datasets")


class Run(NamedTuple):
    """One row with one seed."""

    row: Row
    seed: int
    config: ml_collections.ConfigDict
    workdir: Path


def run_table(
    config: ml_collections.ConfigDict, workdir: Path, number: int, seeds: Sequence[int]
) -> Path:
    """Runs what a table lacks, writes `table_<number>.md` and `.json` after every run.

    A run lies in `tables/<network>/seed_<seed>` of the workdir: rows of several tables that are the
    same network are the same run. One that has its evaluation is kept, one that was killed goes on.
    The first seed of all rows comes first.

    Args:
      config: validated; the rows change its `model` section and its seed.
      workdir: written to.
      number: of the table, see `TABLES`.
      seeds: of the runs of each row.
    Returns: the path of the Markdown.

    Raises:
      UserError: if a row does not fit the config, or the workdir holds other runs.
      NotFiniteError: at the end, if the loss of a run was not finite; the others are there.
    """
    table = TABLES[number]
    runs = plan_runs(config, workdir, table, seeds)
    data = open_run_data(config)
    length = plan_run(config, data.train.labels)
    setting = Setting(number, table, describe(config, table, length), tuple(seeds), workdir)
    results = {run.workdir: read_result(run, length.total) for run in runs}
    to_do = [run for run in runs if results[run.workdir] is None]
    print(
        f"table {number}: {len(table.rows)} rows x {len(seeds)} seeds, {length.total} steps a "
        f"run; {len(runs) - len(to_do)} of {len(runs)} runs are finished and kept"
    )
    path = write(setting, runs, results)
    failures = []
    start = time.perf_counter()
    for count, run in enumerate(to_do, 1):
        what = f"{run.row.name}, seed {run.seed}"
        print(f"table {number}: {what}, in '{run.workdir}'", flush=True)
        try:
            results[run.workdir] = finish(run, data, length.total)
        except NotFiniteError as error:
            failures.append(f"{what}: {error}")
            print(failures[-1], file=sys.stderr)
        write(setting, runs, results, failures)
        minutes = (time.perf_counter() - start) / 60 / count * (len(to_do) - count)
        print(f"table {number}: {count} of {len(to_do)} runs; about {minutes:.0f} minutes left")
    print(f"\n{path.read_text()}\nwritten: {path}, {path.with_suffix('.json')}")
    if failures:
        raise NotFiniteError(f"{len(failures)} of {len(to_do)} runs failed: {failures[0]}")
    return path


def finish(run: Run, data: RunData, total: int) -> dict[str, Any] | None:
    """Trains or resumes a run; returns its evaluation.

    Raises: NotFiniteError if the loss is not finite.
    """
    (run.workdir / "eval" / f"step_{total}.json").unlink(missing_ok=True)
    try:
        train(run.config, data, run.workdir)
    finally:
        jax.clear_caches()  # else the compiled steps of all rows pile up
    return read_result(run, total)


def plan_runs(
    config: ml_collections.ConfigDict, workdir: Path, table: Table, seeds: Sequence[int]
) -> list[Run]:
    """The runs in the order in which they are made; nothing is written.

    Raises: UserError if one does not fit the config, or its workdir holds another run.
    """
    if not config.model.num_parts:
        raise UserError(
            "config.model.num_parts=0 leaves no parts to the rows that have them: give 1 or more"
        )
    runs = []
    for seed in seeds:
        for row in table.rows:
            own = row_config(config, row, seed)
            validate(own)
            folder = workdir / FOLDER / network_name(own) / f"seed_{seed}"
            check_run(own, folder)
            check_start(own, row, folder)
            runs.append(Run(row, seed, own, folder))
    return runs


def check_start(config: ml_collections.ConfigDict, row: Row, folder: Path) -> None:
    """Refuses weights to start from that do not fit a row, before any row is trained.

    Raises: UserError that names the row.
    """
    source = config.init["from"]
    if not source or checkpoints.latest_step(folder) is not None:
        return
    opened = open_source(config, Path(source))
    try:
        check_agrees(opened, config.model, whole=False)
    except UserError as error:
        raise UserError(
            f"config.init.from={source!r} is a network of its own, which row {row.name} is not: "
            "start a table's rows from a backbone"
        ) from error


def row_config(config: ml_collections.ConfigDict, row: Row, seed: int) -> ml_collections.ConfigDict:
    """The config of a row's run."""
    own = config.copy_and_resolve_references()
    own.seed = seed
    own.model.update(row.overrides)
    return own


def network_name(config: ml_collections.ConfigDict) -> str:
    """A folder's name: what the tables vary, where it matters."""
    model = config.model
    attention = "" if model.attention == "none" else f"-{model.position}-r{model.reduction}"
    return f"{model.attention}{attention}-parts{model.num_parts}"


def read_result(run: Run, total: int) -> dict[str, Any] | None:
    """The evaluation of a finished run, or None if it is not finished, or was evaluated otherwise.

    Raises: UserError if it has been trained for more steps than `total`.
    """
    latest = checkpoints.latest_step(run.workdir)
    if latest is not None and latest > total:
        raise UserError(
            f"'{run.workdir}' has been trained for {latest} steps, more than {total}: give "
            f"--config.steps={latest}, or another --workdir"
        )
    path = run.workdir / "eval" / f"step_{total}.json"
    try:
        saved = json.loads((run.workdir / CONFIG).read_text())["eval"]
        result = json.loads(path.read_text())
    except (OSError, ValueError, KeyError):
        return None
    wanted = json.loads(run.config.to_json())["eval"]
    same = all(saved.get(name) == wanted[name] for name in EVAL_FIELDS)
    # Whoever ran `--mode=eval` since may have written figures of another convention.
    same = same and isinstance(result, dict) and result.get("ap") == wanted["ap"]
    return result if same else None


def write(
    setting: Setting,
    runs: Sequence[Run],
    results: dict[Path, dict[str, Any] | None],
    failures: Sequence[str] = (),
) -> Path:
    """Writes the table as far as it is known; returns the Markdown's path."""
    found = {
        row.name: {
            run.seed: result
            for run in runs
            if run.row == row and (result := results[run.workdir]) is not None
        }
        for row in setting.table.rows
    }
    folders = {run.row.name: str(run.workdir.parent.relative_to(setting.workdir)) for run in runs}
    return write_table(setting, found, folders, failures)
