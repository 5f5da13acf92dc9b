"""The mode `report`: a checkpoint and what its evaluations have left, as a page (CONTRACT)."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from batnet_jax import checkpoint
from batnet_jax.augment import normalise
from batnet_jax.collection import Trial, open_tests
from batnet_jax.errors import UserError
from batnet_jax.evaluate import camera_of, open_store, restore_model
from batnet_jax.models import BATNet, parse_positions
from batnet_jax.report import page
from batnet_jax.report.attention_maps import AttentionRow, draw_attention_maps, mean_maps
from batnet_jax.report.page import Section
from batnet_jax.report.ranked_list import Person

FOLDER = "report"
PAGE = "index.html"

_AP = {
    "precision": "the mean of the precision at the hits",
    "trapezoid": "the area under the precision-recall curve, by trapezoids",
}

_KEYS = {"dataset", "split", "mAP", "mINP", "cmc", "num_query", "num_valid_query", "num_gallery"}
_KEYS |= {"ap"}


class Evaluation(NamedTuple):
    """What an evaluation has left."""

    result: dict[str, Any]
    """See CONTRACT, `eval/step_<N>.json`."""
    ranked_lists: Path | None
    """The picture, if it is there."""


def run_report(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Draws a checkpoint's attention, gathers its evaluation's figures and pictures in a page."""
    step = checkpoint.choose_step(workdir, config.eval.step)
    evaluations = read_evaluations(workdir / "eval", step)
    model, variables = restore_model(config, workdir, step)
    trial = next(trial for trial in open_tests(config) if trial.split == "test")
    rows = attention_rows(config, model, variables, trial)
    folder = workdir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to '{folder}' ({error.strerror}): mend its rights"
        ) from error
    drawn = None
    if rows:
        drawn = folder / f"attention_step_{step}.png"
        draw_attention_maps(drawn, rows, dataset=trial.name, step=step)
    name = workdir.absolute().name
    facts = {"run": name, "data set": trial.name, "step": step, "network": describe(config.model)}
    sections = [
        metrics_section(evaluations),
        attention_section(drawn, rows, trial.name),
        ranked_lists_section(evaluations),
    ]
    page.write_page(
        folder / PAGE, title=f"{name}, step {step}: report", facts=facts, sections=sections
    )
    print(f"written: {folder / PAGE}" + (f", {drawn}" if drawn else ""))


def describe(model: ml_collections.ConfigDict) -> str:
    """The config's `model` section, in a line."""
    parts = f"T = {model.num_parts} parts" if model.num_parts else "no parts"
    where = ", ".join(parse_positions(model.position))
    attention = f"attention {model.attention}"
    attention += f" at {where}, r = {model.reduction}" * (model.attention != "none")
    return f"BAT-net, {attention}, {parts}, width {model.width:g}"


def read_evaluations(folder: Path, step: int) -> list[Evaluation]:
    """All that was evaluated at a step; the first is the main one (see `evaluate.file_stems`).

    Raises: UserError if a file is damaged.
    """
    found, seen = [], set()
    for path in [folder / f"step_{step}.json", *sorted(folder.glob(f"step_{step}_*.json"))]:
        if not path.is_file():
            continue
        try:
            result = json.loads(path.read_text())
        except ValueError:
            result = None
        if not isinstance(result, dict) or not result.keys() >= _KEYS:
            raise UserError(f"'{path}' is damaged: delete it, or write it anew with --mode=eval")
        picture = path.with_suffix(".png")
        if _title(result) not in seen:
            found.append(Evaluation(result, picture if picture.is_file() else None))
        seen.add(_title(result))
    return found


