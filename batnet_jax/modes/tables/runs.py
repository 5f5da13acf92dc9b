"""The runs of a table: one ordinary training run per row and seed; finished runs are kept."""

import json
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from batnet_jax.config import default_config
from batnet_jax.data.run_data import RunData, open_run_data
from batnet_jax.errors import NotFiniteError, UserError, printable
from batnet_jax.modes.tables.paper import TABLES, Row, Table
from batnet_jax.modes.tables.text import Setting, describe, write_table
from batnet_jax.runtime.read_files import read_json, reason
from batnet_jax.training.fitted import fit_and_tell, keep_fit, read_start
from batnet_jax.training.loop import train
from batnet_jax.training.run_length import plan_run
from batnet_jax.training.start import check_run
from batnet_jax.validation import validate
from batnet_jax.weights.sources import OtherNetworkError, check_agrees, open_source
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.results import EVAL, read_result, tell_left_out
from batnet_jax.workdir.run_folder import CONFIG

FOLDER = "tables"
# Fields of the `eval` section that change the figures of a table.
EVAL_FIELDS = ("ap", "same_camera", "leave_out_own", "multi_query", "distractors", "datasets")


class Run(NamedTuple):
    """The training run of a row with one seed."""

    row: Row
    seed: int
    config: ml_collections.ConfigDict
    workdir: Path


def run_table(
    config: ml_collections.ConfigDict,
    workdir: Path,
    number: int,
    seeds: Sequence[int],
    given: Collection[str] = (),
) -> Path:
    """Train and evaluate the runs that a table lacks, and write the table after each run.

    The files are `table_<number>.md` and `.json`. A run's folder is `tables/<network>/seed_<seed>`
    in the workdir, so tables with a row of the same network share the run. A run that has its
    evaluation is kept, and a killed run resumes. All rows run with the first seed, then with the
    next.

    Args:
      config: validated; the rows change its `model` section and its seed.
      workdir: written to.
      number: the table's, a key of `TABLES`.
      seeds: one run of each row per seed.
      given: names of the fields that the user gave, which `config.fit` leaves as they are.
    Returns: the path of the Markdown file.

    Raises:
      UserError: if a row does not fit the config, or the workdir holds other runs.
      NotFiniteError: after all runs, if the loss of a run was not finite.
    """
    table = TABLES[number]
    config, started = keep_start(config, workdir, table, seeds, given)
    runs = plan_runs(config, workdir, table, seeds)
    data = open_run_data(config)
    if not started:
        config = fit_and_tell(config, data.train.labels, given)
        runs = [run._replace(config=row_config(config, run.row, run.seed)) for run in runs]
    length = plan_run(config, data.train.labels)
    setting = Setting(number, table, describe(config, table, length), tuple(seeds), workdir)
    results = {run.workdir: finished_result(run, length.total, table.metrics) for run in runs}
    missing = [run for run in runs if results[run.workdir] is None]
    print(
        f"table {number}: {len(table.rows)} rows x {len(seeds)} seeds, {length.total} steps per "
        f"run; {len(runs) - len(missing)} of {len(runs)} runs are finished and kept"
    )
    path = write_results(setting, runs, results)
    failures = []
    start = time.perf_counter()
    for count, run in enumerate(missing, 1):
        title = f"{run.row.name}, seed {run.seed}"
        print(printable(f"table {number}: {title}, in '{run.workdir}'"), flush=True)
        try:
            results[run.workdir] = finish(run, data, length.total, table.metrics)
        except NotFiniteError as error:
            failures.append(f"{title}: {error}")
            print(failures[-1], file=sys.stderr)
        write_results(setting, runs, results, failures)
        minutes = (time.perf_counter() - start) / 60 / count * (len(missing) - count)
        print(f"table {number}: {count} of {len(missing)} runs; about {minutes:.0f} minutes left")
    print(f"\n{path.read_text()}")
    print(printable(f"written: {path}, {path.with_suffix('.json')}"))
    if failures:
        raise NotFiniteError(f"{len(failures)} of {len(missing)} runs failed: {failures[0]}")
    return path


def finish(run: Run, data: RunData, total: int, metrics: Sequence[str]) -> dict[str, Any] | None:
    """Train or resume a run and return its evaluation.

    Raises: NotFiniteError if the loss is not finite.
    """
    (run.workdir / EVAL / f"step_{total}.json").unlink(missing_ok=True)
    try:
        train(run.config, data, run.workdir)
    finally:
        jax.clear_caches()  # otherwise memory fills with the compiled steps of all rows
    return finished_result(run, total, metrics)


