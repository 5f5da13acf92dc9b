"""The modes `import` and `export`, and the start of training from a source."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from batnet_jax import checkpoint
from batnet_jax.errors import UserError
from batnet_jax.pretrained.convert import Report, Source, fill, flatten, to_torch
from batnet_jax.pretrained.names import BATNET, published_name
from batnet_jax.pretrained.reading import SAFETENSORS, import_torch
from batnet_jax.pretrained.sources import check_agrees, open_source
from batnet_jax.steps import init_state, make_recipe

REPORT = "import.txt"
EXPORTS = (".pth", ".pth.tar", SAFETENSORS)


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
    if checkpoint.latest_step(output) is not None:
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
    run = checkpoint.facts(config, unknown_identities(classes))
    try:
        output.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(checkpoint.open_manager(output)) as manager:
            checkpoint.save(manager, 0, state.replace(**filled), run)  # type: ignore[attr-defined]
        (output / REPORT).write_text(report.text())
    except OSError as error:
        raise UserError(f"cannot write to --output={output} ({error.strerror})") from error
    print(f"{report.summary()}\nwritten: {output / checkpoint.FOLDER / '0'}, {output / REPORT}")
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


def initialise(
    config: ml_collections.ConfigDict,
    variables: dict[str, Any],
    source: Path,
    *,
    identities: Sequence[Sequence] | None = None,
) -> tuple[dict[str, Any], Report]:
    """The variables that training starts from: `init.from`.

    What the source has is taken. The part streams are copied from the backbone where it has none.
    The classifiers are taken only from a workdir that was trained on the same identities.

    Args:
      config: validated.
      variables: `params` and `batch_stats` of the fresh network.
      source: a .pth, .pth.tar or .safetensors file, or a workdir of this package.
      identities: those to be trained on, as in a checkpoint's `run`.
    Returns: new variables of the same structure, NumPy float32, and the report.

    Raises: UserError if the source cannot be read safely or whole, or does not fit the network.
    """
    opened = open_source(config, source)
    check_agrees(opened, config.model, whole=False)
    same = identities is not None and opened.identities == [list(who) for who in identities]
    return fill(variables, opened, keep_classifiers=same)


def run_export(config: ml_collections.ConfigDict, variables: dict[str, Any], output: Path) -> None:
    """Writes a trained network under the published code's names.

    Args:
      config: its `model` section describes the network.
      variables: `params` and `batch_stats`.
      output: a .pth, .pth.tar (a plain state dict) or .safetensors file.

    Raises: UserError if the published code has no such network, or the file cannot be written.
    """
    for name, wanted in (("backbone", "published"), ("kernel", "bilinear"), ("neck", "none")):
        own = config.model.get(name, wanted)
        if own != wanted:
            raise UserError(
                f"config.model.{name}={own!r} has no published names, only {wanted!r} has: "
                "cannot export it"
            )
    count = export_torch(variables, output)
    if config.model.num_parts and config.model.part_sampling != "published":
        print(
            "note: this was trained with model.part_sampling=paper; the published code, and "
            "--mode=import, resize the parts in another way, so their features will differ"
        )
    print(f"written: {output}, {count} tensors under the published code's names")


def export_torch(variables: dict[str, Any], path: Path) -> int:
    """Writes variables under the published code's names, Bi()'s channels in its order.

    Importing the file gives the same variables, to the last bit. The part predictors, which the
    published code has and does not use, are written at their initial values, so that it can load
    the file as it is.

    Args:
      variables: `params` and `batch_stats`, of the published backbone.
      path: a .pth, .pth.tar or .safetensors file.
    Returns: how many tensors.

    Raises: UserError if the suffix is another, if the published code has no such network, or if
      the file cannot be written.
    """
    if not path.name.endswith(EXPORTS):
        raise UserError(f"--output={path} does not end in one of {', '.join(EXPORTS)}: choose one")
    tensors = {}
    for key, value in flatten(variables).items():
        name = published_name(key)
        if name is None:
            raise UserError(f"the published code has no '{'/'.join(key[1:-1])}': cannot export it")
        tensors[name] = to_torch(key, value)
    _check_attention(tensors)
    tensors |= _part_predictors(tensors)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == SAFETENSORS:
            from safetensors.numpy import save_file

            save_file(tensors, partial)
        else:
            torch = import_torch("writing .pth")
            torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, partial)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write --output={path} ({error.strerror})") from error
    return len(tensors)


def _check_attention(tensors: dict[str, np.ndarray]) -> None:
    """The published names have one Bi-attention, at p2, with Bi() for its kernel.

    Raises: UserError if this is another.
    """
    layer = "features.bilinearatt_global.dimReduceLayer{}.conv.conv.weight"
    if layer.format(1) not in tensors:
        return
    embedded, channels = tensors[layer.format(1)].shape[:2]
    pairs = tensors[layer.format(2)].shape[1]
    after = tensors["features.inception2.inception_4a.conv1.0.weight"].shape[1]
    if channels != after or pairs != embedded * (embedded + 1) // 2:
        raise UserError(
            "the published names have one Bi-attention, at p2, of the bilinear kernel, and this "
            "network has another: cannot export it"
        )


def _part_predictors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The published code's part predictors as it makes them: centres of T stripes; no weights."""
    parts = sum(".".join(n.split(".")[3:]) == "inception_4a.conv1.0.bias" for n in tensors)
    if not parts:
        return {}
    inputs = (
        tensors["features.inception2.inception_4a.conv1.0.weight"].shape[1],
        tensors["features.inception3.inception_5a.conv1.0.weight"].shape[1],
        tensors["features.norm1_1.weight"].shape[0],
    )
    centres = (2 * np.arange(parts) + 1) / parts - 1
    bias = np.concatenate([np.zeros(parts), centres]).astype(np.float32)
    predictors = {}
    for number, channels in enumerate(inputs, 1):
        name = f"features.part_predictor{number}.fc"
        predictors[f"{name}.weight"] = np.zeros((2 * parts, channels), np.float32)
        predictors[f"{name}.bias"] = bias.copy()
    return predictors
