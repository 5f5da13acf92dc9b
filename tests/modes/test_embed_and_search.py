"""The modes `embed` and `search` on the command line, with a narrow network."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from support import run_main
from support.run_main import TOY, call_main
from support.tiny_run import write_photos, write_run

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.inference.feature_file import open_features
from batnet_jax.modes import embed

start = partial(run_main.run_main, entry=TOY)


def test_embed_and_search(tmp_path, capsys):
    """Settings come from the checkpoint or from a config."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths, _ = write_photos(folder)
    run = write_run(tmp_path / "run")
    bad = shutil.copytree(folder, tmp_path / "bad")
    (bad / "m.jpg").write_bytes(b"no image")
    out = tmp_path / "new" / "F.npz"
    common = [f"--workdir={run}", "--mode=embed", f"--output={out}"]
    done = start(*common, f"--images={folder}")
    assert done.returncode == 0, done.stderr
    assert f"written: {out}, features [13, 32]" in done.stdout
    assert "images/s" in done.stdout
    with np.load(out) as arrays:
        assert set(arrays) == {"features", "paths", "bytes", "modified", "digest"}
        assert arrays["paths"].tolist() == paths
        features = arrays["features"]
    np.testing.assert_allclose(np.square(features[:, :16]).sum(1), 1, atol=1e-5)  # of float32
    assert open_features(out).features.ctypes.data % 64 == 0
    before = out.read_bytes()
    status, text = call_main(*common, f"--images={bad}")
    assert status == 2
    assert text.splitlines()[-1] == (
        f"error: '{bad / 'm.jpg'}' cannot be decoded as an image (cut off, or no image): "
        "replace or remove it"
    )
    assert f"warning: '{bad}': 1 file is left out" in text
    assert out.read_bytes() == before
    assert [p.name for p in out.parent.iterdir()] == ["F.npz"]
    config = ["--config=configs/demo.py", "--config.data.image_size=(64, 32)"]
    config += ["--config.model.width=0.0625", "--config.model.num_parts=1"]
    config += ["--config.model.backbone=toy"]
    config += ["--config.model.embedding_dim=16", "--config.eval.batch=6"]
    config += [f"--config.data.dir={tmp_path}"]
    done = start(*common, *config, f"--images={bad}", "--skip_unreadable")
    assert done.returncode == 0, done.stderr
    assert f"\nleft out: '{bad / 'm.jpg'}'" in done.stderr
    assert "note: 1 of 14 images have transparency: laid on white\n" in done.stderr
    found = open_features(out)
    assert found.paths == [path.replace(str(folder), str(bad)) for path in paths]
    np.testing.assert_array_equal(found.features, features)
    capsys.readouterr()
    status, text = call_main(
        f"--workdir={run / 'checkpoints' / '7'}", "--mode=search", f"--query={paths[3]}",
        f"--gallery={out}", "--top=2", f"--output={tmp_path / 'F.json'}",
    )  # fmt: skip
    assert status == 0, text
    hits = json.loads((tmp_path / "F.json").read_text())["results"][0]["hits"]
    assert hits[0]["score"] == pytest.approx(
        1, abs=1e-5
    )  # itself, or another file with the same pixels
    assert [f"{hit['rank']:5}  {hit['score']:7.4f}  {hit['path']}" for hit in hits] == (
        capsys.readouterr().out.splitlines()[1:3]
    )


def test_flags_of_other_modes_are_refused(tmp_path):
    for arguments, named in (
        (["--mode=embed", "--top=3"], "--mode=search"),
        (["--mode=search", "--images=x"], "--mode=embed"),
        (["--mode=train"], "no --config"),
    ):
        status, message = call_main(f"--workdir={tmp_path}", *arguments)
        assert (status, message.count("\n"), named in message) == (2, 1, True)


def test_embed_refuses_another_suffix_and_a_folder_without_images(tmp_path, monkeypatch):
    images = tmp_path / "bad"
    images.mkdir()
    (images / "m.jpg").write_bytes(b"no image")
    config = default_config()
    with pytest.raises(UserError, match=r"does not end in \.npz"):
        embed.run(
            config, tmp_path / "run", images=images, output=tmp_path / "F.h5", skip_unreadable=False
        )
    model = SimpleNamespace(config=config, image_size=(64, 32), alpha="white")
    monkeypatch.setattr(embed, "load_with_config", lambda *_, **__: model)
    with pytest.raises(UserError, match="none of the 1 images"):
        embed.run(
            config, tmp_path / "run", images=images, output=tmp_path / "F.npz", skip_unreadable=True
        )
