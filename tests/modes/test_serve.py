"""The mode `serve`: requests and answers, and the page in Chromium by mouse and keys."""

import io
import json
import os
import struct
import sys
import threading
import types
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from support import needs
from support.chromium import Seen, overflow, wait_for
from support.mean_colour_model import COLOURS, config, png, use_colours, write_gallery

from batnet_jax.errors import UserError
from batnet_jax.inference.search import Searcher
from batnet_jax.modes import serve

RED = png((200, 8, 8))
IMAGE = {"Content-Type": "image/png"}


@pytest.fixture
def searcher(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    return Searcher(config(), tmp_path / "run", write_gallery(tmp_path / "gallery"))


@pytest.fixture
def app():
    """The module of the page, which needs starlette."""
    needs.package("starlette")
    from batnet_jax.modes.serve import app

    return app


@pytest.fixture
def uvicorn():
    return needs.package("uvicorn")


@pytest.fixture
def client(app, searcher):
    needs.package("httpx2")
    from starlette.testclient import TestClient

    return TestClient(app.make_app(searcher, names()), base_url="http://localhost")


def names(*more):
    from batnet_jax.modes.serve.access import HostNames

    return HostNames("127.0.0.1", more)


def test_ranked_hits(client):
    answer = client.post("/search?top=3", content=RED, headers=IMAGE)
    assert answer.status_code == 200
    found = answer.json()
    assert found["gallery"] == len(COLOURS)
    assert [hit["path"] for hit in found["hits"]] == ["red.png", "deep/dark red.png", "grey.png"]
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    # (200, 8, 8) . (250, 10, 10) over their lengths
    assert found["hits"][0]["score"] == pytest.approx(0.9999998, abs=1e-6)


def test_names_of_any_bytes_are_shown(client, searcher):
    """A name that is not UTF-8, and one with a line break and a control character."""
    searcher.gallery.paths[0:2] = ["/x/\udcff.png", "/x/a\nb\x1b[2J.png"]
    found = client.post("/search?top=5", content=RED, headers=IMAGE)
    assert found.status_code == 200
    shown = {hit["index"]: hit["path"] for hit in found.json()["hits"]}
    assert shown[0].endswith("\\udcff.png")
    assert shown[1].endswith("a\\nb\\x1b[2J.png")


def test_a_transparent_query_is_laid_on_white_and_it_is_said(client, searcher):
    """A pixel is green; the transparent ones hide red."""
    image = np.full((8, 8, 4), (250, 10, 10, 0), np.uint8)
    image[:, :4] = (20, 240, 20, 255)
    seen, search = [], searcher.search
    searcher.search = lambda images, top: seen.append(images) or search(images, top)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    found = client.post("/search", content=buffer.getvalue(), headers=IMAGE).json()
    assert found["note"] == "the image has transparency: laid on white"
    assert (seen[0][0][8, 15] == 255).all()
    np.testing.assert_array_equal(seen[0][0][8, 0], (20, 240, 20))
    assert client.post("/search", content=RED, headers=IMAGE).json()["note"] == ""


def test_gallery_images_are_served_by_number_only(client):
    answer = client.get("/gallery/2")  # deep/green.png, 40 x 30, needs no scaling
    assert answer.headers["content-type"] == "image/jpeg"
    image = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (40, 30, 3)
    np.testing.assert_allclose(image[20, 15, ::-1], COLOURS["deep/green.png"], atol=4)  # of JPEG
    wrong = ("5", "-1", "99999999999999999999", "x", "../../etc/passwd", "..%2f..%2fetc%2fpasswd")
    wrong += (
        "red.png",
        "%2e%2e/red.png",
        "2/../../q.png",
        "",
        "0/",
        "9" * 5000,
        "\u0663",
        "+1",
        "1_0",
    )
    for number in wrong:
        answer = client.get(f"/gallery/{number}")
        found = answer.status_code, answer.headers["content-type"]
        assert found == (404, "application/json"), number


def test_a_large_image_is_shrunk(client, searcher):
    path = searcher.gallery.paths[0]
    cv2.imwrite(path, np.zeros((1000, 300, 3), np.uint8))
    with Image.open(io.BytesIO(client.get("/gallery/0").content)) as image:
        assert image.size == (77, 256)
    os.remove(path)
    assert client.get("/gallery/0").status_code == 404
    assert client.get("/gallery/1").status_code == 200


def huge_png(width, height):
    """Return a PNG with a header and no pixels."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def gif():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "GIF")
    return buffer.getvalue()


REFUSED = {
    "too many bytes": (bytes(10 * 2**20 + 1), "", IMAGE, 413, "at most 10 MB"),
    "too many pixels": (huge_png(8000, 8000), "", IMAGE, 413, "50 megapixels"),
    "far too many": (huge_png(20_000, 20_000), "", IMAGE, 413, "50 megapixels"),
    "GIF": (gif(), "", IMAGE, 415, "not an image of a known format"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "", IMAGE, 415, "known format"),
    "nothing": (b"", "", IMAGE, 415, "known format"),
    "cut off": (RED[:-20], "", IMAGE, 422, "cut off"),
    "a header alone": (huge_png(40, 30), "", IMAGE, 422, "cannot be decoded"),
    "sent as text": (RED, "", {"Content-Type": "text/plain"}, 415, "send an image"),
    "sent as nothing": (RED, "", {}, 415, "send an image"),
    "no place": (RED, "?top=0", IMAGE, 400, "1 to 100"),
    "a float": (RED, "?top=1e9", IMAGE, 400, "1 to 100"),
    "a number of 5000 digits": (RED, "?top=" + "9" * 5000, IMAGE, 400, "1 to 100"),
    "another script's digits": (RED, "?top=\u0663", IMAGE, 400, "1 to 100"),
    "a declared size": (RED, "", {**IMAGE, "Content-Length": str(10 * 2**20 + 1)}, 413, "10 MB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused(client, case):
    content, parameters, headers, status, message = REFUSED[case]
    answer = client.post(f"/search{parameters}", content=content, headers=headers)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True)


def a_request(app, stream):
    """A request with a body of these messages."""
    from starlette.requests import Request

    messages = iter(stream)

    async def receive():
        return next(messages)

    scope = {"type": "http", "headers": [], "client": ("10.0.0.1", 5)}
    return Request(scope, receive)


def test_a_body_that_is_too_long_is_not_read_to_its_end(app):
    import anyio
    from starlette.exceptions import HTTPException

    taken = []

    def endless():
        while True:
            taken.append(2**20)
            yield {"type": "http.request", "body": bytes(taken[-1]), "more_body": True}

    with pytest.raises(HTTPException, match="413"):
        anyio.run(app._read_body, a_request(app, endless()))
    assert sum(taken) == app.MAX_BYTES + 2**20


def test_a_broken_upload_is_one_short_line(app, capsys):
    import anyio
    from starlette.exceptions import HTTPException

    part = {"type": "http.request", "body": bytes(1234), "more_body": True}
    with pytest.raises(HTTPException, match="broke off"):
        anyio.run(app._read_body, a_request(app, [part, {"type": "http.disconnect"}]))
    assert capsys.readouterr().err == "10.0.0.1: an upload broke off after 1,234 bytes\n"


def test_a_slow_upload_is_refused(app, monkeypatch):
    import anyio
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    monkeypatch.setattr(app, "BODY_SECONDS", 0.01)
    scope = {"type": "http", "headers": [], "client": None}
    with pytest.raises(HTTPException, match=r"408.*longer than"):
        anyio.run(app._read_body, Request(scope, anyio.sleep_forever))


def test_too_little_memory_is_said(client, searcher):
    def search(*_):
        raise MemoryError

    searcher.search = search
    answer = client.post("/search", content=RED, headers=IMAGE)
    assert (answer.status_code, "memory" in answer.json()["error"]) == (503, True)


def test_uploads_are_not_kept(client, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    big = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (1200, 1200, 3)))[1]
    assert client.post("/search", content=big.tobytes(), headers=IMAGE).status_code == 200
    assert sorted(tmp_path.rglob("*")) == before


def test_the_page_names_no_other_site(client):
    for path in ("/", "/page.css", "/page.js"):
        assert "//" not in client.get(path).text.split("<!--")[0]


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", types.ModuleType("starlette"))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs uvicorn.*batnet-jax\[serve\]"):
        serve.import_uvicorn()


@pytest.fixture
def address(app, uvicorn, searcher):
    """Yield the address of a server that runs in a thread."""
    from batnet_jax.modes.serve.server import Server

    listener = serve.listen("127.0.0.1", 0)
    server = Server(app.make_app(searcher, names()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


SHOWN = "[...document.querySelectorAll('#hits .path')].map((span) => span.textContent)"
LOADED = "[...document.querySelectorAll('#hits img')].every((i) => i.complete && i.naturalWidth)"
HAND_OVER = """([kind, colour]) => {
  const canvas = document.createElement("canvas");
  const draw = canvas.getContext("2d");
  draw.fillStyle = colour;
  draw.fillRect(0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => {
    const carried = new DataTransfer();
    carried.items.add(new File([blob], "made.png", { type: "image/png" }));
    const event = kind === "drop"
      ? new DragEvent("drop", { bubbles: true, dataTransfer: carried })
      : new ClipboardEvent("paste", { bubbles: true, clipboardData: carried });
    document.body.dispatchEvent(event);
  });
}"""
STATUS = "document.getElementById('status').textContent"


def test_in_chromium(page, address, tmp_path):
    """Images are chosen, dropped and pasted; hits have pictures; mistakes are reported."""
    (tmp_path / "q.png").write_bytes(RED)
    (tmp_path / "cut.png").write_bytes(RED[:-20])
    seen = Seen(page)
    page.goto(address)
    page.set_input_files("#file", tmp_path / "q.png")
    wait_for(page, "document.querySelectorAll('#hits li').length === 5")
    assert page.evaluate(SHOWN)[:2] == ["red.png", "deep/dark red.png"]
    assert "blue <b>.png" in page.evaluate(SHOWN)  # a name is text, not HTML
    wait_for(page, LOADED)
    assert page.evaluate("document.getElementById('preview').naturalWidth") == 30
    assert page.evaluate(STATUS).startswith("5 of 5 images")
    assert seen.errors == []
    assert {url.startswith(address) for url in seen.requests} == {True}

    for kind, colour, first in (
        ("drop", "rgb(20, 240, 20)", "deep/green.png"),
        ("paste", "rgb(10, 10, 240)", "blue <b>.png"),
    ):
        page.evaluate(HAND_OVER, [kind, colour])
        wait_for(page, f"({SHOWN})[0] === {json.dumps(first)}")

    page.set_input_files("#file", tmp_path / "cut.png")
    wait_for(page, f"{STATUS} === 'the image is cut off'")
    assert page.evaluate(SHOWN) == []
    assert page.evaluate("document.getElementById('status').className") == "bad"


def test_with_keys_and_on_a_phone(phone, address, tmp_path):
    (tmp_path / "q.png").write_bytes(RED)
    seen = Seen(phone)
    phone.goto(address)
    phone.keyboard.press("Tab")
    assert phone.evaluate("document.activeElement.id") == "file"
    ring = "getComputedStyle(document.getElementById('drop')).outlineStyle"
    assert phone.evaluate(ring) == "solid"  # the focus is visible
    phone.keyboard.press("Tab")
    assert phone.evaluate("document.activeElement.id") == "top"
    phone.set_input_files("#file", tmp_path / "q.png")
    wait_for(phone, "document.querySelectorAll('#hits li').length === 5")
    wait_for(phone, LOADED)
    assert overflow(phone) <= 0
    phone.screenshot(path=tmp_path / "phone.png")
    assert seen.errors == []
