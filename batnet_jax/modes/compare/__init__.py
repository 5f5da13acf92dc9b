"""The mode `compare`: the differences between runs, with intervals and p-values.

text: the comparison as text for the terminal.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.errors import UserError, printable
from batnet_jax.evaluation.comparison import compare
from batnet_jax.evaluation.evaluated_run import read_curves
from batnet_jax.modes.compare.text import format_comparison
from batnet_jax.modes.flags import check_json, report_write_errors
from batnet_jax.report.comparison import comparison_sections
from batnet_jax.report.page import Section, write_page
from batnet_jax.report.sections import title_of
from batnet_jax.runtime.atomic_write import write_atomically

FOLDER = "compare"
PAGE = "index.html"


def run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    runs: list[str],
    test: str | None,
    step: int,
    resample: str,
    output: Path | None,
) -> None:
    """Compare runs; print the comparison, and write the page `compare/index.html`.

    Args:
      config: not used; each run has its own.
      workdir: where `compare/` is made.
      runs: see `compare`.
      test: see `compare`.
      step: see `compare`.
      resample: see `unit` of `compare`.
      output: the .json to write; None = none.

    Raises: UserError, as `compare` does, and if a file cannot be written.
    """
    del config
    check_json("output", output)
    comparison = compare([name for name in runs if name], test=test, step=step, unit=resample)
    curves, messages = [], []
    for own in comparison["runs"]:
        found, problems = read_curves(Path(own["workdir"]), comparison["test"])
        curves.append(found)
        messages += problems
    for message in [*(own["reason"] for own in comparison["left_out"]), *messages]:
        print(f"left out: {printable(message)}", file=sys.stderr)
    written = [workdir / FOLDER / PAGE]
    if output is not None:
        with report_write_errors("output", output):
            write_atomically(output, json.dumps(comparison, indent=1) + "\n")
        written.append(output)
    _write_page(written[0], comparison, comparison_sections(comparison, curves, messages))
    print(format_comparison(comparison))
    print(f"written: {', '.join(printable(str(path)) for path in written)}")


def _write_page(path: Path, comparison: Mapping[str, Any], sections: Sequence[Section]) -> None:
    """Write the page.

    Raises: UserError if it cannot be written.
    """
    title = f"Comparison of {len(comparison['runs'])} runs"
    facts = {
        "test": title_of(comparison["test"]),
        "compared with": comparison["runs"][0]["name"],
    }
    try:
        write_page(path, title=title, facts=facts, sections=sections)
    except OSError as error:
        raise UserError(
            f"cannot write '{path}' ({error.strerror}): name another folder with --workdir"
        ) from error
