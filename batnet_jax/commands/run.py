"""Runs a mode: reads and checks its settings, and turns its end into a line and an exit status."""

import importlib
import sys
import traceback
from pathlib import Path
from signal import SIGINT
from types import ModuleType

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from batnet_jax.commands.command_line import CONFIG, MODE, TRUST, WORKDIR, command, parse, values
from batnet_jax.commands.config_files import SAVED
from batnet_jax.commands.table import MODES
from batnet_jax.config import default_config, set_fields
from batnet_jax.errors import RunFailure, UserError
from batnet_jax.inference.saved_settings import read_config
from batnet_jax.modes.flags import given_fields
from batnet_jax.modes.import_weights import workdir_of
from batnet_jax.runtime import processes
from batnet_jax.runtime.compilation_cache import use_compilation_cache
from batnet_jax.runtime.own_code import search_current_folder
from batnet_jax.runtime.signals import Signals, Terminated
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.training.fitted import fit_negatives
from batnet_jax.validation import check_trusted, import_own_code, own_code, validate
from batnet_jax.workdir import gcs
from batnet_jax.workdir.run_folder import older_settings

RUN_FAILURE = 1


def run_line(argv: list[str]) -> int:
    """Run a command line in the long form, which must be sys.argv, too.

    Returns: the exit status, unless a user's mistake ends it.
    Raises: UserError.
    """
    choose_cpu_libraries()
    next_time = "; the same command starts from the beginning"
    try:
        parse(argv)
        next_time = after_signal()
        if command().on_cpu:
            jax.config.update("jax_platforms", "cpu")
        run_mode(load_mode(MODE.value))
    except UserError:
        raise
    except RunFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return RUN_FAILURE
    except KeyboardInterrupt as error:
        signal = error if isinstance(error, Terminated) else Terminated(SIGINT)
        print(f"{signal.word}{next_time}", file=sys.stderr)
        return signal.status
    except Exception as error:
        if processes.is_lost(error):
            print(f"error: {processes.describe_loss(error)}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0


def after_signal() -> str:
    """Return the end of the line about a signal: what the same command does next time."""
    if MODE.value == "serve":
        return ""
    if command().resumes:
        return "; the same command resumes from the last checkpoint"
    if values().get("resume"):
        return "; the same command continues from the counts that it kept"
    return "; the same command starts from the beginning"


def load_mode(name: str) -> ModuleType:
    """Import the module of a mode."""
    return importlib.import_module(f"batnet_jax.modes.{MODES[name].module}")


def run_mode(mode: ModuleType) -> None:
    """Run a mode with the settings and flags of the command line."""
    is_saved = CONFIG.value is None and command().settings == "saved"
    if is_saved:
        processes.join()  # reading a checkpoint starts JAX, which is too late to join then
    config, workdir = settings()
    use_compilation_cache()
    if not is_saved:
        processes.join()
    keep_older_settings(config, workdir)
    check_together(config)
    with Signals().listen(alone=processes.alone()):
        if command().keeps:
            workdir = processes.by_lead(lambda: workdir_of(config, workdir))
        mode.run(config, workdir, **values())


def settings() -> tuple[ml_collections.ConfigDict, Path]:
    """Return the config and the workdir of the command line; without --config, the checkpoint's.

    Raises: UserError for a value that cannot work, or if the checkpoint has no settings.
    """
    if command().settings in ("runs", "none"):
        return default_config(), gcs.path_of(WORKDIR.value or "runs")
    if CONFIG.value is None and command().settings == "source":
        return read_config(values()["source"]), Path("runs")
    if CONFIG.value is None:
        workdir = gcs.path_of(WORKDIR.value or "")
        config = processes.by_lead(lambda: read_config(workdir))
        open_own_code(config, is_saved=True)
        return config, workdir
    config = fit_negatives(CONFIG.value, given_fields())
    if config.loss != CONFIG.value.loss and command().resumes:
        p, k = config.batch.identities, config.batch.images_per_identity
        number = config.loss.num_negatives
        print(f"loss.num_negatives={number}: a batch of {p} x {k} has no more negatives an anchor")
    validate(config)
    file, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(".py:")
    is_saved = bool(argument) and Path(f"{file}.py").resolve() == Path(SAVED).resolve()
    open_own_code(config, is_saved=is_saved)
    name = Path(file).stem
    return config, gcs.path_of(WORKDIR.value or f"runs/{name}")


def open_own_code(config: ml_collections.ConfigDict, *, is_saved: bool) -> None:
    """Import the user's own code that a config names; modules of the current folder, too.

    Args:
      config: validated.
      is_saved: the settings come from a checkpoint, except those on the command line. Their code is
        imported only where it is used, and only if the user trusts it.

    Raises: UserError, as `check_trusted` and `import_own_code` do.
    """
    if own_code(config):
        search_current_folder()
    if not is_saved:
        import_own_code(config)
        return
    sections = ("model", "data", "eval") if command().tests else ("model",)
    given, source = given_fields(), WORKDIR.value or "the checkpoint"
    check_trusted(config, source, TRUST.value, sections=sections, given=given)


def keep_older_settings(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Set the fields that are newer than the run of a workdir, unless the command line gives them.

    A run keeps the values that it began with, even if later defaults differ.
    """
    if CONFIG.value is None or command().settings == "runs":
        return
    given = config_flags.get_override_values(flags.FLAGS["config"])
    older = processes.by_lead(lambda: older_settings(workdir))
    set_fields(config, {name: value for name, value in older.items() if name not in given})


def check_together(config: ml_collections.ConfigDict) -> None:
    """Refuse processes with different commands, and modes that need one process or a folder.

    Raises: UserError in all processes.
    """
    mode, workdir = MODE.value, WORKDIR.value or ""
    shared = [name for name, own in MODES.items() if own.shared]
    if workdir.startswith(gcs.SCHEME) and mode not in shared:
        raise UserError(f"--mode={mode} works on a folder: copy '{workdir}' to one, and name that")
    if not processes.alone() and mode not in shared:
        raise UserError(
            f"--mode={mode} runs in one process, not in {jax.process_count()}: start one,"
            f" or {' or '.join(f'--mode={name}' for name in shared)}"
        )
    processes.check_same("arguments", f"{mode} {WORKDIR.value} {config.to_json()}")
