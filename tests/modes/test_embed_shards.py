"""The mode `embed` into a folder of shards: whole or refused, and resumed without a difference."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.paths import ROOT
from support.photos import write_noise
from support.run_main import call_main
from support.tiny_run import write_run

import batnet_jax
from batnet_jax.data.loading.described_images import describe_images
from batnet_jax.errors import UserError
from batnet_jax.inference import feature_file, shards
from batnet_jax.inference.claims import Claims
from batnet_jax.inference.feature_file import open_features, read_fingerprint
from batnet_jax.modes import embed_shards
from batnet_jax.modes.embed import check_output, readable
from batnet_jax.modes.embed_shards import parse_shard, run_shards
from batnet_jax.retrieval import top_k
from batnet_jax.retrieval.row_parts import RowParts

IMAGES, SHARD = 20, 6  # shards of 6, 6, 6 and 2 images; a step has 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return a folder with a run and images."""
    folder = tmp_path_factory.mktemp("base")
    write_run(folder / "run")
    write_noise(folder / "images", IMAGES)
    return folder


@pytest.fixture(scope="module")
def model(base):
    """Return the model; its features of all images are in F.npz."""
    found = batnet_jax.load(base / "run")
    found.save_index(base / "images", base / "F.npz")
    return found


@pytest.fixture
def embed(base, model):
    """Return a function that embeds into a folder."""

    def call(folder, images=None, *, own=model, shard_images=SHARD, shard=None, skip=False):
        run_shards(
            own,
            describe_images(images or base / "images", look=False),
            output=folder,
            shard=parse_shard(shard),
            shard_images=shard_images,
            readable=functools.partial(readable, model=own) if skip else None,
        )

    return call


def assert_whole(base, folder):
    """Assert that a folder has what the file has, row by row, and nothing else."""
    wanted, found = open_features(base / "F.npz"), open_features(folder)
    np.testing.assert_array_equal(found.features[:], wanted.features)
    assert list(found.paths) == wanted.paths
    assert found.fingerprint == read_fingerprint(folder) == wanted.fingerprint
    parts = [f"part-{number:05d}.parquet" for number in range(4)]
    assert sorted(os.listdir(folder)) == ["_manifest.json", "_plan.json", *parts]


@pytest.fixture
def whole(embed, tmp_path):
    """Return a folder with a whole gallery."""
    embed(tmp_path / "whole")
    return tmp_path / "whole"


def test_the_commands_embed_into_a_folder_and_search_it(base, model, tmp_path, capsys):
    folder, words = tmp_path / "F", ["embed", base / "run", base / "images"]
    assert call_main(*words, folder, f"--shard_images={SHARD}", "--shard=2/3")[0] == 0
    assert "written: " in capsys.readouterr().out
    assert_whole(base, folder)  # it has helped the two others
    query, output = base / "images" / "07.png", tmp_path / "F.json"
    words = ["search", base / "run", query, folder, f"--output={output}", "--keep_own", "--top=1"]
    assert call_main(*words)[0] == 0
    (hits,) = json.loads(output.read_text())["results"]
    assert hits["hits"][0]["path"] == str(query)
    columns = hits["hits"][0]["columns"]
    assert (columns["bytes"], len(columns["digest"])) == (query.stat().st_size, 32)


def test_a_folder_has_what_a_file_has(base, whole, embed, monkeypatch, capsys):
    assert_whole(base, whole)
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    embed(whole)
    assert "is whole already: features [20, 32]" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    features = open_features(whole).features
    assert isinstance(features, RowParts)
    found = top_k(features[[3, 19]], features, 1)[0]
    assert found.ravel().tolist() == [3, 19]
    shutil.copy(whole / "part-00001.parquet", whole.parent / "one.parquet")
    assert list(open_features(whole.parent / "one.parquet").paths) == [
        str(base / "images" / f"{number:02}.png") for number in range(6, 12)
    ]


