"""The command line: flags and modes; the work is done elsewhere.

python -m batnet_jax.main --config=configs/demo.py [--workdir=DIR] [--mode=MODE]
                          [--config.FIELD=VALUE ...]
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from batnet_jax import checkpoint, embedding, searching, serving
from batnet_jax.collection import check_held_out, open_collection, open_tests
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
    train(config, open_collection(config), workdir)


def run_eval(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Restores a checkpoint (config.eval.step; 0 = the latest) and evaluates it."""
    step = checkpoint.choose_step(workdir, config.eval.step)
    model, variables = restore_model(config, workdir, step)
    embed = make_embed(model, variables)
    trials = open_tests(config)
    if config.data.val_identities:
        check_held_out(trials, checkpoint.restore_run(workdir, step)["identities"], workdir)
    evaluate_trials(config, trials, embed, step=step, workdir=workdir)


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


def embed_images(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes the features of --images=DIR|LIST to --output=F.npz; needs no --config."""
    embedding.run_embed(config, workdir, _wanted(_IMAGES), _wanted(_OUTPUT), skip=_SKIP.value)


def search(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Ranks --gallery=F.npz|DIR for --query=IMG|DIR; --output=F.json, --faiss=F.index."""
    query, output, index = (f.value and Path(f.value) for f in (_QUERY, _OUTPUT, _FAISS))
    searching.run_search(
        config,
        workdir,
        gallery=_wanted(_GALLERY),
        query=query,
        top=_TOP.value,
        output=output,
        index=index,
    )


def serve(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """A page to drop an image on: ranks --gallery=F.npz|DIR; --port=8000, --host=127.0.0.1."""
    serving.run_serve(
        config, workdir, gallery=_wanted(_GALLERY), host=_HOST.value, port=_PORT.value
    )


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
    "embed": embed_images,
    "search": search,
    "serve": serve,
}
ALONE = ("embed", "search", "serve")
"""Modes that take the settings from the checkpoint where no --config is given."""

_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings: a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
_SOURCE = flags.DEFINE_string("source", None, "import: a .pth, .pth.tar or .safetensors file.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "import: the workdir to make; export, embed, search: the file."
)
_IMAGES = flags.DEFINE_string("images", None, "embed: a folder, or a list, one path a line.")
_SKIP = flags.DEFINE_boolean("skip_unreadable", False, "embed: leave out what is no image.")
_QUERY = flags.DEFINE_string("query", None, "search: an image, a folder or a list.")
_GALLERY = flags.DEFINE_string(
    "gallery", None, "search, serve: what embed wrote, a folder or a list."
)
_TOP = flags.DEFINE_integer("top", 10, "search: places of a ranked list.", lower_bound=1)
_FAISS = flags.DEFINE_string("faiss", None, "search: the index of the gallery to write.")
_TABLE = flags.DEFINE_integer(
    "table", None, "tables: which.", lower_bound=min(TABLES), upper_bound=max(TABLES)
)
_SEEDS = flags.DEFINE_list("seeds", None, "tables: of each row's runs; default config.seed.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "serve: the address to listen at.")
_PORT = flags.DEFINE_integer(
    "port", 8000, "serve: 0 = any that is free.", lower_bound=0, upper_bound=65535
)
FLAGS_OF = (
    (_TABLE, ("tables",)),
    (_SEEDS, ("tables",)),
    (_SOURCE, ("import",)),
    (_OUTPUT, ("import", "export", "embed", "search")),
    (_IMAGES, ("embed",)),
    (_SKIP, ("embed",)),
    (_QUERY, ("search",)),
    (_GALLERY, ("search", "serve")),
    (_TOP, ("search",)),
    (_FAISS, ("search",)),
    (_HOST, ("serve",)),
    (_PORT, ("serve",)),
)
"""The modes that each flag is for."""


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
    for flag, modes in FLAGS_OF:
        if flag.present and _MODE.value not in modes:
            wanted = " or ".join(f"--mode={mode}" for mode in modes)
            raise UserError(f"--{flag.name} is for {wanted}, not --mode={_MODE.value}")
    if _CONFIG.value is None and _MODE.value in ALONE and _WORKDIR.value:
        return
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
        config, workdir = settings()
        use_compilation_cache(Path(config.data.dir) / "xla_cache")
        join_processes()
        with Sigterm().listen():
            MODES[_MODE.value](config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except Terminated:
        print("terminated; the same command resumes from the last checkpoint", file=sys.stderr)
        return STATUS
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def settings() -> tuple[ml_collections.ConfigDict, Path]:
    """The config and the workdir that the command line names; see `ALONE`.

    Raises: UserError for a value that cannot work, or if the checkpoint does not say.
    """
    if _CONFIG.value is None:
        workdir = workdir_of(_WORKDIR.value)
        return embedding.read_config(workdir), workdir
    validate(_CONFIG.value)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    return _CONFIG.value, workdir_of(_WORKDIR.value or f"runs/{name}")


def workdir_of(name: str) -> Path:
    """The run's folder.

    Raises: UserError for a bucket: what a run writes line by line cannot be written there yet.
    """
    if "://" in name:
        raise UserError(
            f"--workdir={name}: a run cannot write to a bucket yet: name a folder, and copy it to"
            " the bucket, or mount that"
        )
    return Path(name)


def join_processes() -> None:
    """With BATNET_DISTRIBUTED=1, joins the processes of a Cloud TPU slice or a Slurm job.

    Raises: UserError if there are several: batches are not split over them yet.
    """
    if os.environ.get("BATNET_DISTRIBUTED") != "1":
        return
    number, place = (os.environ.get(f"BATNET_{n}") for n in ("NUM_PROCESSES", "PROCESS_ID"))
    jax.distributed.initialize(
        os.environ.get("BATNET_COORDINATOR"),
        None if number is None else int(number),
        None if place is None else int(place),
    )
    if jax.process_count() > 1:
        raise UserError(
            f"{jax.process_count()} processes: this version trains and evaluates in one process,"
            " on all its devices; start one, on a machine of one host"
        )


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled steps, so that resuming and evaluating start in seconds."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


def main() -> None:
    """The entry of `python -m batnet_jax.main`."""
    logging.set_verbosity(logging.WARNING)
    sys.argv = [quote_keyword(argument) for argument in sys.argv]  # config_flags reads it there
    sys.exit(run(sys.argv))


def quote_keyword(argument: str) -> str:
    """`init.from` as config_flags can parse it: `from` alone is a word of Python's."""
    name, equals, value = argument.partition("=")
    if name.removeprefix("-").removeprefix("-") != "config.init.from":
        return argument
    return f'--config.init["from"]{equals}{value}'


if __name__ == "__main__":
    main()
