"""Training from Python, as the command `train` does it."""

import os
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections

from batnet_jax.commands.config_files import find_config
from batnet_jax.commands.words import name_of, read_data, value_of
from batnet_jax.config import FIELDS, default_config, flatten, set_fields
from batnet_jax.errors import UserError
from batnet_jax.inference.loading import load_with_config
from batnet_jax.inference.model import Model
from batnet_jax.modes.train import prepare
from batnet_jax.runtime.compilation_cache import use_compilation_cache
from batnet_jax.runtime.quiet import hushed_absl
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.training import loop
from batnet_jax.training.fitted import fit_negatives
from batnet_jax.validation import import_own_code, validate
from batnet_jax.workdir import gcs
from batnet_jax.workdir.run_folder import older_settings


class Trained(NamedTuple):
    """What `train` returns."""

    figures: dict[str, Any]
    """The figures of the last evaluation on the first test, as in `eval/step_<N>.json`: `mAP`,
    `cmc`, ..."""
    model: Model
    """The trained network."""


def load_config(name: str | os.PathLike) -> ml_collections.ConfigDict:
    """Return the settings of a config file.

    Args:
      name: a config that comes with the package, such as "demo", or the path of your own file.

    Raises: UserError if the config does not exist.
    """
    path = find_config(os.fspath(name))
    if not os.path.isfile(path):
        raise UserError(f"there is no config '{name}': batnet configs lists all, or name a file")
    return runpy.run_path(path)["get_config"]()


def train(
    config: ml_collections.ConfigDict | str | os.PathLike,
    workdir: str | os.PathLike = "",
    fields: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a network, or resume its training, and evaluate it, as `batnet train` does.

    Args:
      config: settings, see `load_config`; the name of a config, as "demo"; a config file; or your
        images: a folder with a folder of each person, an archive or a table (docs/own_data.md).
      workdir: of the run; "" = `runs/<name of the config or of the images>`. A config of settings
        has no name and needs one.
      fields: settings by their dotted names, as in {"model.width": 0.5}. What is given here, or
        differs from the settings that come with the package, is not chosen by the size of the
        training set, see `config.fit`.

    Returns: the figures of the last evaluation, and the model.

    Raises: UserError for a mistake; NotFiniteError and RunFailure as `training.loop.train`.
    """
    choose_cpu_libraries()
    use_compilation_cache()
    settings, place = _open_config(config)
    unknown = sorted((fields or {}).keys() - FIELDS.keys())
    if unknown:
        raise UserError(f"fields: there is no setting {unknown[0]!r}: batnet fields lists all")
    if not (workdir or place):
        raise UserError("settings without a name need a workdir: name a folder")
    for name, value in (fields or {}).items():
        try:
            set_fields(settings, {name: value})
        except (TypeError, ValueError) as error:
            raise UserError(
                f"fields: {name}={value!r} is of another type: give a value such as "
                f"{FIELDS[name].default!r}"
            ) from error
    given = {*(fields or {}), *_changed(settings)}
    validate(settings := fit_negatives(settings, given))
    import_own_code(settings)
    folder = gcs.path_of(os.fspath(workdir) or place)
    older = {name: value for name, value in older_settings(folder).items() if name not in given}
    set_fields(settings, older)
    settings, data = prepare(settings, folder, given)
    with hushed_absl():
        figures = loop.train(settings, data, folder)
    return Trained(figures, load_with_config(settings, folder))


def _open_config(config: Any) -> tuple[ml_collections.ConfigDict, str]:
    """Return a copy of the settings, and the workdir that their name gives; "" = none."""
    if isinstance(config, ml_collections.ConfigDict):
        return config.copy_and_resolve_references(), ""
    flags = {name_of(word).lstrip("-"): value_of(word) for word in read_data(os.fspath(config), ())}
    settings = load_config(flags["config"])
    if images := flags.get("config.data.manual_dir"):
        settings.data.manual_dir = images
    return settings, flags.get("workdir", f"runs/{Path(flags['config']).stem}")


def _changed(config: ml_collections.ConfigDict) -> set[str]:
    """Return the settings that differ from the defaults and from those of images of one's own."""
    shipped = [flatten(start) for start in (default_config(), load_config("folder"))]
    values = flatten(config)
    return {name for name, value in values.items() if all(value != own[name] for own in shipped)}