def attention_rows(
    config: ml_collections.ConfigDict,
    model: BATNet,
    variables: dict[str, Any],
    trial: Trial,
    *,
    rows: int = 5,
) -> list[AttentionRow]:
    """The attention of a few queries, evenly spaced: those whose ranked lists are drawn.

    Returns: nothing if the network has no attention.
    """
    if model.attention == "none":
        return []
    query = trial.query
    chosen = np.unique(np.linspace(0, len(query) - 1, rows).astype(int))
    with open_store(config, query) as store:
        images = store.batch(chosen)
    # What lies behind the attention is not computed: XLA drops it.
    attention = jax.jit(functools.partial(attention_step, model=model))(variables, images)
    cameras = [camera_of(query, i) for i in chosen]
    people = map(Person, images, query.pids[chosen].tolist(), cameras)
    maps = mean_maps(jax.device_get(attention))
    return [AttentionRow(*pair) for pair in zip(people, maps, strict=True)]


def attention_step(variables: dict[str, Any], images: jax.Array, *, model: BATNet) -> Any:
    """Images [b, h, w, 3] bytes to the maps around each Bi-attention; see `BATNet.__call__`."""
    outputs: Any = model.apply(variables, normalise(images), train=False)
    return outputs["attention"]


def metrics_section(evaluations: Sequence[Evaluation]) -> Section:
    """The CMC/mAP table."""
    if not evaluations:
        body = page.paragraph(_missing("metrics"))
        return Section("metrics", "Metrics", body)
    results = [evaluation.result for evaluation in evaluations]
    ranks = list(results[0]["cmc"])
    head = ["data set", "mAP", "mINP", *(f"Rank-{rank}" for rank in ranks), "queries", "gallery"]
    rows = []
    for result in results:
        values = [result["mAP"], result["mINP"], *(result["cmc"].get(rank) for rank in ranks)]
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        counts = [f"{result['num_valid_query']} of {result['num_query']}", result["num_gallery"]]
        rows.append([_title(result), *cells, *counts])
    ap = results[0]["ap"]
    caption = f"In per cent. AP: {ap}" + (f", {_AP[ap]}." if ap in _AP else ".")
    return Section("metrics", "Metrics", page.table(caption, head, rows))


def attention_section(drawn: Path | None, rows: Sequence[AttentionRow], dataset: str) -> Section:
    """Fig. 6 of the paper, for this network and a few of its queries."""
    title = "Bi-attention"
    if drawn is None:
        text = "This network has no attention (config.model.attention is none): nothing to show."
        return Section("attention", title, page.paragraph(text))
    where = ", ".join(rows[0].maps)
    alt = f"Heat maps of {len(rows)} queries of {dataset} around the Bi-attention at {where}"
    caption = (
        "A row is a query. Before: the feature map that enters the Bi-attention; mask: what it is "
        "multiplied by; after: the masked map. Each is a mean over the channels, laid over the "
        "image in grey. Colours run from the lowest value (dark violet) to the highest (yellow): "
        "before and after, those of the one map, so they compare its places; mask, those of all "
        "masks in the column, so they compare images too. Below each map stand its own lowest and "
        "highest value. The mask lies between 0.5 and 1, so the map after it is always lower: what "
        "matters is where it is lowered least."
    )
    return Section("attention", title, page.picture(drawn, alt=alt, caption=caption))


def ranked_lists_section(evaluations: Sequence[Evaluation]) -> Section:
    """The pictures of ranked lists."""
    pictures = []
    for result, path in evaluations:
        if path is not None:
            alt = f"Ranked lists of a few queries of {_title(result)}"
            caption = (
                f"{_title(result)}: on the left a query, then its gallery, best first. A tick in "
                "green: the same person; a cross in red: another. Images that the evaluation "
                "leaves out are not shown."
            )
            pictures.append(page.picture(path, alt=alt, caption=caption))
    body = "\n".join(pictures) or page.paragraph(_missing("ranked lists"))
    return Section("ranked-lists", "Ranked lists", body)


def _missing(what: str) -> str:
    return f"No {what}: this step has not been evaluated. Run --mode=eval, then --mode=report."


def _title(result: dict[str, Any]) -> str:
    return result["dataset"] + " val" * (result["split"] == "val")
