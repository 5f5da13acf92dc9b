"""Files are fetched whole or not at all, from a server of this machine."""

import gc
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import needs
from support.loopback_server import LoopbackServer
from support.paths import ROOT
from support.run_main import call_main

from batnet_jax.commands import weights
from batnet_jax.commands.known_weights import File
from batnet_jax.errors import RunFailure, UserError
from batnet_jax.runtime import download, extras

# pooch does not close the connection of an answer that it refuses.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
BODY = bytes(range(256)) * 4096
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path: whole, cut off, other bytes, silent, slow, moved, an error."""

    def do_GET(self):
        self.server.asked.append(self.path)
        kind = self.path.strip("/")
        if kind == "silent":
            self.server.ended.wait(3)
            return
        if kind in ("404", "500"):
            self.send_error(int(kind))
            return
        if kind == "moved":
            self.send_response(302)
            self.send_header("Location", "/whole")
            self.end_headers()
            return
        body = {"other": BODY[::-1], "empty": b"", "short": BODY[:-1]}.get(kind, BODY)
        self.send_response(200)
        if kind != "unsaid":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind in ("cut", "unsaid"):
            body = body[: len(body) // 2]
        self.wfile.write(body[:1000])
        if kind == "slow":
            self.wfile.flush()
            self.server.begun.set()
            self.server.ended.wait(60)
        self.wfile.write(body[1000:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = LoopbackServer(("127.0.0.1", 0), Handler)
    found.asked, found.begun, found.daemon_threads = [], threading.Event(), True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    found.ended = threading.Event()
    yield found
    found.ended.set()  # what still waits ends in this test
    found.shutdown()
    found.server_close()
    gc.collect()


def address(server, kind):
    return f"http://127.0.0.1:{server.server_port}/{kind}"


def fetch(url, path):
    needs.package("pooch")
    return download.fetch(url, SHA, path, user="the test")


@pytest.mark.parametrize("kind", ["whole", "moved"])
def test_a_file_is_fetched_once(kind, server, tmp_path):
    path = tmp_path / "ein Ordner é" / "w.pth"
    assert fetch(address(server, kind), path)
    assert path.read_bytes() == BODY
    asked = list(server.asked)
    assert not fetch(address(server, kind), path)
    assert server.asked == asked
    assert os.listdir(path.parent) == ["w.pth"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("other", "sent other bytes than published"),
        ("short", "sent other bytes than published"),
        ("empty", "sent other bytes than published"),
        ("unsaid", "sent other bytes than published"),
        ("cut", "nothing was kept: it ended too early"),
        ("404", "the server answers 404"),
        ("500", "the server answers 500"),
        ("silent", r"no answer in 0\.3 s"),
    ],
)
def test_what_is_not_whole_is_not_kept(kind, message, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with pytest.raises(RunFailure, match=message) as caught:
        fetch(address(server, kind), tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/w", "http://no-such-host.invalid/w"])
def test_without_a_network(url, tmp_path):
    with pytest.raises(RunFailure, match="is this machine online") as caught:
        fetch(url, tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_another_file_is_never_replaced(server, tmp_path):
    (tmp_path / "w.pth").write_bytes(BODY[:100])
    (tmp_path / "folder.pth").mkdir()
    for name in ("w.pth", "folder.pth"):
        with pytest.raises(UserError, match="already exists, and is not the file of"):
            fetch(address(server, "whole"), tmp_path / name)
    assert (tmp_path / "w.pth").read_bytes() == BODY[:100]
    assert server.asked == []


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFailure, match="cannot be written"):
        fetch(address(server, "whole"), tmp_path / "file" / "w.pth")


def test_without_pooch(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'batnet-jax\[weights\]'"):
        download.fetch("http://127.0.0.1:1/", SHA, tmp_path / "w.pth", user="the test")


KILLED = """
import sys
from pathlib import Path
from batnet_jax.runtime.download import fetch
fetch(sys.argv[1], "0" * 64, Path(sys.argv[2]), user="the test")
"""


def test_a_killed_download_leaves_no_file_of_the_name(server, tmp_path):
    needs.package("pooch")
    path = tmp_path / "w.pth"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, address(server, "slow"), str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert server.begun.wait(60)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    assert fetch(address(server, "whole"), path)
    assert path.read_bytes() == BODY


def test_the_command(server, tmp_path, monkeypatch, capsys):
    needs.package("pooch")
    own = File("mine", "a network", address(server, "whole"), SHA, "MIT")
    lost = own.__class__("lost", "a network", address(server, "404"), SHA, "MIT")
    monkeypatch.setattr(weights, "FILES", (own, lost))
    words = ("weights", "get", "mine", f"--to={tmp_path}")
    assert call_main(*words) == (0, f"fetching {own.url}\n")
    assert capsys.readouterr().out.startswith(f"'{tmp_path}/mine.pth' fetched, SHA-256 as pub")
    assert call_main(*words)[0] == 0
    assert "was there already" in capsys.readouterr().out
    status, said = call_main("weights", "get", "lost", f"--to={tmp_path}")
    assert (status, said.splitlines()[1:]) == (
        1,
        [f"error: {lost.url} cannot be fetched, and nothing was kept: the server answers 404"],
    )
    assert os.listdir(tmp_path) == ["mine.pth"]


def test_nothing_is_fetched_for_a_list(server, monkeypatch):
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("it was fetched"))
    assert call_main("weights")[0] == 0
