"""The mode `tables`: the paper's tables beside our figures.

paper: the rows and their figures in the paper.
runs: one training run per row and seed.
text: a table as Markdown and as JSON.
"""

from pathlib import Path

import ml_collections

from batnet_jax.errors import UserError
from batnet_jax.modes.flags import given_fields
from batnet_jax.modes.tables.paper import TABLES, Row, Table
from batnet_jax.modes.tables.runs import run_table

__all__ = ["TABLES", "Row", "Table", "run", "run_table"]


def run(
    config: ml_collections.ConfigDict, workdir: Path, *, table: int, seeds: list[str] | None
) -> None:
    """Run a table's rows with each seed, and write the table.

    Args:
      config: see `run_table`.
      workdir: written to.
      table: its number.
      seeds: as given on the command line; None = the config's seed.

    Raises: see `run_table`; UserError if a seed is not a number, or is given twice.
    """
    given = [str(config.seed)] if seeds is None else seeds
    numbers = [int(seed) for seed in given if seed.isdecimal()]
    if not numbers or len(set(numbers)) < len(given):
        raise UserError(f"--seeds={','.join(given)}: give different numbers, as in --seeds=0,1,2")
    run_table(config, workdir, table, numbers, given_fields())
