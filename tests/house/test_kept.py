"""What an earlier version wrote still opens, and gives the figures that it gave then.

`kept/README.md` says what the files are and how they were made. Only the command line and
`batnet_jax.load` are used here, so that nothing hangs on where the package keeps its parts.
"""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.kept_files import EVALUATE, RUN, TIME, fixed_images, run_main, run_python
from support.paths import ROOT
from support.run_main import arrays

KEPT = ROOT / "tests" / "kept"


def succeed(process):
    assert process.returncode == 0, process.stderr
    return process


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def expected():
    return json.loads((KEPT / "expected.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with all that is kept, as it lay when it was written."""
    folder = tmp_path_factory.mktemp("kept")
    for path in KEPT.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    for path in (p for part in ("photos", "queries") for p in (folder / part).rglob("*.png")):
        os.utime(path, ns=(TIME, TIME))
    for name in ("features.npz", "exported.safetensors"):
        shutil.copyfile(KEPT / name, folder / name)
    return folder


ADDED = {"name"}
"""What this version adds to the files: the names of people, where the data set has some."""


def compare(new, old, where=""):
    """The same figures, but for what the order of additions moves."""
    if isinstance(old, dict):
        assert new.keys() - ADDED == old.keys(), where
        for key in old:
            compare(new[key], old[key], f"{where}/{key}")
    elif isinstance(old, float):
        assert new == pytest.approx(old, abs=1e-4), where
    else:
        assert new == old, where


def test_eval_gives_the_same_figures_on_data_that_is_not_prepared_again(world, expected):
    process = succeed(run_main(world, *RUN, *EVALUATE))
    prepared = [line for line in process.stderr.splitlines() if line.startswith("preparing")]
    assert [line.split(",")[0] for line in prepared] == ["preparing pedestrians"]  # draws it
    assert not list(world.rglob("bounding_box_test"))  # market1501 opens without its images
    for name, figures in expected["eval"].items():
        compare(json.loads((world / "run" / "eval" / name).read_text()), figures, name)
    assert set(expected["eval"]) == {
        *("step_3.json", "step_3_pedestrians-tiny.json"),
        *("step_3_folder-photos.json", "step_3_market1501.json"),
    }


LOAD = """
import json, sys
import numpy as np
import batnet_jax
images = list(np.load("images.npy"))
for i, place in enumerate(sys.argv[1:]):
    model = batnet_jax.load(place)
    print(json.dumps([place, model.step, model.dim, model.image_size, model.batch]))
    np.save(f"own_{i}.npy", model.embed(images))
"""


def test_checkpoints_load_and_weights_come_in(world):
    """A workdir and an imported checkpoint give the features of then, an import the same arrays."""
    succeed(run_main(world, *RUN, "--mode=import", "--source=exported.safetensors", "--output=now"))
    mine, theirs = (arrays(world / place, 0) for place in ("now", "imported"))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    np.save(world / "images.npy", fixed_images())
    places = ("run", "imported")
    process = succeed(run_python(world, "-c", LOAD, *places))
    told = [json.loads(line) for line in process.stdout.splitlines()]
    assert told == [
        [place, step, 32, [64, 32], 8] for place, step in zip(places, (3, 0), strict=True)
    ]
    features = np.load(KEPT / "expected.npy")
    assert features.shape == (6, 32)
    for i in range(len(places)):
        np.testing.assert_allclose(np.load(world / f"own_{i}.npy"), features, atol=1e-4)


def test_weights_go_out_under_the_same_names(world):
    succeed(run_main(world, *RUN, "--mode=export", "--output=again.safetensors"))
    new, old = load_file(world / "again.safetensors"), load_file(KEPT / "exported.safetensors")
    assert new.keys() == old.keys()
    for name in old:
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)


def test_a_feature_file_is_searched(world):
    """The kept lists, but for places whose cosines hardly differ."""
    arguments = ("--mode=search", "--workdir=run", "--query=queries", "--gallery=features.npz")
    succeed(run_main(world, *arguments, "--top=32", "--output=found.json"))
    new, old = (json.loads((d / "found.json").read_text()) for d in (world, KEPT))
    assert len(new["results"]) == 8
    assert {k: v for k, v in new.items() if k != "results"} == {
        k: v for k, v in old.items() if k != "results"
    }
    for ours, theirs in zip(new["results"], old["results"], strict=True):
        assert ours["query"] == theirs["query"]
        scores = {hit["path"]: hit["score"] for hit in theirs["hits"]}
        assert {hit["path"] for hit in ours["hits"]} == scores.keys()
        for hit, then in zip(ours["hits"], theirs["hits"], strict=True):
            assert (hit["rank"], hit.keys() - ADDED) == (then["rank"], then.keys())
            assert hit["score"] == pytest.approx(then["score"], abs=1e-4)
            assert hit["score"] == pytest.approx(scores[hit["path"]], abs=1e-4)


@pytest.mark.slow  # their features are those of the checkpoint, tested above
def test_images_embed_to_a_feature_file_of_the_same_form(world):
    arguments = ("--mode=embed", "--workdir=run", "--images=photos", "--output=own.npz")
    succeed(run_main(world, *arguments))
    with np.load(world / "own.npz") as new, np.load(KEPT / "features.npz") as old:
        assert new.files[: len(old.files)] == old.files  # columns may follow
        assert new["paths"].tolist() == old["paths"].tolist()
        np.testing.assert_allclose(new["features"], old["features"], atol=1e-4)


def test_training_resumes(world, expected):
    """From the kept checkpoint, on the kept photos: the step after it is the same as then."""
    shutil.copytree(world / "run", world / "on")
    before = metrics(world / "run")
    process = succeed(run_main(world, *RUN, "--workdir=on", "--config.steps=4"))
    assert "resuming 'on' after step 3" in process.stdout
    assert "preparing folder" not in process.stderr
    warnings = [line for line in process.stderr.splitlines() if "warning" in line]
    assert all("it has not learnt to tell these people apart" in line for line in warnings)
    labels = [json.loads((world / d / "labels.json").read_text()) for d in ("run", "on")]
    assert labels[0] == labels[1]
    assert {row["name"] for row in labels[0] if row["dataset"] == "folder-photos"} < {
        *("ann", "bob", "cid", "dan", "eve", "fay", "gil", "hal")
    }
    after = metrics(world / "on")
    assert after[:3] == before
    (new,) = after[3:]
    clock = ("images_per_second", "data_wait")
    assert new.keys() == expected["resumed"].keys()
    for name, value in expected["resumed"].items():
        if name not in clock:
            assert new[name] == pytest.approx(value, rel=1e-3), name
    assert {p.name for p in (world / "on" / "checkpoints").iterdir()} >= {"3", "4"}
    texts = [(world / d / "parameters.txt").read_text() for d in ("run", "on")]
    assert texts[0] == texts[1]
