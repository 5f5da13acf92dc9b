"""The paper's tables: what it reports, and what comes out here.

paper (the rows and the numbers) -> runs (a training run a row and seed) -> text (Markdown, JSON).
"""

from batnet_jax.modes.tables.paper import TABLES, Row, Table
from batnet_jax.modes.tables.runs import run_table

__all__ = ["TABLES", "Row", "Table", "run_table"]
