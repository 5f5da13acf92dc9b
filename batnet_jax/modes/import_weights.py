"""The mode `import`: make a checkpoint of weights from a PyTorch or safetensors file."""

import contextlib
import hashlib
import re
from pathlib import Path

import ml_collections

from batnet_jax.errors import ArgumentError, UserError, printable
from batnet_jax.modes.flags import report_write_errors
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.paths import exists, is_file, is_folder
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.validation import as_flags
from batnet_jax.weights.convert import Source
from batnet_jax.weights.fill import fill
from batnet_jax.weights.init_from import IMPORTED
from batnet_jax.weights.load_report import Report
from batnet_jax.weights.names import BATNET
from batnet_jax.weights.sources import OtherNetworkError, check_agrees, open_source
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.gcs import is_bucket

REPORT = "import.txt"
RUNS = Path("runs")
OF_WEIGHTS = "weights"
"""The key of the file's checksum among the fingerprints of a checkpoint's data."""
SUFFIX = re.compile(r"(\.pth|\.pt|\.safetensors)?(\.tar)?$", re.IGNORECASE)


def run(config: ml_collections.ConfigDict, workdir: Path, *, source: Path, output: Path) -> None:
    """Import weights from a file into a new workdir, and print a summary.

    Args:
      config: see `import_weights`.
      workdir: not used; `output` is the workdir.
      source: see `import_weights`.
      output: see `import_weights`.

    Raises: see `import_weights`.
    """
    del workdir
    _import(config, source, output)


def _import(config: ml_collections.ConfigDict, source: Path, output: Path) -> None:
    report = import_weights(config, source, output)
    print(printable(report.summary()))
    print(printable(f"written: {output / checkpoints.FOLDER / '0'}, {output / REPORT}"))


def workdir_of(config: ml_collections.ConfigDict, path: Path) -> Path:
    """Return the workdir for a path; make one below `runs` for a file of weights, and say so.

    Args:
      config: see `import_weights`.
      path: a workdir or a checkpoint, which is returned as it is, or a file of weights. An earlier
        import of the same file is used again.

    Raises: UserError if the folder holds another run, and as `import_weights`.
    """
    if is_bucket(path) or not is_file(path):
        return path
    found = found_workdir(path)
    if found is not None:
        print(printable(f"'{found}' holds the weights of '{path}'"))
        return found
    folder = _folder_for(path)
    if checkpoints.latest_step(folder) is not None:
        raise UserError(
            f"'{folder}', the place for the results of '{path}', holds another run: import the "
            f"file to a place of its own by batnet import {path} FOLDER, and name that"
        )
    _import(config, path, folder)
    return folder


def found_workdir(path: Path) -> Path | None:
    """Return the workdir that `workdir_of` has made for a file of weights; None if it has not."""
    folder = _folder_for(path)
    step = checkpoints.latest_step(folder)
    if step is None:
        return None
    data = checkpoints.restore_metadata(folder, step).get("data", {})
    return folder if data.get(OF_WEIGHTS) == checksum(path) else None


def _folder_for(path: Path) -> Path:
    return RUNS / SUFFIX.sub("", path.name)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def import_weights(config: ml_collections.ConfigDict, source: Path, output: Path) -> Report:
    """Make a checkpoint of step 0 from a PyTorch or safetensors file.

    A published BAT-net gives all values; its identities have no names. A backbone also gives the
    part streams' values. The other layers keep their initial values, and the classifiers have one
    class.

    Args:
      config: validated; its `model` section must describe the network.
      source: the file.
      output: the workdir to make, with `checkpoints/0` and the report as `import.txt`.

    Raises: UserError if the file cannot be read safely and completely, or its network is not the
      config's, or the output cannot be written or has a checkpoint. Nothing is written then.
    """
    if exists(output) and not is_folder(output):
        raise UserError(f"--output={output} is a file: name a folder to make")
    if checkpoints.latest_step(output) is not None:
        raise UserError(f"--output={output} already holds a checkpoint: name another folder")
    if is_folder(source):
        raise UserError(f"--source={source} is a folder: name a .pth or .safetensors file")
    try:
        opened = open_source(config, source)
        check_agrees(opened, config.model, whole=True)
    except OtherNetworkError as error:
        raise UserError(f"{error}: pass {as_flags('model', error.found)}") from error
    except ArgumentError as error:
        raise UserError(f"{error} (--config.init.{error.argument}=...)") from error
    classes = _count_classes(opened)
    recipe = make_recipe(config, num_identities=classes, steps_per_epoch=1)
    state = init_state(recipe, tuple(config.data.image_size))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    filled, report = fill(variables, opened, keep_classifiers=opened.format == BATNET)
    data = {OF_WEIGHTS: checksum(source)}
    metadata = checkpoints.metadata(config, _nameless_identities(classes), data)
    with report_write_errors("output", output, folder=True):
        output.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(checkpoints.open_manager(output)) as manager:
            checkpoints.save(manager, 0, state.start_with(filled), metadata)
        write_atomically(output / REPORT, report.text())
    return report


def _nameless_identities(count: int) -> list[list]:
    """Return the identities for a checkpoint of an unknown training set."""
    return [[IMPORTED, label, ""] for label in range(count)]


def _count_classes(opened: Source) -> int:
    """Return the number of a source's identities, 1 for a backbone.

    Raises: UserError if the classifier is not a matrix, or is empty.
    """
    name = "classifier_global.1.weight"
    if opened.format != BATNET or name not in opened.tensors:
        return 1
    shape = opened.tensors[name][1].shape
    if len(shape) != 2 or 0 in shape:  # an empty tensor may declare any number of rows
        raise UserError(f"'{opened.label}' has {name} of shape {shape}: check that it is whole")
    return shape[0]
