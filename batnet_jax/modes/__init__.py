"""The modes of the command line, one file or folder each.

A mode is a module with
  HELP: its line of `--help`.
  NEEDS: the flags that it cannot do without.
  TAKES: its other flags.
  run(config, workdir, **flags): does the work. Each flag's value comes under the flag's name.
"""

from types import ModuleType

from batnet_jax.modes import (
    compare,
    embed,
    eval,
    export,
    import_weights,
    metrics,
    report,
    search,
    serve,
    tables,
    train,
)

MODES: dict[str, ModuleType] = {
    "train": train,
    "eval": eval,
    "import": import_weights,
    "export": export,
    "tables": tables,
    "report": report,
    "compare": compare,
    "metrics": metrics,
    "embed": embed,
    "search": search,
    "serve": serve,
}
WITHOUT_CONFIG = ("embed", "search", "serve")
"""Modes that take the settings from the checkpoint if no --config is given."""
WITHOUT_RUN = ("metrics",)
"""Modes that read neither settings nor a workdir, and take no --config."""
POSITIONAL = {"metrics": ("query", "gallery")}
"""The flags that words without a flag set, in their order, in `batnet MODE WORD ...`."""
OF_RUNS = ("compare",)
"""Modes that read the settings of several runs, and take no --config. Their workdir is `runs`."""
SHARED = ("train", "eval")
"""Modes that several processes can run together, and that accept a workdir in a bucket."""
RESUMING = ("train", "tables")
"""Modes that resume from their last checkpoint when they are started again."""
