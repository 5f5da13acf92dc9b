"""The mode `export`: write a checkpoint as a file for other programs, and the file's card."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import ml_collections

from batnet_jax.errors import UserError, printable
from batnet_jax.export.formats import FORMATS, check_installed
from batnet_jax.export.model_card import ExportedModel, model_card, read_results
from batnet_jax.export.published import SUFFIXES, to_bytes, to_published
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import BATNet, feature_sizes
from batnet_jax.modes.flags import report_write_errors
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.compile_time import compiling
from batnet_jax.runtime.paths import existing_parent, is_folder
from batnet_jax.validation import from_saved, validate
from batnet_jax.weights.read_tensors import SAFETENSORS, import_torch
from batnet_jax.workdir import checkpoints

DELAY = 1.0
"""Seconds until the progress of a conversion is shown."""


def run(config: ml_collections.ConfigDict, workdir: Path, *, output: Path) -> None:
    """Write a checkpoint as a file for other programs, and `<output>.md`, the file's card.

    Args:
      config: `model` and `data.image_size` describe the network, `eval.step` picks the checkpoint.
      workdir: of the run; the figures in its `eval/` go into the card.
      output: its suffix is a key of `FORMATS` or one of `SUFFIXES`.

    Raises: UserError if the file cannot be written, or the checkpoint is missing or of another
      network. An older file at `output` is kept then.
    """
    check_output(output)
    step = checkpoints.configured_step(config, workdir)
    metadata = with_settings(checkpoints.restore_metadata(workdir, step))
    results = read_results(workdir, step)
    model, variables = restore_network(config, workdir, step)
    height, width = size = tuple(config.data.image_size)
    trained = tuple(metadata["config"]["data"]["image_size"]) if "config" in metadata else size
    lines = []
    if trained != size:
        lines += [
            f"note: for images of {height} x {width}, and trained on {trained[0]} x {trained[1]}"
        ]
    if output.suffix in FORMATS:
        name = output.suffix.removeprefix(".")
        words = (f"converting to {name}", f"converted to {name}")
        with compiling("export", name, model, size, delay=DELAY, words=words):
            content = FORMATS[output.suffix](model, variables, size)
        write_whole(output, content)
    else:
        lines += write_published(output, model, variables)
    written = output.read_bytes()
    exported = ExportedModel(
        step=step,
        metadata=metadata,
        results=results,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        image_size=size,
        sha256=hashlib.sha256(written).hexdigest(),
        size=len(written),
        features=feature_sizes(variables["params"]),
    )
    card = card_path(output)
    write_whole(card, model_card(output.name, exported).encode(errors="backslashreplace"))
    lines.append(f"written: {output}, {len(written):,} bytes, and its card, {card}")
    print("\n".join(map(printable, lines)))


def with_settings(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a checkpoint with all fields of its settings, if it has any.

    Raises: UserError if they are not the settings of a run.
    """
    if metadata.get("config") is None:  # a checkpoint of the first versions
        return metadata
    settings = from_saved(metadata["config"])
    validate(settings)
    return metadata | {"config": json.loads(settings.to_json())}


def write_published(output: Path, model: BATNet, variables: dict[str, Any]) -> list[str]:
    """Write a network's weights under the published code's names.

    Returns: the lines to print: what was written, and a note if the published code would compute
      other features.
    Raises: UserError if the published code has no such network, or the file cannot be written.
    """
    tensors = to_published(model, variables)
    suffix = next(suffix for suffix in SUFFIXES if output.name.endswith(suffix))
    write_whole(output, to_bytes(tensors, suffix))
    lines = [f"written: {output}, {len(tensors)} tensors under the published code's names"]
    if model.num_parts and model.part_sampling != "published":
        lines.insert(
            0,
            f"note: this was trained with model.part_sampling={model.part_sampling}; the published "
            "code, and --mode=import, resize the parts in another way: their features will differ",
        )
    return lines


def card_path(output: Path) -> Path:
    """Return the path of a file's card, in the same folder."""
    return output.with_name(f"{output.name}.md")


def check_output(output: Path) -> None:
    """Refuse an output that could not be written, before the checkpoint is restored.

    Raises: UserError for an unknown suffix, a missing package, or a folder without write access.
    """
    suffixes = (*FORMATS, *SUFFIXES)
    if not output.name.endswith(suffixes):
        raise UserError(f"--output={output} does not end in one of {', '.join(suffixes)}: choose")
    if output.suffix in FORMATS:
        check_installed(output.suffix)
    elif output.suffix != SAFETENSORS:
        import_torch("writing .pth")
    for path in (output, card_path(output)):
        if is_folder(path):
            raise UserError(f"'{path}' is a folder: name another --output")
    existing = existing_parent(output.absolute().parent)
    if not is_folder(existing) or not os.access(existing, os.W_OK):
        raise UserError(f"cannot write to '{existing}': name another --output than {output}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole, or keep the file that exists.

    Raises: UserError if the file cannot be written.
    """
    with report_write_errors("output", path):
        write_atomically(path, content)
