"""The mode `metrics`: files of other frameworks, against the oracle."""

import json
import re
import sys
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy.io import savemat
from support import retrieval_oracle
from support.run_main import call_main, parse_again

from batnet_jax.commands import command_line
from batnet_jax.retrieval import Labels, chance_figures


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    return {
        "query_features": rng.standard_normal((9, 6)).astype(np.float32),
        "query_pids": rng.integers(0, 4, 9),
        "query_cameras": rng.integers(1, 4, 9),
        "gallery_features": rng.standard_normal((50, 6)).astype(np.float32),
        "gallery_pids": rng.integers(-1, 5, 50),
        "gallery_cameras": rng.integers(1, 4, 50),
    }


def expected(case, **changes):
    options = {"metric": "cosine", "ap": "precision", "same_camera": "remove"} | changes
    return retrieval_oracle.evaluate(**case, **options)


def measure(folder, *words):
    """Run `batnet metrics` with words, write JSON; return the figures and stderr."""
    status, said = call_main("metrics", *words, f"--output={folder / 'found.json'}")
    assert status == 0, said
    return json.loads((folder / "found.json").read_text()), said


def assert_figures(found, wanted):
    assert {k: found[k] for k in wanted if k != "ap"} == {
        k: pytest.approx(v) for k, v in wanted.items() if k != "ap"
    }
    assert found["ap"] == wanted["ap"]


def of(case, side):
    return {k.removeprefix(f"{side}_"): v for k, v in case.items() if k.startswith(side)}


@pytest.mark.parametrize(
    "names",
    [
        ("features", "pids", "cameras"),
        ("feat", "labels", "camids"),
        ("Embeddings", "ID", "Cam"),
        ("query_f", "query_label", "query_cam"),
    ],
)
def test_two_npz(case, tmp_path, names):
    for side in ("query", "gallery"):
        arrays = zip(names, of(case, side).values(), strict=True)
        arrays = {name.replace("query", side): array for name, array in arrays}
        np.savez(tmp_path / f"{side}.npz", **arrays)
    found, _ = measure(tmp_path, tmp_path / "query.npz", tmp_path / "gallery.npz")
    assert_figures(found, expected(case))


def test_two_parquet(case, tmp_path):
    """The features are lists, as pandas and our own `embed` write them."""
    for side in ("query", "gallery"):
        features, *labels = of(case, side).values()
        named = zip(("pid", "camera"), map(pa.array, labels), strict=True)
        table = pa.table({"embedding": pa.array(list(features)), **dict(named)})
        parquet.write_table(table, tmp_path / f"{side}.parquet")
    found, _ = measure(tmp_path, tmp_path / "query.parquet", tmp_path / "gallery.parquet")
    assert_figures(found, expected(case))


def test_the_options(case, tmp_path, capsys):
    for side in ("query", "gallery"):
        np.savez(tmp_path / f"{side}.npz", **of(case, side))
    files = tmp_path / "query.npz", tmp_path / "gallery.npz"
    options = "--ap=trapezoid", "--same_camera", "keep", "--metric=euclidean"
    found, _ = measure(tmp_path, *options, *files)
    assert_figures(found, expected(case, ap="trapezoid", same_camera="keep", metric="euclidean"))
    said = capsys.readouterr().out
    assert "euclidean, AP: trapezoid, same camera kept" in said
    assert f"{100 * found['mAP']:.1f}%" in said
    sides = (of(case, side) for side in ("query", "gallery"))
    labels = [Labels(side["pids"], side["cameras"]) for side in sides]
    chance = chance_figures(*labels, ap="trapezoid", same_camera="keep")
    last = said.splitlines()[-2]
    assert last.startswith(f"{100 * chance['mAP']:>8.1f}%{100 * chance['mINP']:>8.1f}%")
    assert last.endswith("%  chance")


@pytest.mark.parametrize("both", ["mat", "npz"])
def test_layumis_pytorch_result(case, tmp_path, both):
    """`savemat` stores vectors as [1, n]."""
    arrays = {
        f"{side}_{name}": of(case, side)[ours]
        for side in ("query", "gallery")
        for name, ours in (("f", "features"), ("label", "pids"), ("cam", "cameras"))
    }
    path = tmp_path / f"pytorch_result.{both}"
    savemat(path, arrays) if both == "mat" else np.savez(path, **arrays)
    found, _ = measure(tmp_path, path)
    assert_figures(found, expected(case))


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("pid,camera", "{p},{c}"),
        ("", "{p},{c}"),
        ("path;PID;camid", "a/b.jpg;{p};c{c}"),
        ("person\tcam", "who {p}\t{c}"),
        ("pid,camera", "{p:04d},{c}"),
    ],
)
def test_npy_and_csv(case, tmp_path, header, form):
    for side in ("query", "gallery"):
        own = of(case, side)
        np.save(tmp_path / f"{side}.npy", own["features"].astype(np.float64))
        rows = [
            form.format(p=p, c=c) if p >= 0 else form.replace(":04d", "").format(p=p, c=c)
            for p, c in zip(own["pids"].tolist(), own["cameras"].tolist(), strict=True)
        ]
        rows = [row.replace("who -1", "-1") for row in rows]
        text = "\n".join([header, *rows] if header else rows)
        (tmp_path / f"{side}.csv").write_text(text + "\n", encoding="utf-8-sig")
    found, _ = measure(tmp_path, tmp_path / "query.npy", tmp_path / "gallery.npy")
    assert_figures(found, expected(case))


