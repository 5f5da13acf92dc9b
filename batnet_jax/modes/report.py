"""The mode `report`: a checkpoint, what it finds, and how it was trained, as a page (CONTRACT)."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from batnet_jax import retrieval
from batnet_jax.config import default_config
from batnet_jax.data.run_data import RetrievalTest, check_held_out, open_tests
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import Embed, make_embed
from batnet_jax.evaluation.evaluate import Ranked, camera_of, open_store, ranked, result_of
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import BATNet, parse_positions
from batnet_jax.models.preprocess import normalise
from batnet_jax.modes.report_exhibits import (
    choose_queries,
    hardest_identities,
    make_cards,
    pairs_of_cameras,
)
from batnet_jax.report import page, sections
from batnet_jax.report.attention_maps import AttentionRow, draw_attention_maps, mean_maps
from batnet_jax.report.attention_section import attention_section
from batnet_jax.report.cards import KINDS, cards
from batnet_jax.report.page import Section
from batnet_jax.report.ranked_list import Person
from batnet_jax.report.settings import settings_section
from batnet_jax.report.thumbnails import Thumbnails
from batnet_jax.runtime.progress import counting_bar
from batnet_jax.workdir import checkpoints
from batnet_jax.workdir.metrics_log import read_metrics
from batnet_jax.workdir.run_folder import flatten

FOLDER = "report"
PAGE = "index.html"
LISTS = 20
"""Ranked lists of each kind, shared by the tests: more would not be looked through. So the page
stays below some 10 MB however many queries there are."""
ATTENDED = 6
"""Queries whose attention is drawn."""

_KEYS = {"dataset", "split", "step", "mAP", "cmc", "ap"}


class Look(NamedTuple):
    """What the report says of a test."""

    result: dict[str, Any]
    """As `eval/step_<N>.json`."""
    sections: list[Section]
    chosen: list[int]
    """A few of the queries whose lists are shown."""


def run_report(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Evaluates a checkpoint; shows what it finds, where it looks and how it was trained."""
    step = checkpoints.choose_step(workdir, config.eval.step)
    run = checkpoints.restore_run(workdir, step)
    model, variables = restore_network(config, workdir, step)
    tests = open_tests(config)
    if config.data.val_identities:
        check_held_out(tests, run["identities"], workdir)
    tests.sort(key=lambda test: test.split != "test")
    evaluations = read_evaluations(workdir / "eval")
    folder = _make_folder(workdir / FOLDER)
    thumbnails, embed = Thumbnails(), make_embed(model, variables)
    looks = [
        look_at(config, test, embed, thumbnails, step=step, tests=len(tests), number=number)
        for number, test in enumerate(tests)
    ]
    attention = attention_rows(config, model, variables, tests[0], looks[0].chosen)
    settings = run.get("config") or json.loads(config.to_json())  # an old checkpoint has none
    parts = [
        sections.metrics_section([look.result for look in looks]),
        *(section for look in looks for section in look.sections),
        attention_section(attention, thumbnails),
        sections.training_section(read_metrics(workdir), progress_of(looks[0].result, evaluations)),
        settings_section(flatten(settings), flatten(json.loads(default_config().to_json()))),
    ]
    facts = {"data set": tests[0].name, "step": f"{step:,}", "network": describe(config.model)}
    page.write_page(
        folder / PAGE,
        title=f"{workdir.absolute().name}: report",
        facts=facts,
        sections=parts,
        styles=thumbnails.styles(),
    )
    written = [folder / PAGE]
    if attention:
        written.append(folder / f"attention_step_{step}.png")
        draw_attention_maps(written[-1], attention, dataset=tests[0].name, step=step)
    print(f"written: {', '.join(map(str, written))}")


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to '{folder}' ({error.strerror}): mend its rights"
        ) from error
    return folder