def keep_start(
    config: ml_collections.ConfigDict,
    workdir: Path,
    table: Table,
    seeds: Sequence[int],
    given: Collection[str],
) -> tuple[ml_collections.ConfigDict, bool]:
    """Return the config with the settings that the table's first run chose, and whether it began.

    All rows keep the length and the batch of the first run.
    """
    for seed in seeds:
        for row in table.rows:
            start = read_start(run_folder(workdir, row_config(config, row, seed)))
            if start is not None:
                return keep_fit(config, *start, given), True
    return config, False


def plan_runs(
    config: ml_collections.ConfigDict, workdir: Path, table: Table, seeds: Sequence[int]
) -> list[Run]:
    """Plan the runs in their order, without writing anything.

    Raises: UserError if a run does not fit the config, or its workdir holds another run.
    """
    if not config.model.num_parts:
        raise UserError(
            "config.model.num_parts=0 leaves no parts for the rows that need them: give 1 or more"
        )
    runs = []
    for seed in seeds:
        for row in table.rows:
            run_config = row_config(config, row, seed)
            validate(run_config)
            folder = run_folder(workdir, run_config)
            check_run(run_config, folder)
            check_start(run_config, row, folder)
            runs.append(Run(row, seed, run_config, folder))
    return runs


def check_start(config: ml_collections.ConfigDict, row: Row, folder: Path) -> None:
    """Check, before any row is trained, that the initial weights fit a row's network.

    Raises: UserError that names the row.
    """
    source = config.init["from"]
    if not source or checkpoints.latest_step(folder) is not None:
        return
    opened = open_source(config, Path(source))
    try:
        check_agrees(opened, config.model, whole=False)
    except OtherNetworkError as error:
        raise UserError(
            f"config.init.from={source!r} is a whole network, and not the one of row {row.name}: "
            "start a table's rows from a backbone"
        ) from error


def row_config(config: ml_collections.ConfigDict, row: Row, seed: int) -> ml_collections.ConfigDict:
    """Return the config of a row's run."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    config.model.update(row.overrides)
    return config


def run_folder(workdir: Path, config: ml_collections.ConfigDict) -> Path:
    """Return the workdir of a row's run."""
    return workdir / FOLDER / network_name(config) / f"seed_{config.seed}"


def network_name(config: ml_collections.ConfigDict) -> str:
    """Return the name of a network's folder, made from the fields that the tables vary."""
    model = config.model
    attention = "" if model.attention == "none" else f"-{model.position}-r{model.reduction}"
    return f"{model.attention}{attention}-parts{model.num_parts}"


def finished_result(run: Run, total: int, metrics: Sequence[str]) -> dict[str, Any] | None:
    """Return the evaluation of a finished run, or None if it is missing or has other settings.

    Files that cannot be read are named on stderr, and the run is evaluated again.

    Args:
      run: of a row.
      total: steps of a finished run.
      metrics: of the table, that the evaluation must have.

    Raises: UserError if the run has taken more steps than `total`.
    """
    latest = checkpoints.latest_step(run.workdir)
    if latest is not None and latest > total:
        raise UserError(
            f"'{run.workdir}' has been trained for {latest} steps, more than {total}: give "
            f"--config.steps={latest}, or another --workdir"
        )
    path = run.workdir / EVAL / f"step_{total}.json"
    try:
        result = read_result(path)
        saved = read_json(run.workdir / CONFIG)["eval"]
        saved = json.loads(default_config().eval.to_json()) | saved  # older than a field
        if not {metric.removeprefix("R-") for metric in metrics} <= {"mAP", *result["cmc"]}:
            raise UserError(f"'{path}' lacks a figure of the table: the step is evaluated again")
    except FileNotFoundError:
        return None
    except UserError as error:
        tell_left_out([str(error)])
        return None
    except OSError as error:
        tell_left_out([f"'{error.filename or path}' cannot be read ({reason(error)})"])
        return None
    except (ValueError, KeyError, TypeError):
        tell_left_out([f"'{run.workdir / CONFIG}' is damaged: the step is evaluated again"])
        return None
    wanted = json.loads(run.config.to_json())["eval"]
    same = all(saved.get(name) == wanted[name] for name in EVAL_FIELDS)
    # A later `--mode=eval` may have written figures by another convention.
    return result if same and result["ap"] == wanted["ap"] else None


def write_results(
    setting: Setting,
    runs: Sequence[Run],
    results: dict[Path, dict[str, Any] | None],
    failures: Sequence[str] = (),
) -> Path:
    """Write the table with all results so far; return the path of the Markdown file."""
    by_row = {
        row.name: {
            run.seed: result
            for run in runs
            if run.row == row and (result := results[run.workdir]) is not None
        }
        for row in setting.table.rows
    }
    folders = {run.row.name: str(run.workdir.parent.relative_to(setting.workdir)) for run in runs}
    return write_table(setting, by_row, folders, failures)
