"""The command line: read the flags, pick the mode, report errors.

python -m batnet_jax.main --config=configs/demo.py [--workdir=DIR] [--mode=MODE]
                          [--config.FIELD=VALUE ...]

An installed package has the same as `batnet`, and its configs by name: batnet --config=demo
The mode may be the first word: batnet search --workdir=DIR ...; batnet metrics QUERY GALLERY
"""

import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from batnet_jax.config import default_config, set_fields
from batnet_jax.errors import MAX_CHARACTERS, RunFailure, UserError, one_line
from batnet_jax.inference import model as inference_model
from batnet_jax.modes import (
    MODES,
    OF_RUNS,
    POSITIONAL,
    RESUMING,
    SHARED,
    WITHOUT_CONFIG,
    WITHOUT_RUN,
)
from batnet_jax.modes.config_files import config_names, name_configs
from batnet_jax.modes.flags import given_fields
from batnet_jax.runtime import processes
from batnet_jax.runtime.paths import is_file, is_folder
from batnet_jax.runtime.preemption import STATUS, Sigterm, Terminated
from batnet_jax.runtime.streams import flush_streams, keep_streams
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.training.fitted import fit_negatives
from batnet_jax.validation import validate
from batnet_jax.version import VERSION
from batnet_jax.workdir import gcs
from batnet_jax.workdir.run_folder import older_settings

USER_ERROR = 2
RUN_FAILURE = 1
INTERRUPTED = 130

_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings: a file of configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder; default runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")


def usage() -> str:
    """Return the text of `--help`."""
    modes = "\n".join(f"  {name:8}{mode.HELP}" for name, mode in MODES.items())
    return f"{__doc__}\nmodes (default train):\n{modes}\n\nfields: see batnet_jax/config.py"


def parse(argv: list[str]) -> None:
    """Parse the command line.

    Raises: UserError for a mistake in the flags or in the config file.
    """
    try:
        rest = flags.FLAGS(name_words(argv))
    except Exception as error:  # config_flags raises whatever the config file raises
        innermost: object = error
        while isinstance(innermost, Exception) and innermost.args:  # str(KeyError) is a repr
            innermost = innermost.args[0]
        text = innermost if isinstance(innermost, str) else str(error)
        message = one_line(text or error, MAX_CHARACTERS)
        raise UserError(f"{message} (see --help; fields are in batnet_jax/config.py)") from error
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}: flags look like --config=FILE")
    check_flags()
    if _MODE.value in WITHOUT_RUN:
        if flags.FLAGS["config"].present or flags.FLAGS["workdir"].present:
            raise UserError(f"--mode={_MODE.value} reads no run: omit --config and --workdir")
        return
    if _MODE.value in OF_RUNS:
        if flags.FLAGS["config"].present:
            raise UserError(f"--mode={_MODE.value} reads the settings of the runs: omit --config")
        return
    joining = os.environ.get("BATNET_DISTRIBUTED") == "1"  # precedes reading a checkpoint
    if _CONFIG.value is None and _MODE.value in WITHOUT_CONFIG and _WORKDIR.value and not joining:
        return
    if _CONFIG.value is None:
        workdir = " or --workdir=DIR of a run" if _MODE.value in WITHOUT_CONFIG else ""
        raise UserError(f"no --config given: try --config=configs/demo.py{workdir}")
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    path = re.sub(r"\.py:.*", ".py", path)  # the file's argument follows a colon
    if not is_file(Path(path)):  # config_flags notices only when the config is used
        names = ", ".join(config_names())
        raise UserError(f"--config={path} does not exist: name a file, or one of {names}")


def name_words(argv: list[str]) -> list[str]:
    """Return a command line `batnet MODE WORD ... [--flag ...]` with flags for the words."""
    if len(argv) < 2 or argv[1] not in MODES:
        return argv
    mode = argv[1]
    named, free = [argv[0], f"--mode={mode}"], list(POSITIONAL.get(mode, ()))
    before = ""
    for word in argv[2:]:
        flag = before.lstrip("-")
        takes_word = before.startswith("-") and "=" not in before and flag in flags.FLAGS
        is_value = takes_word and not flags.FLAGS[flag].boolean
        if free and not word.startswith("-") and not is_value:
            named.append(f"--{free.pop(0)}={word}")
        else:
            named.append(word)
        before = word
    return named


def check_flags() -> None:
    """Refuse flags of other modes, and a mode without a flag that it needs.

    Raises: UserError naming the flag.
    """
    own = flags_of(MODES[_MODE.value])
    for mode in MODES.values():
        for name, flag in flags_of(mode).items():
            if flag.present and name not in own:
                modes = [f"--mode={other}" for other in MODES if name in flags_of(MODES[other])]
                raise UserError(f"--{name} is for {' or '.join(modes)}, not --mode={_MODE.value}")
    for flag in MODES[_MODE.value].NEEDS:
        if flag.value is None:
            meaning = flags.FLAGS[flag.name].help
            raise UserError(f"--mode={_MODE.value} needs --{flag.name}: {meaning}")


