"""The mode `compare`: what runs differ in, by how much, and how sure that is.

text: the comparison as text for the terminal.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from batnet_jax.errors import UserError, printable
from batnet_jax.evaluation.comparison import UNITS, compare
from batnet_jax.evaluation.evaluated_run import read_curves
from batnet_jax.modes.compare.text import format_comparison
from batnet_jax.modes.flags import OUTPUT, report_write_errors
from batnet_jax.report.comparison import comparison_sections
from batnet_jax.report.page import Section, write_page
from batnet_jax.report.sections import title_of
from batnet_jax.runtime.atomic_write import write_atomically

HELP = "Compares --runs=DIR,DIR,...: settings, figures with intervals, curves; needs no --config."
RUNS = flags.DEFINE_list(
    "runs", None, "two or more workdirs; the first is compared with the others"
)
TEST = flags.DEFINE_string(
    "test", None, "the data set to compare on; default the first of each run"
)
STEP = flags.DEFINE_integer("step", 0, "of the evaluations; 0 = the latest of each", lower_bound=0)
RESAMPLE = flags.DEFINE_enum("resample", "identity", UNITS, "what intervals and p-values draw")
NEEDS = (RUNS,)
TAKES = (TEST, STEP, RESAMPLE, OUTPUT)

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