@pytest.mark.parametrize("form", ["one file", "npy and csv"])
def test_a_distance_matrix(case, tmp_path, form):
    rows = [
        -retrieval_oracle.similarity(q, case["gallery_features"], "euclidean")
        for q in case["query_features"]
    ]
    labels = {"q_pids": case["query_pids"], "g_pids": case["gallery_pids"]}
    labels |= {"q_camids": case["query_cameras"], "g_camids": case["gallery_cameras"]}
    if form == "one file":
        np.savez(tmp_path / "dist.npz", distmat=rows, **labels)
        words = [tmp_path / "dist.npz"]
    else:
        np.save(tmp_path / "dist.npy", rows)
        for side in "qg":
            pairs = zip(labels[f"{side}_pids"], labels[f"{side}_camids"], strict=True)
            text = "pid,camera\n" + "\n".join(f"{p},{c}" for p, c in pairs)
            (tmp_path / f"{side}.csv").write_text(text)
        words = [tmp_path / "q.csv", tmp_path / "g.csv", f"--distances={tmp_path / 'dist.npy'}"]
    found, _ = measure(tmp_path, *words)
    assert_figures(found, expected(case, metric="euclidean"))
    assert found["metric"] == "given distances"


def test_a_file_in_itself(case, tmp_path):
    """By rows, or by paths in another order; without cameras."""
    own = {"features": case["gallery_features"], "pids": case["gallery_pids"] + 1}
    wanted = retrieval_oracle.evaluate(
        own["features"], own["pids"], None, own["features"], own["pids"], None,
        metric="cosine", ap="precision", same_camera="keep", ignored=[{q} for q in range(50)],
    )  # fmt: skip
    np.savez(tmp_path / "all.npz", **own)
    both = tmp_path / "all.npz", tmp_path / "all.npz"
    found, said = measure(tmp_path, *both)
    assert found["mAP"] > wanted["mAP"]
    assert "warning: 50 of 50 queries have the same features" in said
    assert "--leave_out_own" in said
    found, said = measure(tmp_path, *both, "--leave_out_own")
    assert_figures(found, wanted)
    assert (said, found["same_camera"], found["num_left_out"]) == ("", "keep", 50)
    paths = np.array([f"{k}.jpg" for k in range(50)])
    order = np.random.default_rng(1).permutation(50)
    np.savez(tmp_path / "all.npz", **own, paths=paths)
    np.savez(tmp_path / "q.npz", paths=paths[order], **{k: v[order] for k, v in own.items()})
    found, _ = measure(tmp_path, tmp_path / "q.npz", tmp_path / "all.npz", "--leave_out_own")
    assert_figures(found, wanted)


def test_mistakes(case, tmp_path):
    np.savez(tmp_path / "embedded.npz", features=case["query_features"], paths=["a"] * 9)
    np.savez(tmp_path / "good.npz", **of(case, "gallery"))
    np.savez(tmp_path / "wide.npz", **of(case, "query") | {"features": np.eye(9, 7)})
    (tmp_path / "no.csv").write_text("pid,camera\n1,2\n3\n")
    (tmp_path / "odd.csv").write_text("hello,you\n1,2\n")
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "text.mat").write_text("no mat")
    good = tmp_path / "good.npz"
    for words, message in {
        (tmp_path / "none.npz", good): "cannot be read (No such file",
        (
            tmp_path / "none.pkl",
            good,
        ): "is not a file of features: give .npz, .parquet, .mat",
        (tmp_path / "text.npz", good): "cannot be read",
        (tmp_path / "text.mat", good): "cannot be read",
        (tmp_path / "embedded.npz", good): "embedded.csv'",
        (good,): "holds features, pids, cameras, and no identities: name them `query_pids`",
        (tmp_path / "no.csv", good): "has 1 cells in row 2, not 2",
        (tmp_path / "odd.csv", good): "begins with hello, you: its first row must name",
        (tmp_path / "wide.npz", good): "have 7 dimensions and gallery_features 6",
        (good, good, good): "unexpected argument",
        (): "needs --query",
        (good, good, "--config=configs/demo.py"): "reads no run: omit --config",
        (good, good, "--top=3"): "--top is for --mode=search",
        (tmp_path / "wide.npz", good, "--leave_out_own"): "QUERY has no `paths`",
    }.items():
        status, said = call_main("metrics", *words)
        assert (status, said.count("\n"), message in said) == (2, 1, True), said


