"""A workdir in a bucket: the main program with a storage on loopback, see support/fake_gcs.py."""

import json
import os
import time

import pytest
from etils.epath import backend
from support import needs
from support.fake_gcs import Storage
from support.run_main import assert_same_run
from support.several_processes import finish, small, start

from batnet_jax.errors import UserError
from batnet_jax.evaluation.evaluated_run import read_run
from batnet_jax.workdir import gcs

WORKDIR = "gs://people/runs/one"


@pytest.fixture
def storage():
    needs.package("gcsfs")
    storage = Storage("people")
    yield storage
    storage.close()


def start_run(storage, folder, *arguments, workdir=WORKDIR):
    environment = storage.environment()
    return start(small(folder, workdir, *arguments), processes=1, devices=2, **environment)


def download(storage, folder):
    """Write the run's objects to files."""
    prefix = "runs/one/"
    for name in storage.names("people"):
        path = folder / name.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(storage.objects["people", name][0])
    return folder


def wait_for(storage, name):
    deadline = time.monotonic() + 300
    while ("people", f"runs/one/{name}") not in storage.objects and time.monotonic() < deadline:
        time.sleep(0.02)


def test_killed_in_a_bucket_it_ends_as_in_a_folder(storage, tmp_path):
    ((status, _, errors),) = finish(start(small(tmp_path, tmp_path / "whole"), 1, 2))
    assert status == 0, errors
    (process,) = start_run(storage, tmp_path)
    wait_for(storage, "checkpoints/12/commit_success.txt")
    process.kill()
    finish([process])
    ((status, output, errors),) = finish(start_run(storage, tmp_path))
    assert status == 0, errors
    assert f"resuming '{WORKDIR}' after step 12" in output
    found = download(storage, tmp_path / "found")
    assert_same_run(found, tmp_path / "whole")
    assert (found / "config.json").read_text() == (tmp_path / "whole" / "config.json").read_text()
    assert list((found / "tensorboard").iterdir())
    assert (found / "eval" / "step_24.png").stat().st_size > 1000
    assert read_run(found).result["step"] == 24  # with the figures of its queries
    assert not (tmp_path / "gs:").exists()

    ((status, output, errors),) = finish(start_run(storage, tmp_path, "--mode=eval"))
    assert status == 0, errors
    assert "mAP" in output


def test_mistakes(storage, tmp_path):
    """Each mistake is reported on one line."""
    cases = {
        "gs://nobody/runs/one": "cannot use 'gs://nobody/runs/one'",
        WORKDIR: "(gcloud auth application-default login)",
    }
    for workdir, wanted in cases.items():
        storage.refuse = workdir == WORKDIR
        ((status, _, errors),) = finish(start_run(storage, tmp_path, workdir=workdir))
        assert status == 2, errors
        said = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, errors
        assert wanted in said[0]
        assert "Traceback" not in errors


@pytest.mark.parametrize("name", ["s3://bucket/run", "gs://", "gs://bucket", "gs://bucket/"])
def test_names_of_no_folder(name):
    with pytest.raises(UserError, match="name a folder"):
        gcs.path_of(name)


def test_paths(tmp_path):
    needs.package("gcsfs")
    assert not gcs.is_bucket(gcs.path_of(str(tmp_path)))
    path = gcs.path_of("gs://bucket/run") / "config.json"
    assert gcs.is_bucket(path)
    assert str(path) == "gs://bucket/run/config.json"


def test_the_mirror_of_a_folder_is_the_folder(tmp_path):
    mirror = gcs.Mirror(tmp_path, ("a",))
    assert mirror.folder == tmp_path
    mirror.publish()
    mirror.close()
    assert os.listdir(tmp_path) == []


def test_the_mirror_of_a_bucket(storage, monkeypatch):
    """Changed files are copied as a whole; existing objects are fetched."""
    from gcsfs.core import GCSFileSystem

    filesystem = GCSFileSystem(token="anon", endpoint_url=storage.url)
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: filesystem)
    storage.put("people", "runs/one/lines", b"a\n")
    mirror = gcs.Mirror(gcs.path_of(WORKDIR), ("lines", "missing"))
    assert (mirror.folder / "lines").read_text() == "a\n"
    with (mirror.folder / "lines").open("a") as file:
        file.write("b\n")
    (mirror.folder / "events").mkdir()
    (mirror.folder / "events" / "e").write_text("x")
    mirror.publish()
    assert storage.objects["people", "runs/one/lines"][0] == b"a\nb\n"
    assert storage.objects["people", "runs/one/events/e"][0] == b"x"
    before = json.dumps(storage.requests)
    mirror.publish()
    assert json.dumps(storage.requests) == before
    mirror.close()
    assert not mirror.folder.exists()