def look_at(
    config: ml_collections.ConfigDict,
    test: RetrievalTest,
    embed: Embed,
    thumbnails: Thumbnails,
    *,
    step: int,
    tests: int = 1,
    number: int = 0,
) -> Look:
    """Embeds a test's images, once, and reads off them all that the report shows.

    Args:
      config: see `evaluate.ranked` and `evaluate.result_of`.
      test: the test.
      embed: see `make_embed`.
      thumbnails: take in the images.
      step: steps the model has been trained for.
      tests: how many share the page.
      number: of this one, from 0.
    """
    with ranked(config, test, embed, breakdown=True) as found:
        result = result_of(config, test, found, step)
        average_precisions = found.figures["per_query"]["average_precision"]
        kinds = choose_queries(average_precisions, max(LISTS // tests, 2), config.seed)
        shown = make_cards(test, found, kinds, thumbnails)
        hardest = hardest_identities(test, found, thumbnails)
        with counting_bar("camera pairs", "camera") as progress:
            pairs = pairs_of_cameras(test, found, progress)
        verification = _verification(test, found, result)
        first_ranks = [rank for rank in found.figures["per_query"]["first_rank"] if rank]
    tail = f"-{number}" * (number > 0)
    behind = f": {sections.title_of(result)}" * (tests > 1)
    lists = page.paragraph(_say_kinds(kinds, result)) + cards(shown, key=f"list{tail}")
    parts = [
        sections.curves_section(
            first_ranks,
            verification,
            sections.title_of(result),
            key=f"curves{tail}",
            title=f"Curves{behind}",
        ),
        Section(f"ranked-lists{tail}", f"Ranked lists{behind}", lists),
        sections.hardest_section(hardest, pairs, key=f"hardest{tail}", title=f"Hardest{behind}"),
    ]
    places = np.unique(np.linspace(0, len(kinds) - 1, ATTENDED).astype(int))  # some of each kind
    return Look(result, parts, [list(kinds)[place] for place in places])


def _verification(
    test: RetrievalTest, found: Ranked, result: dict[str, Any]
) -> dict[str, Any] | str:
    """Error rates over all pairs, or why there are none."""
    if "verification" in result:
        return result["verification"]
    query, gallery = test.query, test.gallery
    try:
        with counting_bar("all pairs", "query") as progress:
            return retrieval.verify(
                found.features["query"],
                query.pids,
                query.cameras,
                found.features["gallery"],
                gallery.pids,
                gallery.cameras,
                same_camera=found.settings["same_camera"],
                progress=progress,
            )
    except UserError as error:  # a gallery of one person has no pair of two
        return str(error)


def _say_kinds(kinds: dict[int, list[str]], result: dict[str, Any]) -> str:
    meanings = "; ".join(f"{kind}: {meaning}" for kind, meaning in KINDS.items())
    text = f"{len(kinds):,} of {result['num_valid_query']:,} queries, chosen by kind ({meanings})."
    skipped = result["num_query"] - result["num_valid_query"]
    if skipped:
        text += f" Another {skipped:,} have no match in the gallery."
    return text + " On the left the query, then the gallery, best first."


def describe(model: ml_collections.ConfigDict) -> str:
    """The config's `model` section, in a line."""
    parts = f"T = {model.num_parts} parts" if model.num_parts else "no parts"
    where = ", ".join(parse_positions(model.position))
    attention = f"attention {model.attention}"
    attention += f" at {where}, r = {model.reduction}" * (model.attention != "none")
    return f"BAT-net, {attention}, {parts}, width {model.width:g}"


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """All that a run's evaluations have left, each test of each step once; ascending by step.

    Raises: UserError if a file is damaged.
    """
    found: dict[tuple, dict[str, Any]] = {}
    for path in sorted(folder.glob("step_*.json"), key=lambda path: (len(path.name), path.name)):
        try:
            result = json.loads(path.read_text())
        except ValueError:
            result = None
        if not isinstance(result, dict) or not result.keys() >= _KEYS:
            raise UserError(f"'{path}' is damaged: delete it, or write it anew with --mode=eval")
        found.setdefault((result["step"], result["dataset"], result["split"]), result)
    return sorted(found.values(), key=lambda result: result["step"])


def progress_of(
    result: dict[str, Any], evaluations: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The evaluations of the same test on the way to a result, and it."""
    same = ("dataset", "split", "ap")
    return [
        *(
            earlier
            for earlier in evaluations
            if earlier["step"] < result["step"]
            and all(earlier[name] == result[name] for name in same)
        ),
        result,
    ]


def attention_rows(
    config: ml_collections.ConfigDict,
    model: BATNet,
    variables: dict[str, Any],
    test: RetrievalTest,
    chosen: Sequence[int],
) -> list[AttentionRow]:
    """The attention of some queries.

    Returns: nothing if the network has no attention.
    """
    if model.attention == "none":
        return []
    query, rows = test.query, np.array(chosen)
    with open_store(config, query, keep=False) as store:
        images = store.batch(rows)
    # What lies behind the attention is not computed: XLA drops it.
    attention = jax.jit(functools.partial(attention_step, model=model))(variables, images)
    cameras = [camera_of(query, i) for i in chosen]
    people = map(Person, images, query.pids[rows].tolist(), cameras)
    maps = mean_maps(jax.device_get(attention))
    return [AttentionRow(*pair) for pair in zip(people, maps, strict=True)]


def attention_step(variables: dict[str, Any], images: jax.Array, *, model: BATNet) -> Any:
    """Images [b, h, w, 3] bytes to the maps around each Bi-attention; see `BATNet.__call__`."""
    outputs: Any = model.apply(variables, normalise(images), train=False)
    return outputs["attention"]
