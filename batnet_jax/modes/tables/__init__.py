"""The mode `tables`: the paper's tables beside our figures.

paper: the rows and their figures in the paper.
runs: one training run per row and seed.
text: a table as Markdown and as JSON.
"""

from batnet_jax.modes.tables.paper import TABLES, Row, Table
from batnet_jax.modes.tables.runs import run_table

__all__ = ["TABLES", "Row", "Table", "run_table"]