def test_a_mode_may_be_the_first_word():
    with mock.patch.object(sys, "argv"):
        parse_again("search", "--workdir=x", "--gallery", "g", "--query=q")
        command_line.parse(sys.argv)
        assert command_line.MODE.value == "search"
        parse_again("metrics", "--leave_out_own", "a.npz", "--ap", "trapezoid", "b.npz")
        command_line.parse(sys.argv)
        values = command_line.values()
        assert (str(values["query"]), str(values["gallery"])) == ("a.npz", "b.npz")
        assert (values["ap"], values["leave_out_own"]) == ("trapezoid", True)


def write_tables(case, folder, forms, header="pid,camera"):
    """Write .npy and .csv of both sets; `forms` are the forms of a row of each."""
    for side, form in zip(("query", "gallery"), forms, strict=True):
        own = of(case, side)
        np.save(folder / f"{side}.npy", own["features"])
        pairs = zip(np.abs(own["pids"]).tolist(), own["cameras"].tolist(), strict=True)
        rows = [form.format(p=p, c=c) for p, c in pairs]
        (folder / f"{side}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "query.npy", folder / "gallery.npy"


@pytest.mark.parametrize(
    ("header", "forms"),
    [
        ("PID,Camera_ID", ("{p},{c}", "{p},{c}")),
        ("person_id,cam-name", ("{p},{c}", "{p},{c}")),
        ("Person ID,Camera No.", ("{p},{c}", "{p},{c}")),
        ("pid,camera", ("{p}.0,{c}", "{p},{c}.0")),  # a table with missing values has floats
        ("pid,camera", ("{p},{c:02d}", "{p},{c}")),
    ],
)
def test_spellings_of_columns_and_numbers(case, tmp_path, header, forms):
    positive = case | {k: np.abs(v) for k, v in case.items() if k.endswith("pids")}
    found, _ = measure(tmp_path, *write_tables(case, tmp_path, forms, header))
    assert_figures(found, expected(positive))


@pytest.mark.parametrize("word", ["", "nan", "NaN", "None", "null"])
def test_words_for_an_unknown_camera(case, tmp_path, word):
    """A query of an unknown camera keeps all matches, though the gallery has the same word."""
    positive = case | {k: np.abs(v) for k, v in case.items() if k.endswith("pids")}
    positive |= {"query_cameras": np.full(9, 98), "gallery_cameras": np.full(50, 99)}
    files = write_tables(case, tmp_path, (f"{{p}},{word}", f"{{p}},{word}"))
    found, _ = measure(tmp_path, *files)
    assert_figures(found, expected(positive))
    assert found["same_camera"] == "keep"


def test_nan_among_cameras_in_arrays(case, tmp_path):
    """Floats beside NaN are the same cameras as the integers of the other set."""
    cameras = np.where(np.arange(9) < 3, np.nan, case["query_cameras"])
    np.savez(tmp_path / "query.npz", **of(case, "query") | {"cameras": cameras})
    np.savez(tmp_path / "gallery.npz", **of(case, "gallery"))
    found, _ = measure(tmp_path, tmp_path / "query.npz", tmp_path / "gallery.npz")
    known = np.where(np.isnan(cameras), 99, cameras).astype(int)
    assert_figures(found, expected(case | {"query_cameras": known}))


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        (("{p:03d},{c}", "{p},{c}"), "the identities '.' and '00.' are one number: spell them"),
        (("nan,{c}", "{p},{c}"), "9 images without an identity, first in row 0: leave them out"),
        (("{p},{c}", ",{c}"), "50 images without an identity"),
    ],
)
def test_identities_that_are_not_certain(case, tmp_path, forms, message):
    files = write_tables(case, tmp_path, forms)
    status, said = call_main("metrics", *files)
    assert status == 2
    assert re.search(message, said)


def test_files_that_cannot_be_written_or_read(case, tmp_path):
    np.savez(tmp_path / "q.npz", **of(case, "query") | {"pids": np.array([{}] * 9, object)})
    assert "holds Python's objects; arrays of" in call_main("metrics", tmp_path / "q.npz")[1]
    words = ("metrics", tmp_path / "q.npz", f"--output={tmp_path / 'o.csv'}")
    assert "o.csv would hold JSON: name a .json" in call_main(*words)[1]
    assert not (tmp_path / "o.csv").exists()
