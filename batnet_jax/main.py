"""The command line: flags and modes; the work is done elsewhere.

python -m batnet_jax.main --config=configs/demo.py [--workdir=DIR] [--mode=MODE]
                          [--config.FIELD=VALUE ...]
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from batnet_jax import bucket, checkpoint, hosts
from batnet_jax.collection import (
    Trial,
    check_held_out,
    fingerprint,
    open_collection,
    open_tests,
)
from batnet_jax.config import validate
from batnet_jax.errors import UserError
from batnet_jax.evaluate import evaluate_trials, make_embed, restore_model
from batnet_jax.interruption import STATUS, Sigterm, Terminated
from batnet_jax.pretrained import run_export, run_import
from batnet_jax.reporting import run_report
from batnet_jax.tables import TABLES, run_table
from batnet_jax.train import check_run, train

USER_ERROR = 2


def run_train(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Prepares the data if needed, trains or resumes, evaluates."""
    check_run(config, workdir)
    collection = hosts.lead_first(lambda: open_collection(config))
    hosts.check_same("training images", fingerprint([collection.train.images]))
    check_same_tests([*collection.val, *collection.tests])
    train(config, collection, workdir)


def run_eval(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Restores a checkpoint (config.eval.step; 0 = the latest) and evaluates it."""
    step = hosts.by_lead(lambda: checkpoint.choose_step(workdir, config.eval.step))
    model, variables = restore_model(config, workdir, step)
    embed = make_embed(model, variables)
    trials = hosts.lead_first(lambda: open_tests(config))
    check_same_tests(trials)
    if config.data.val_identities:
        run = hosts.by_lead(lambda: checkpoint.restore_run(workdir, step))
        check_held_out(trials, run["identities"], workdir)
    evaluate_trials(config, trials, embed, step=step, workdir=workdir)


def check_same_tests(trials: Sequence[Trial]) -> None:
    """Refuses processes that would test on different images.

    Raises: UserError in all processes.
    """
    splits = [split for t in trials for split in (t.query, t.gallery, t.more_query) if split]
    hosts.check_same("test images", fingerprint(splits))


def import_weights(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Makes a checkpoint in --output of PyTorch's or other weights in --source."""
    del workdir
    source, output = _wanted(_SOURCE), _wanted(_OUTPUT)
    run_import(config, source, output)


def export_weights(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes a checkpoint under the published PyTorch names to --output (.pth, .safetensors)."""
    output = _wanted(_OUTPUT)
    step = checkpoint.choose_step(workdir, config.eval.step)
    _, variables = restore_model(config, workdir, step)
    run_export(config, variables, output)


def _wanted(flag: flags.FlagHolder[str | None]) -> Path:
    """The path of a flag that the mode needs."""
    if not flag.value:
        raise UserError(f"--mode={_MODE.value} needs --{flag.name}")
    return Path(flag.value)


def run_tables(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains the rows of the paper's table --table=1..7, with each of --seeds=0,1,...; resumes."""
    if _TABLE.value is None:
        raise UserError(f"--mode=tables needs --table: a number of {min(TABLES)}..{max(TABLES)}")
    given = [str(config.seed)] if _SEEDS.value is None else _SEEDS.value
    seeds = [int(seed) for seed in given if seed.isdecimal()]
    if not seeds or len(set(seeds)) < len(given):
        raise UserError(f"--seeds={','.join(given)}: give different numbers, as in --seeds=0,1,2")
    run_table(config, workdir, _TABLE.value, seeds)


MODES: dict[str, Callable[[ml_collections.ConfigDict, Path], None]] = {
    "train": run_train,
    "eval": run_eval,
    "import": import_weights,
    "export": export_weights,
    "tables": run_tables,
    "report": run_report,
}
SHARED_MODES = ("train", "eval")  # which several processes, or a workdir in a bucket, can do

_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings: a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
_SOURCE = flags.DEFINE_string("source", None, "import: a .pth, .pth.tar or .safetensors file.")
_OUTPUT = flags.DEFINE_string("output", None, "import: the workdir to make; export: the file.")
_TABLE = flags.DEFINE_integer(
    "table", None, "tables: which.", lower_bound=min(TABLES), upper_bound=max(TABLES)
)
_SEEDS = flags.DEFINE_list("seeds", None, "tables: of each row's runs; default config.seed.")


def usage() -> str:
    """What `--help` prints."""
    modes = "\n".join(f"  {name:8}{f.__doc__}" for name, f in MODES.items())
    return f"{__doc__}\nmodes (default train):\n{modes}\n\nfields: see batnet_jax/config.py"


def parse(argv: list[str]) -> None:
    """Parses the command line.

    Raises: UserError for whatever is wrong with it.
    """
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # config_flags raises whatever the config file does
        innermost: object = error
        while isinstance(innermost, Exception) and innermost.args:  # str(KeyError) is a repr
            innermost = innermost.args[0]
        text = innermost if isinstance(innermost, str) else str(error)
        message = " ".join(text.split()) or type(error).__name__
        raise UserError(f"{message} (see --help; fields are in batnet_jax/config.py)") from error
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}: flags look like --config=FILE")
    tables, ways = ("tables",), ("import", "export")
    for flag, modes in ((_TABLE, tables), (_SEEDS, tables), (_SOURCE, ways[:1]), (_OUTPUT, ways)):
        if flag.present and _MODE.value not in modes:
            wanted = " or ".join(f"--mode={mode}" for mode in modes)
            raise UserError(f"--{flag.name} is for {wanted}, not --mode={_MODE.value}")
    if _CONFIG.value is None:
        raise UserError("no --config given: try --config=configs/demo.py")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    if not Path(path).is_file():  # found out by config_flags at the first use only
        raise UserError(f"--config={path} does not exist: name a file of configs/")


def run(argv: list[str]) -> int:
    """Runs a command line; returns the exit status."""
    if {"-h", "-help", "--help"} & set(argv):
        print(usage())
        return 0
    try:
        parse(argv)
        config = _CONFIG.value
        validate(config)
        name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        use_compilation_cache(Path(config.data.dir) / "xla_cache")
        hosts.join()
        check_together(config)
        with Sigterm().listen():
            MODES[_MODE.value](config, bucket.path_of(_WORKDIR.value or f"runs/{name}"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except Terminated:
        print("terminated; the same command resumes from the last checkpoint", file=sys.stderr)
        return STATUS
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        if hosts.is_lost(error):
            print(f"error: {hosts.describe_loss(error)}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0


def check_together(config: ml_collections.ConfigDict) -> None:
    """Refuses several processes that were started for different things, or for what one does.

    And a workdir in a bucket for what needs a folder.

    Raises: UserError in all processes.
    """
    if (_WORKDIR.value or "").startswith(bucket.SCHEME) and _MODE.value not in SHARED_MODES:
        raise UserError(
            f"--mode={_MODE.value} works on a folder: copy '{_WORKDIR.value}' to one, and name that"
        )
    if not hosts.alone() and _MODE.value not in SHARED_MODES:
        raise UserError(
            f"--mode={_MODE.value} runs in one process, not in {jax.process_count()}: start one,"
            f" or {' or '.join(f'--mode={mode}' for mode in SHARED_MODES)}"
        )
    settings = f"{_MODE.value} {_WORKDIR.value} {config.to_json()}"
    hosts.check_same("arguments", settings)


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled steps, so that resuming and evaluating start in seconds."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


def main() -> None:
    """The entry of `python -m batnet_jax.main`."""
    logging.set_verbosity(logging.WARNING)
    sys.argv = [quote_keyword(argument) for argument in sys.argv]  # config_flags reads it there
    status = run(sys.argv)
    hosts.leave(status)
    sys.exit(status)


def quote_keyword(argument: str) -> str:
    """`init.from` as config_flags can parse it: `from` alone is a word of Python's."""
    name, equals, value = argument.partition("=")
    if name.removeprefix("-").removeprefix("-") != "config.init.from":
        return argument
    return f'--config.init["from"]{equals}{value}'


if __name__ == "__main__":
    main()
