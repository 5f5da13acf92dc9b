"""The command line: flags and modes; the work is done elsewhere.

python -m batnet_jax.main --config=configs/demo.py [--workdir=DIR] [--mode=MODE]
                          [--config.FIELD=VALUE ...]

An installed package has the same as `batnet`, and its configs by name: batnet --config=demo
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from batnet_jax.errors import RunFailure, UserError
from batnet_jax.inference import model as inference_model
from batnet_jax.modes.config_files import config_names, name_configs
from batnet_jax.modes.embed import run_embed
from batnet_jax.modes.eval import run_eval
from batnet_jax.modes.export import run_export
from batnet_jax.modes.import_weights import run_import
from batnet_jax.modes.report import run_report
from batnet_jax.modes.search import run_search
from batnet_jax.modes.serve import run_serve
from batnet_jax.modes.tables import TABLES, run_table
from batnet_jax.modes.train import run_train
from batnet_jax.runtime import processes
from batnet_jax.runtime.preemption import STATUS, Sigterm, Terminated
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.validation import validate
from batnet_jax.version import VERSION
from batnet_jax.workdir import gcs

USER_ERROR = 2
RUN_FAILURE = 1


def import_weights(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Makes a checkpoint in --output of PyTorch's or other weights in --source."""
    del workdir
    source, output = _wanted(_SOURCE), _wanted(_OUTPUT)
    run_import(config, source, output)


def export_weights(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes a checkpoint to --output: .stablehlo, .onnx; .pth, .safetensors: published names."""
    run_export(config, workdir, _wanted(_OUTPUT))


def _wanted(flag: flags.FlagHolder[str | None]) -> Path:
    """The path of a flag that the mode needs."""
    if not flag.value:
        raise UserError(f"--mode={_MODE.value} needs --{flag.name}")
    return Path(flag.value)


def embed_images(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes the features of --images=DIR|LIST to --output=F.npz; needs no --config."""
    run_embed(config, workdir, _wanted(_IMAGES), _wanted(_OUTPUT), skip=_SKIP.value)


def search(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Ranks --gallery=F.npz|DIR for --query=IMG|DIR; --output=F.json, --faiss=F.index."""
    query, output, index = (Path(f.value) if f.value else None for f in (_QUERY, _OUTPUT, _FAISS))
    run_search(
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
    run_serve(config, workdir, gallery=_wanted(_GALLERY), host=_HOST.value, port=_PORT.value)


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
AFTERWARDS = {True: "resumes from the last checkpoint", False: "starts from the beginning"}
SHARED_MODES = ("train", "eval")  # which several processes, or a workdir in a bucket, can do

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
    joining = os.environ.get("BATNET_DISTRIBUTED") == "1"  # comes before a checkpoint is read
    if _CONFIG.value is None and _MODE.value in ALONE and _WORKDIR.value and not joining:
        return
    if _CONFIG.value is None:
        raise UserError("no --config given: try --config=configs/demo.py")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    if not Path(path).is_file():  # found out by config_flags at the first use only
        names = ", ".join(config_names())
        raise UserError(f"--config={path} does not exist: name a file, or one of {names}")


def run(argv: list[str]) -> int:
    """Runs a command line; returns the exit status."""
    if {"-h", "-help", "--help"} & set(argv):
        print(usage())
        return 0
    if "--version" in argv:
        print(f"batnet-jax {VERSION}")
        return 0
    choose_cpu_libraries()
    resumes = False
    try:
        parse(argv)
        resumes = _MODE.value in ("train", "tables")
        config, workdir = settings()
        if _CONFIG.value is not None or Path(config.data.dir).is_dir():  # else another machine's
            use_compilation_cache(Path(config.data.dir) / "xla_cache")
        processes.join()
        check_together(config)
        with Sigterm().listen():
            MODES[_MODE.value](config, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except RunFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return RUN_FAILURE
    except Terminated:
        print(f"terminated; the same command {AFTERWARDS[resumes]}", file=sys.stderr)
        return STATUS
    except KeyboardInterrupt:
        print(f"interrupted; the same command {AFTERWARDS[resumes]}", file=sys.stderr)
        return 130
    except Exception as error:
        if processes.is_lost(error):
            print(f"error: {processes.describe_loss(error)}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0


def settings() -> tuple[ml_collections.ConfigDict, Path]:
    """The config and the workdir that the command line names; see `ALONE`.

    Raises: UserError for a value that cannot work, or if the checkpoint does not say.
    """
    if _CONFIG.value is None:
        workdir = gcs.path_of(_WORKDIR.value or "")
        return inference_model.read_config(workdir), workdir
    validate(_CONFIG.value)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    return _CONFIG.value, gcs.path_of(_WORKDIR.value or f"runs/{name}")


def check_together(config: ml_collections.ConfigDict) -> None:
    """Refuses several processes that were started for different things, or for what one does.

    And a workdir in a bucket for what needs a folder.

    Raises: UserError in all processes.
    """
    if (_WORKDIR.value or "").startswith(gcs.SCHEME) and _MODE.value not in SHARED_MODES:
        raise UserError(
            f"--mode={_MODE.value} works on a folder: copy '{_WORKDIR.value}' to one, and name that"
        )
    if not processes.alone() and _MODE.value not in SHARED_MODES:
        raise UserError(
            f"--mode={_MODE.value} runs in one process, not in {jax.process_count()}: start one,"
            f" or {' or '.join(f'--mode={mode}' for mode in SHARED_MODES)}"
        )
    settings = f"{_MODE.value} {_WORKDIR.value} {config.to_json()}"
    processes.check_same("arguments", settings)


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled steps, so that resuming and evaluating start in seconds."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


def main() -> None:
    """The entry of `python -m batnet_jax.main` and of `batnet`."""
    logging.set_verbosity(logging.WARNING)
    hush_orbax()
    # config_flags reads it there
    sys.argv = name_configs([quote_keyword(argument) for argument in sys.argv])
    status = run(sys.argv)
    processes.leave(status)
    sys.exit(status)


def hush_orbax() -> None:
    """Keeps to a line what Orbax raises: it logs each error too, with tracebacks, several times."""
    logging.get_absl_logger().addFilter(lambda record: not record.exc_info)
    show = sys.unraisablehook

    def shown(what: Any) -> None:
        # TensorStore tells an event loop of the error that Orbax has already closed.
        if str(what.exc_value) != "Event loop is closed":
            show(what)

    sys.unraisablehook = shown


def quote_keyword(argument: str) -> str:
    """`init.from` as config_flags can parse it: `from` alone is a word of Python's."""
    name, equals, value = argument.partition("=")
    if name.removeprefix("-").removeprefix("-") != "config.init.from":
        return argument
    return f'--config.init["from"]{equals}{value}'


if __name__ == "__main__":
    main()
