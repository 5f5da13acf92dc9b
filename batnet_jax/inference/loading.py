"""Load a model from a workdir, a checkpoint, or a file of weights."""

import os
from collections.abc import Collection
from pathlib import Path

import ml_collections

from batnet_jax.data.files.safe_open import check_local
from batnet_jax.inference.model import Model
from batnet_jax.inference.restore import restore_trained
from batnet_jax.inference.saved_settings import choose_checkpoint, read_config, refuse_step
from batnet_jax.runtime import processes
from batnet_jax.runtime.compilation_cache import use_compilation_cache
from batnet_jax.runtime.paths import is_file
from batnet_jax.runtime.xla_flags import choose_cpu_libraries
from batnet_jax.validation import check_trusted, from_saved, validate
from batnet_jax.weights.given import load_given
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.same_run import check_image_size


def load(
    path: str | os.PathLike,
    *,
    step: int = 0,
    batch: int = 0,
    image_size: tuple[int, int] | None = None,
    trust: str | Collection[str] = (),
) -> Model:
    """Load a trained model from a workdir, a checkpoint, or a file of weights.

    Args:
      path: a workdir, of a run or made by `--mode=import`; `<workdir>/checkpoints/<step>`; a copy
        of such a folder; or a .pth, .pth.tar or .safetensors file, see docs/weights.md. The names
        of its tensors show the network of a file, and a warning on stderr says what is assumed.
      step: the checkpoint of a workdir; 0 = the latest.
      batch: images per step, over all devices; 0 = `config.eval.batch`, which gives the features
        of an evaluation to the last bit. A smaller batch embeds a single image sooner.
      image_size: (height, width) for a file of weights, which does not contain it; None = the size
        that its authors use. A checkpoint contains its own.
      trust: your own packages that may be imported, as in "mypkg", if the checkpoint's network
        uses them, see docs/extend.md. Without your word nothing is imported.

    Compiled programs are kept in the user's cache, see `runtime.compilation_cache`.

    Raises: UserError if the checkpoint or the file is missing, damaged or unknown, or names code
      that is not trusted.
    """
    # As main does; without effect if JAX has already computed something.
    choose_cpu_libraries()
    use_compilation_cache()
    check_local(path)
    path = Path(path)
    config = read_config(path, step)
    check_trusted(config, path, trust, sections=("model",))
    if image_size is not None:
        config.data.image_size = tuple(image_size)
        validate(config)
    return load_with_config(config, path, step=step, batch=batch)


def load_with_config(
    config: ml_collections.ConfigDict,
    path: Path,
    *,
    step: int = 0,
    batch: int = 0,
    apart: bool = False,
) -> Model:
    """Load a trained model as `load` does, with settings that must describe its network.

    Args:
      config: the settings.
      path: see `load`.
      step: see `load`.
      batch: see `load`.
      apart: each of several processes embeds images of its own. The first one reads the checkpoint
        and sends the variables to the others.

    Raises: UserError if the config describes another network or another image size.
    """
    batch = batch or config.eval.batch
    if is_file(path):
        refuse_step(path, step)
        network, variables = load_given(config, path)
        return Model(network, variables, config=config, step=0, batch=batch, apart=apart)
    workdir, step = processes.by_lead(lambda: _choose(config, path, step))
    network, variables, taken = restore_trained(config, workdir, step)
    return Model(network, variables, config=config, step=taken, batch=batch, apart=apart)


def _choose(config: ml_collections.ConfigDict, path: Path, step: int) -> tuple[Path, int]:
    """Return the workdir and the step of a checkpoint, after a look at its image size.

    Raises: UserError if there is none, or its images have another size.
    """
    workdir, step = choose_checkpoint(path, step)
    saved = checkpoints.restore_metadata(workdir, step).get("config")
    if saved:
        check_image_size(config, tuple(from_saved(saved).data.image_size), path)
    return workdir, step