def test_a_gallery_that_is_not_whole_is_refused_and_goes_on(base, whole, embed):
    """Whatever is missing when the command starts again, the end is the same."""
    for missing in (["_manifest.json"], ["_manifest.json", "part-00000.parquet"]):
        for name in missing:
            (whole / name).unlink()
        left = {path: path.stat().st_mtime_ns for path in whole.glob("part*")}
        with pytest.raises(UserError, match=f"is not whole: {5 - len(missing)} of 4 shards"):
            open_features(whole)
        embed(whole, shard_images=None)
        assert_whole(base, whole)
        assert all(path.stat().st_mtime_ns == then for path, then in left.items())


def claim_as(monkeypatch, answers, seen=None):
    """Let all claims have answers: "unknown" where the file system has no locks."""

    def claim(self, number):
        if seen is not None:
            seen.append(number)
        return contextlib.nullcontext(answers(number))

    monkeypatch.setattr(Claims, "claim", claim)


def test_processes_without_each_other_share_the_work(base, embed, tmp_path, capsys, monkeypatch):
    """Each embeds its own shards; where there are locks the last one helps the others."""
    folder = tmp_path / "F"
    with monkeypatch.context() as patch:
        claim_as(patch, lambda number: "unknown")
        embed(folder, shard="1/3")
        assert shards.on_disk(folder) == {1}
        assert "1 of 4 shards of" in capsys.readouterr().out
        embed(folder, shard="0/3")
        assert shards.on_disk(folder) == {0, 1, 3}
    with pytest.raises(UserError, match="is not whole: 3 of 4 shards"):
        open_features(folder)
    embed(folder, shard="1/3")  # its own are there: it helps
    assert_whole(base, folder)


def test_a_shard_that_another_process_embeds_is_left_to_it(embed, tmp_path, monkeypatch):
    folder, seen = tmp_path / "F", []
    claim_as(monkeypatch, lambda number: "taken" if number == 2 else "ours", seen)
    embed(folder)
    assert (seen, shards.on_disk(folder)) == ([0, 1, 2, 3], {0, 1, 3})
    assert not (folder / "_manifest.json").exists()


