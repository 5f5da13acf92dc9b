"""TODO."""

import contextlib
from pathlib import Path

import ml_collections

from batnet_jax.errors import UserError
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.weights.convert import Report, Source, fill
from batnet_jax.weights.names import BATNET
from batnet_jax.weights.sources import check_agrees, open_source
from batnet_jax.workdir import checkpoints

REPORT = "import.txt"


def unknown_identities(count: int) -> list[list]:
    """The identities of a checkpoint that does not say whom it was trained on."""
    return [["imported", label, ""] for label in range(count)]


def run_import(config: ml_collections.ConfigDict, source: Path, output: Path) -> Report:
    """Makes a checkpoint, step 0, of a PyTorch or .safetensors file.

    A published BAT-net is taken whole, its identities being nameless. Of a backbone, the part
    streams are copies and the rest has its initial values; its classifiers have one class.

    Args:
      config: validated; its `model` section must describe the network.
      source: the file.
      output: the workdir to make; `checkpoints/0` and `import.txt`, a line a tensor.
    Returns: the report, whose summary is printed too.

    Raises: UserError if the file cannot be read safely or whole, or is of another network than
      the config's, or the output cannot be written or holds a checkpoint; nothing is written then.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is a file: name a folder to make")
    if checkpoints.latest_step(output) is not None:
        raise UserError(f"--output={output} already holds a checkpoint: name another folder")
    if source.is_dir():
        raise UserError(f"--source={source} is a folder: name a .pth or .safetensors file")
    opened = open_source(config, source)
    check_agrees(opened, config.model, whole=True)
    classes = _count_classes(opened)
    recipe = make_recipe(config, num_identities=classes, steps_per_epoch=1)
    state = init_state(recipe, tuple(config.data.image_size))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    filled, report = fill(variables, opened, keep_classifiers=opened.format == BATNET)
    run = checkpoints.metadata(config, unknown_identities(classes))
    try:
        output.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(checkpoints.open_manager(output)) as manager:
            checkpoints.save(manager, 0, state.replace(**filled), run)  # type: ignore[attr-defined]
        (output / REPORT).write_text(report.text())
    except OSError as error:
        raise UserError(f"cannot write to --output={output} ({error.strerror})") from error
    print(f"{report.summary()}\nwritten: {output / checkpoints.FOLDER / '0'}, {output / REPORT}")
    return report


def _count_classes(opened: Source) -> int:
    """How many identities a source tells apart; 1 for a backbone.

    Raises: UserError if its classifier is none.
    """
    name = "classifier_global.1.weight"
    if opened.format != BATNET or name not in opened.tensors:
        return 1
    shape = opened.tensors[name][1].shape
    if len(shape) != 2 or 0 in shape:  # of no size, a tensor may have any shape
        raise UserError(f"'{opened.label}' has {name} of shape {shape}: check that it is whole")
    return shape[0]
