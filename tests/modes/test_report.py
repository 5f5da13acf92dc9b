"""The mode `report`: earlier evaluations, and the whole page of a fresh network."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from support.pages import read_page
from support.tiny_datasets import write_tree

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import make_embed
from batnet_jax.modes import report
from batnet_jax.modes.accept import read_points
from batnet_jax.modes.report import progress_of, read_evaluations
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.workdir import checkpoints

RESULT = {
    "dataset": "pedestrians", "split": "test", "step": 5, "mAP": 0.125, "mINP": 0.0625,
    "cmc": {"1": 0.25, "5": 0.5}, "num_query": 16, "num_gallery": 40, "num_valid_query": 15,
    "ap": "precision", "same_camera": "remove",
}  # fmt: skip


def write_evaluation(workdir, stem, **changes):
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(RESULT | changes))


def test_evaluations_are_found_once_and_in_order(tmp_path):
    write_evaluation(tmp_path, "step_50", step=50)
    write_evaluation(tmp_path, "step_5")
    write_evaluation(tmp_path, "step_5_pedestrians")
    write_evaluation(tmp_path, "step_5_a", dataset="a")
    write_evaluation(tmp_path, "step_5_val", split="val")
    write_evaluation(tmp_path, "step_7", step=7, ap="trapezoid")
    found = read_evaluations(tmp_path)
    assert [(e["step"], e["dataset"], e["split"]) for e in found] == [
        (5, "pedestrians", "test"), (5, "a", "test"), (5, "pedestrians", "val"),
        (7, "pedestrians", "test"), (50, "pedestrians", "test"),
    ]  # fmt: skip
    # Progress to step 50 leaves out other tests, other conventions and the replaced result.
    assert progress_of(found[-1], found) == [found[0], found[-1]]
    assert read_evaluations(tmp_path / "nothing") == []


def small_config(folder, **model):
    config = default_config()
    config.data.update({"dataset": "pedestrians", "variant": "tiny", "image_size": (64, 32)})
    config.data.dir = str(folder / "data")
    small = {"width": 1 / 16, "num_parts": 1, "embedding_dim": 32}
    config.model.update(small | model)
    return config


def write_checkpoint(config, workdir, step=5):
    """Save a fresh network as training does, without compiling a step."""
    recipe = make_recipe(config, num_identities=4, steps_per_epoch=1)
    state = init_state(recipe, tuple(config.data.image_size))
    run = {"model": config.model.to_dict(), "identities": [["pedestrians", k, ""] for k in "abcd"]}
    with checkpoints.open_manager(workdir) as manager:
        checkpoints.save(manager, step, state, run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the data sets are prepared once."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture
def embeddings(monkeypatch):
    """Count the embedded images of each batch."""
    counts = []

    def counted(*arguments):
        embed = make_embed(*arguments)

        def embed_and_count(images):
            counts.append(len(images))
            return embed(images)

        return embed_and_count

    monkeypatch.setattr(report, "make_embed", counted)
    return counts


def test_report_of_a_trained_run(folder, capsys, short_backbone, embeddings):
    config, workdir = small_config(folder), folder / "a <b> & 'c'"
    config.eval.batch = 8
    write_checkpoint(config, workdir)
    write_evaluation(workdir, "step_2", step=2)
    lines = [{"step": s, "loss": 5.5 - s, "loss_ce": 1.0, "lr": 1e-3, "images_per_second": 96.0}
             for s in (1, 2, 3)]  # fmt: skip
    text = "\n".join(map(json.dumps, lines))
    (workdir / "metrics.jsonl").write_text(text + '\n{"step": 4, "lo')  # cut off by a kill
    report.run(config, workdir)
    # Each query and gallery image once, and once by the initial weights.
    assert sum(embeddings) == 2 * (16 + 40)
    out = workdir / "report"
    assert {p.name for p in out.iterdir()} == {
        "index.html", "attention_step_5.png", "verification_step_5.json",
    }  # fmt: skip
    assert len(read_points(workdir, 5)[1]) == 4
    assert f"written: {out / 'index.html'}" in capsys.readouterr().out
    parsed = read_page(out / "index.html")
    for said in (
        "a <b> & 'c': report", "attention aia at p2, r = 4, T = 1 parts",
        "AP: precision, the mean of the precision at the hits", "16 of 16", "At the end: 2.5.",
        "2 evaluations of pedestrians", "model.width", "accept up to", "16 of 16 queries",
        "over 16 queries", "95% intervals over 8 identities", "p2, after less before",
        "Layers: person orange", "of 100 queries the most similar image", "since step 2",
        "step 2, before", "raw pixels", "untrained net", "time of the steps2 s", "written20",
        "8 of 8 identities", "batnet-jax",
    ):  # fmt: skip
        assert said in " ".join(parsed.text.split()), said
    headings = [s["aria-labelledby"] for s in parsed.all("section")]
    assert headings == [
        "metrics-title", "ranked-lists-title", "hardest-title", "curves-title", "map-title",
        "data-title", "attention-title", "training-title", "config-title",
    ]  # fmt: skip
    listed = parsed.all("article")
    assert len(listed) == 16
    assert {a["data-camera"] for a in listed} > {"1"}
    with Image.open(out / "attention_step_5.png") as image:
        assert image.height > 6 * 256
    assert (out / "index.html").stat().st_size < 1e6


@pytest.mark.slow  # tests/report has the sections
def test_report_without_attention_training_or_cameras(folder, short_backbone):
    """The page of an imported network on a user's images says what is missing."""
    config, workdir = small_config(folder, attention="none"), folder / "none"
    config.eval.batch = 8
    people = {
        f"{split}/{name}/{k}.png": cv2.imencode(".png", np.full((8, 4, 3), 60 * i + k, np.uint8))[1]
        for split in ("train", "query", "gallery")
        for i, name in enumerate("abc")
        for k in range(2)
    }
    write_tree(folder / "mine", {name: image.tobytes() for name, image in people.items()})
    config.data.dataset, config.data.manual_dir = "folder", str(folder / "mine")
    config.data.variant = ""
    write_checkpoint(config, workdir)
    report.run(config, workdir)
    parsed = read_page(workdir / "report" / "index.html")
    for said in ("This network has no attention", "no metrics.jsonl", "Cameras are not known"):
        assert said in parsed.text
    assert "Camera" not in [label.strip() for label in parsed.text.split("\n")]
    written = {p.name for p in (workdir / "report").iterdir()}
    assert written == {"index.html", "verification_step_5.json"}


def test_without_a_checkpoint_nothing_is_written(folder):
    with pytest.raises(UserError, match="holds no checkpoint"):
        report.run(small_config(folder), folder / "nothing")
    assert not (folder / "nothing").exists()