def flags_of(mode: ModuleType) -> dict[str, flags.FlagHolder]:
    """Return a mode's own flags by name."""
    return {flag.name: flag for flag in (*mode.NEEDS, *mode.TAKES)}


def run(argv: list[str]) -> int:
    """Run a command line.

    Returns: the exit status.
    """
    if {"-h", "-help", "--help"} & set(argv):
        print(usage())
        return 0
    if "--version" in argv:
        print(f"batnet-jax {VERSION}")
        return 0
    choose_cpu_libraries()
    next_time = "starts from the beginning"
    try:
        parse(argv)
        if _MODE.value in RESUMING:
            next_time = "resumes from the last checkpoint"
        run_mode(MODES[_MODE.value])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except RunFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return RUN_FAILURE
    except Terminated:
        print(f"terminated; the same command {next_time}", file=sys.stderr)
        return STATUS
    except KeyboardInterrupt:
        print(f"interrupted; the same command {next_time}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if processes.is_lost(error):
            print(f"error: {processes.describe_loss(error)}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0


def run_mode(mode: ModuleType) -> None:
    """Run a mode with the settings and flags of the command line."""
    config, workdir = settings()
    # A config that a checkpoint has saved may name a folder of another machine.
    if _CONFIG.value is not None or is_folder(Path(config.data.dir)):
        use_compilation_cache(Path(config.data.dir) / "xla_cache")
    processes.join()
    keep_older_settings(config, workdir)
    check_together(config)
    values = {name: flag.value for name, flag in flags_of(mode).items()}
    with Sigterm().listen():
        mode.run(config, workdir, **values)


def settings() -> tuple[ml_collections.ConfigDict, Path]:
    """Return the config and the workdir of the command line; without --config, the checkpoint's.

    Raises: UserError for a value that cannot work, or if the checkpoint has no settings.
    """
    if _MODE.value in OF_RUNS + WITHOUT_RUN:
        return default_config(), gcs.path_of(_WORKDIR.value or "runs")
    if _CONFIG.value is None:
        workdir = gcs.path_of(_WORKDIR.value or "")
        return inference_model.read_config(workdir), workdir
    config = fit_negatives(_CONFIG.value, given_fields())
    if config.loss != _CONFIG.value.loss and _MODE.value in RESUMING:
        p, k = config.batch.identities, config.batch.images_per_identity
        number = config.loss.num_negatives
        print(f"loss.num_negatives={number}: a batch of {p} x {k} has no more negatives an anchor")
    validate(config)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    return config, gcs.path_of(_WORKDIR.value or f"runs/{name}")


def keep_older_settings(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Set the fields that the run of a workdir is older than, unless the command line gives them.

    A run goes on as it began, although the default has changed since.
    """
    if _CONFIG.value is None or _MODE.value in OF_RUNS:
        return
    given = config_flags.get_override_values(flags.FLAGS["config"])
    older = processes.by_lead(lambda: older_settings(workdir))
    set_fields(config, {name: value for name, value in older.items() if name not in given})


def check_together(config: ml_collections.ConfigDict) -> None:
    """Refuse processes with different commands, and modes that need one process or a folder.

    Raises: UserError in all processes.
    """
    if (_WORKDIR.value or "").startswith(gcs.SCHEME) and _MODE.value not in SHARED:
        raise UserError(
            f"--mode={_MODE.value} works on a folder: copy '{_WORKDIR.value}' to one, and name that"
        )
    if not processes.alone() and _MODE.value not in SHARED:
        raise UserError(
            f"--mode={_MODE.value} runs in one process, not in {jax.process_count()}: start one,"
            f" or {' or '.join(f'--mode={mode}' for mode in SHARED)}"
        )
    command = f"{_MODE.value} {_WORKDIR.value} {config.to_json()}"
    processes.check_same("arguments", command)


def use_compilation_cache(folder: Path) -> None:
    """Keep compiled steps in a folder, so that resuming and evaluating start in seconds."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))


def main() -> None:
    """Run the command line of the process: of `python -m batnet_jax.main` and of `batnet`."""
    keep_streams()
    logging.set_verbosity(logging.WARNING)
    hush_orbax()
    # config_flags reads sys.argv itself.
    sys.argv = name_configs([quote_keyword(argument) for argument in sys.argv])
    status = run(sys.argv)
    try:
        flush_streams()
    except RunFailure as error:
        print(f"error: {error}", file=sys.stderr)
        status = status or RUN_FAILURE
    processes.leave(status)
    sys.exit(status)


def hush_orbax() -> None:
    """Drop the tracebacks that Orbax logs, several times, for every error that it also raises."""
    logging.get_absl_logger().addFilter(lambda record: not record.exc_info)
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        # TensorStore reports the error to an event loop that Orbax has already closed.
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others


def quote_keyword(argument: str) -> str:
    """Return `--config.init.from` in a form that config_flags can parse; `from` is a keyword."""
    name, equals, value = argument.partition("=")
    if name.removeprefix("-").removeprefix("-") != "config.init.from":
        return argument
    return f'--config.init["from"]{equals}{value}'


if __name__ == "__main__":
    main()