def test_claims_are_of_one_process(tmp_path):
    """A process cannot claim what another one has."""
    claims = Claims(tmp_path / "_lock")
    code = (
        "import sys; from pathlib import Path; from batnet_jax.inference.claims import Claims\n"
        "claims = Claims(Path(sys.argv[1]))\n"
        "for number in 3, 4:\n"
        "    with claims.claim(number) as claim: print(claim)\n"
    )
    with claims.claim(3) as own:
        command = [sys.executable, "-c", code, str(tmp_path / "_lock")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (own, done.stdout.split()) == ("ours", ["taken", "ours"]), done.stderr
    claims.close()


def test_what_does_not_fit_the_folder_is_refused(base, model, whole, embed, tmp_path):
    (whole / "_manifest.json").unlink()
    other_model = SimpleNamespace(fingerprint="f" * 32, dim=32, config=model.config)
    fewer = tmp_path / "list.txt"
    fewer.write_text("\n".join(map(str, sorted((base / "images").iterdir())[1:])))
    other = tmp_path / "other"
    other.mkdir()
    (other / "me.jpg").write_bytes(b"")
    for folder, options, message in (
        (whole, {"own": other_model}, "was begun with another model"),
        (whole, {"images": fewer}, r"another list of images \(of 20, this one has 19\)"),
        (whole, {"skip": True}, "was begun without --skip_unreadable"),
        (whole, {"shard_images": 7}, "has shards of 6 images"),
        (whole, {"shard": "4/4"}, "--shard=4/4 must be I/N"),
        (other, {}, r"holds other files \(me.jpg\): name a new folder"),
    ):
        with pytest.raises(UserError, match=message):
            embed(folder, **options)
    assert shards.on_disk(whole) == {0, 1, 2, 3}


def test_outputs_that_are_refused(tmp_path):
    words = [f"--workdir={tmp_path}", "--mode=embed", f"--images={tmp_path}"]
    for output, flags, message in (
        ("list.h5", (None, None), "does not end in .npz or .parquet"),
        ("F.npz", ("0/2", None), "--shard needs a folder"),
        ("F.parquet", (None, 2), "--shard_images needs a folder"),
    ):
        with pytest.raises(UserError, match=message):
            check_output(tmp_path / output, *flags)
    with pytest.raises(UserError, match="is in a bucket: name a folder"):
        check_output(Path("gs://bucket/gallery"), None, None)
    status, said = call_main(*words, "--shard=0/2")
    assert (status, said.count("\n"), "needs --output" in said) == (2, 1, True)


@pytest.mark.parametrize("text", ["", "1", "a/b", "2/2", "-1/2", "0/0", "1/2/3", "1/2\n"])
def test_shards_that_are_none(text):
    with pytest.raises(UserError, match="must be I/N"):
        parse_shard(text)


def test_damaged_shards_and_manifests(base, whole, embed, tmp_path):
    """A damaged shard is refused by a search, and embedded again by the command."""
    for name in ("part-00002.parquet", "_manifest.json"):
        path = whole / name
        content = path.read_bytes()
        for damage in (content[:-30] + b"x" + content[-29:], content[:50], b""):
            path.write_bytes(damage)
            with pytest.raises(UserError, match=name) as info:
                open_features(whole)
            assert "\n" not in str(info.value)
        path.write_bytes(content)
    (whole / "part-00003.parquet").replace(tmp_path / "kept")
    with pytest.raises(UserError, match=r"part-00003\.parquet' cannot be read"):
        open_features(whole)
    shutil.copy(whole / "part-00001.parquet", whole / "part-00003.parquet")
    with pytest.raises(UserError, match="another file than the manifest"):
        open_features(whole)
    (whole / "_manifest.json").unlink()
    embed(whole)
    assert (whole / "part-00003.parquet.damaged").exists()
    (whole / "part-00003.parquet.damaged").unlink()
    assert_whole(base, whole)


def test_unreadable_images_are_left_out_of_their_shards(base, model, embed, tmp_path):
    images = shutil.copytree(base / "images", tmp_path / "images")
    for number in (0, 7, 18, 19):  # the last shard has none that can be read
        (images / f"{number:02}.png").write_bytes(b"no image")
    folder = tmp_path / "F"
    with pytest.raises(UserError, match=r"00.png' cannot be decoded"):
        embed(folder, images)
    assert shards.on_disk(folder) == set()
    shutil.rmtree(folder)
    embed(folder, images, skip=True)
    found, wanted = open_features(folder), open_features(base / "F.npz")
    kept = [number for number in range(IMAGES) if number not in (0, 7, 18, 19)]
    assert list(found.paths) == [str(images / f"{number:02}.png") for number in kept]
    # An image stands elsewhere in a step if one before it is left out.
    np.testing.assert_allclose(found.features, wanted.features[kept], atol=1e-6)
    for path in images.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 20 images can be read"):
        embed(tmp_path / "G", images, skip=True)


def test_the_bar_counts_what_is_on_the_disk(whole, embed, monkeypatch):
    """A process that goes on begins where all processes together are."""
    (whole / "_manifest.json").unlink()
    (whole / "part-00001.parquet").unlink()
    begun, counts = [], []
    bar = embed_shards.progress_bar

    def watched(total, **options):
        begun.append((total, options["initial"]))
        made = bar(total, **options)
        update = made.update
        monkeypatch.setattr(made, "update", lambda n: counts.append(n) or update(n))
        return made

    monkeypatch.setattr(embed_shards, "progress_bar", watched)
    monkeypatch.setattr(embed_shards, "LOOK_SECONDS", 0)
    embed(whole)
    assert begun == [(20, 14)]
    assert 14 + sum(counts) == 20


def test_what_killed_processes_have_begun_is_removed(whole, embed):
    """Once the gallery is whole, and nobody has the file open any more."""
    (whole / "_manifest.json").unlink()
    old, young = (whole / f"part-0000{n}.parquet.0123abcd.partial" for n in (1, 2))
    old.touch()
    os.utime(old, (1e9, 1e9))
    young.touch()
    embed(whole)
    assert (old.exists(), young.exists()) == (False, True)


def test_shards_by_the_number_of_images():
    chosen = {n: shards.choose_shard_images(n, 24) for n in (1, 10**5, 10**6, 10**8)}
    assert chosen == {1: 1032, 10**5: 1032, 10**6: 3912, 10**8: 65544}
