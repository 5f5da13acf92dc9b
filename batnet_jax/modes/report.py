"""The mode `report`: a page that shows the rankings, the attention and the training of a run."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from batnet_jax.config import default_config, flatten
from batnet_jax.data.run_data import RetrievalTest, open_tests
from batnet_jax.errors import UserError, printable
from batnet_jax.evaluation.baselines import measure_baselines
from batnet_jax.evaluation.embed import Embed, make_embed
from batnet_jax.evaluation.evaluate import result_before
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import BATNet, parse_positions
from batnet_jax.models.init_variables import draw_variables
from batnet_jax.modes.report_attention import attention_rows, layer_figures
from batnet_jax.modes.report_exhibits import report_test
from batnet_jax.modes.report_run import run_facts
from batnet_jax.report import page
from batnet_jax.report.attention_maps import draw_attention_maps
from batnet_jax.report.attention_section import attention_section
from batnet_jax.report.settings import settings_section
from batnet_jax.report.summary import Measured, metrics_section
from batnet_jax.report.thumbnails import Thumbnails
from batnet_jax.report.training_section import training_section
from batnet_jax.runtime.atomic_write import write_atomically
from batnet_jax.runtime.resource_errors import as_run_failure
from batnet_jax.validation import EVALUATION_MEMORY
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.metrics_log import read_whole_lines
from batnet_jax.workdir.results import read_whole_results, tell_left_out
from batnet_jax.workdir.same_run import check_held_out

FOLDER = "report"
PAGE = "index.html"


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Evaluate a checkpoint and show its rankings, its attention and its training on one page.

    Raises: RunFailure if the disk or the memory is full; an older page is kept then.
    """
    with as_run_failure(workdir, memory=EVALUATION_MEMORY):
        written = write_report(config, workdir)
    print(printable(f"written: {', '.join(map(str, written))}"))


def write_report(config: ml_collections.ConfigDict, workdir: Path) -> list[Path]:
    """Write the page and the picture of a report; return their paths."""
    begun = time.monotonic()
    step = checkpoints.configured_step(config, workdir)
    metadata = checkpoints.restore_metadata(workdir, step)
    model, variables = restore_network(config, workdir, step)
    tests = _open_tests(config, metadata, workdir)
    evaluations = read_evaluations(workdir)
    folder = _make_folder(workdir / FOLDER)

    thumbnails, embed = Thumbnails(), make_embed(model, variables)
    reported = [
        report_test(config, test, embed, thumbnails, step=step, number=number, count=len(tests))
        for number, test in enumerate(tests)
    ]
    measured = [
        _measure(config, test, model, own.result, workdir)
        for test, own in zip(tests, reported, strict=True)
    ]
    attention = attention_rows(config, model, variables, tests[0], reported[0].sample)
    layers = layer_figures(config, model, variables, tests[0])
    progress = progress_of(reported[0].result, evaluations)
    lines, messages = read_whole_lines(workdir)
    tell_left_out(messages)
    saved = metadata.get("config") or json.loads(config.to_json())  # old checkpoints have none
    settings, defaults = flatten(saved), flatten(json.loads(default_config().to_json()))
    facts, versions = run_facts(workdir, lines, settings, seconds=time.monotonic() - begun)

    page.write_page(
        folder / PAGE,
        title=f"{workdir.absolute().name}: report",
        facts={
            "data set": tests[0].name,
            "step": f"{step:,}",
            "network": describe_network(config.model),
            "written": facts["written"],
        },
        sections=[
            metrics_section(measured),
            *(section for test in reported for section in test.sections),
            attention_section(attention, thumbnails, layers),
            training_section(lines, progress),
            settings_section(settings, defaults, facts=facts, versions=versions),
        ],
        styles=thumbnails.styles(),
    )
    if reported[0].verification is not None:  # `serve` and `search --accept` read the thresholds
        text = json.dumps({"verification": reported[0].verification}, indent=2) + "\n"
        write_atomically(folder / f"verification_step_{step}.json", text)
    written = [folder / PAGE]
    if attention:
        written.append(folder / f"attention_step_{step}.png")
        draw_attention_maps(written[-1], attention, dataset=tests[0].name, step=step)
    return written


def _measure(
    config: ml_collections.ConfigDict,
    test: RetrievalTest,
    model: BATNet,
    result: dict[str, Any],
    workdir: Path,
) -> Measured:
    """Return a result with the evaluation before it and the baselines of its test."""

    def make_untrained() -> Embed:
        return make_embed(model, draw_variables(model, tuple(config.data.image_size), config.seed))

    baselines = measure_baselines(config, test, make_untrained, workdir)
    return Measured(result, result_before(workdir, result), baselines)


def _open_tests(
    config: ml_collections.ConfigDict, metadata: dict[str, Any], workdir: Path
) -> list[RetrievalTest]:
    """Open the tests, validation last.

    Raises: UserError if the checkpoint was trained on identities that are held out now.
    """
    tests = open_tests(config)
    if config.data.val_identities:
        check_held_out(tests, metadata["identities"], workdir)
    return sorted(tests, key=lambda test: test.split != "test")


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to '{folder}' ({error.strerror}): correct its permissions"
        ) from error
    return folder


def describe_network(model: ml_collections.ConfigDict) -> str:
    """Return the config's `model` section in one line."""
    attention = f"attention {model.attention}"
    if model.attention != "none":
        positions = ", ".join(parse_positions(model.position))
        attention += f" at {positions}, r = {model.reduction}"
    parts = f"T = {model.num_parts} parts" if model.num_parts else "no parts"
    return f"BAT-net, {model.backbone}, {attention}, {parts}, width {model.width:g}"


def read_evaluations(workdir: Path) -> list[dict[str, Any]]:
    """Read all results that evaluations of a run left, each test of each step once, by step.

    Files that cannot be read are named on stderr and left out.
    """
    found, messages = read_whole_results(workdir)
    tell_left_out(messages)
    results: dict[tuple, dict[str, Any]] = {}
    for _, result in sorted(found, key=lambda own: (len(own[0].name), own[0].name)):
        results.setdefault((result["step"], result["dataset"], result["split"]), result)
    return sorted(results.values(), key=lambda result: result["step"])


def progress_of(
    result: dict[str, Any], evaluations: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the earlier evaluations of a result's test, by the same convention, and the result."""
    same = ("dataset", "split", "ap")
    earlier = [
        evaluation
        for evaluation in evaluations
        if evaluation["step"] < result["step"]
        and all(evaluation[name] == result[name] for name in same)
        and evaluation["leave_out_own"] == bool(result.get("leave_out_own"))
    ]
    return [*earlier, result]
