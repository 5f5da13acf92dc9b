"""The mode `eval`: evaluate a checkpoint on the config's tests."""

from pathlib import Path

import ml_collections

from batnet_jax.data.run_data import open_tests
from batnet_jax.evaluation.embed import Embed, make_embed
from batnet_jax.evaluation.evaluate import run_tests
from batnet_jax.inference.restore import restore_network
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.modes.train import check_same_images
from batnet_jax.runtime import processes
from batnet_jax.runtime.resource_errors import as_run_failure
from batnet_jax.validation import EVALUATION_MEMORY
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.run_folder import check_writable
from batnet_jax.workdir.same_run import check_held_out


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Print the figures of the checkpoint `config.eval.step`, and write them to `eval/`."""

    def choose() -> int:
        step = checkpoints.configured_step(config, workdir)
        check_writable(workdir)
        return step

    step = processes.by_lead(choose)
    model, variables = restore_network(config, workdir, step)
    tests = processes.lead_first(lambda: open_tests(config))
    check_same_images(tests)
    if config.data.val_identities:
        metadata = processes.by_lead(lambda: checkpoints.restore_metadata(workdir, step))
        check_held_out(tests, metadata["identities"], workdir)
    with as_run_failure(workdir, memory=EVALUATION_MEMORY):
        embed = make_embed(model, variables)

        def make_untrained() -> Embed:
            size = tuple(config.data.image_size)
            return make_embed(model, draw_variables(model, size, config.seed))

        run_tests(config, tests, embed, step=step, workdir=workdir, make_untrained=make_untrained)
