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
from support.chromium import Seen, overflow, serious_findings, wait_for
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

    return TestClient(app.make_app(searcher, names(), bands=bands()), base_url="http://localhost")


@pytest.fixture
def uploads(app):
    """The module of what requests send."""
    from batnet_jax.modes.serve import uploads

    return uploads


def bands():
    from batnet_jax.modes.serve.verdicts import Bands

    return Bands(same=0.99, different=0.5, rate=0.001)


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


def test_a_hit_has_a_verdict_by_the_thresholds(client, app, searcher):
    found = client.post("/search?top=5", content=RED, headers=IMAGE).json()["hits"]
    for hit in found:
        score = hit["score"]
        wanted = "same" if score >= 0.99 else "unsure" if score >= 0.5 else "different"
        assert hit["verdict"] == wanted
    assert {hit["verdict"] for hit in found} == {"same", "unsure", "different"}
    from starlette.testclient import TestClient

    none = TestClient(app.make_app(searcher, names()), base_url="http://localhost")
    found = none.post("/search", content=RED, headers=IMAGE).json()["hits"]
    assert {hit["verdict"] for hit in found} == {None}
    assert none.get("/health").json()["bands"] is None


def point(rate, threshold, resolved=True):
    return {"wanted_false_accept_rate": rate, "threshold": threshold, "resolved": resolved}


def test_bands_by_hand(tmp_path, capsys):
    needs.package("starlette")
    from batnet_jax.modes.serve.verdicts import Bands, bands_of, read_bands

    points = [point(1e-1, 0.4), point(1e-2, 0.5), point(1e-3, 0.6), point(1e-4, 0.7)]
    assert bands_of(points) == Bands(0.6, 0.4, 1e-3)
    assert bands_of(points[:2]) == Bands(0.5, 0.4, 1e-2)
    few = [*points[:2], point(1e-3, 0.6, resolved=False)]
    assert bands_of(few) == Bands(0.5, 0.4, 1e-2)
    assert bands_of(points[:1]) is None  # too loose a rate to call anything the same
    own = Bands(0.6, 0.4, 1e-3)
    assert [own.verdict(s) for s in (0.7, 0.6, 0.5, 0.4, 0.3)] == [
        "same", "same", "unsure", "unsure", "different",
    ]  # fmt: skip
    for name in ("report/verification_step_5.json", "eval/step_5.json"):
        run = tmp_path / name[:4]
        (run / "checkpoints" / "5").mkdir(parents=True)
        (run / name).parent.mkdir()
        (run / name).write_text(json.dumps({"verification": {"operating_points": points}}))
        assert read_bands(run, 5) == own
        assert capsys.readouterr().err == ""
        assert read_bands(run, 6) is None
        assert "has not measured thresholds: batnet report" in capsys.readouterr().err
    (run / name).write_text("{")
    assert read_bands(run, 5) is None
    assert "is damaged" in capsys.readouterr().err


def test_a_part_of_the_image_is_searched(client):
    """The left half is red, the right half green."""
    image = np.full((40, 60, 3), COLOURS["red.png"], np.uint8)
    image[:, 30:] = COLOURS["deep/green.png"]
    content = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    for box, first in (("0,0,30,40", "red.png"), ("30,0,60,40", "deep/green.png")):
        found = client.post(f"/search?box={box}", content=content, headers=IMAGE).json()
        assert found["hits"][0]["path"] == first
        assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-6)
    for box in ("1,2,3", "0,0,a,1", "0,0,-1,1", "0,0,nan,1", "1e3,0,2,2", ","):
        answer = client.post(f"/search?box={box}", content=content, headers=IMAGE)
        assert (answer.status_code, "x0,y0,x1,y1" in answer.json()["error"]) == (400, True), box
    for box in ("5,5,5,9", "100,0,110,40"):
        answer = client.post(f"/search?box={box}", content=content, headers=IMAGE)
        assert (answer.status_code, "box" in answer.json()["error"]) == (422, True), box


def test_a_gallery_image_is_searched_by_its_number(client):
    """It is not in its own list; the rest is that of its picture."""
    found = client.get("/gallery/4/similar?top=9").json()  # red
    content = png(COLOURS["red.png"])
    wanted = client.post("/search?top=9", content=content, headers=IMAGE).json()["hits"]
    assert found["hits"] == [{**hit, "rank": hit["rank"] - 1} for hit in wanted[1:]]
    assert len(client.get("/gallery/4/similar?top=2").json()["hits"]) == 2
    assert client.get("/gallery/5/similar").status_code == 404
    assert client.get("/gallery/x/similar").status_code == 404
    assert client.get("/gallery/4/similar?top=0").status_code == 400


def test_an_image_is_embedded(client):
    answer = client.post("/embed", content=RED, headers=IMAGE)
    assert answer.json() == {"feature": [200.0, 8.0, 8.0], "dim": 3, "step": 5, "note": ""}
    unit = client.post("/embed?normalize=true&box=0,0,9,9", content=RED, headers=IMAGE).json()
    np.testing.assert_allclose(unit["feature"], np.array([200, 8, 8]) / np.sqrt(200**2 + 128))
    assert client.post("/embed?normalize=1", content=RED, headers=IMAGE).status_code == 400
    assert client.post("/embed", content=RED).status_code == 415
    assert client.post("/embed", content=RED[:-20], headers=IMAGE).status_code == 422


def test_health_and_samples(client, searcher):
    about = client.get("/health").json()
    assert about["status"] == "ok"
    assert about["gallery"] == len(COLOURS)
    assert about["model"] == {"name": "run", "step": 5, "dim": 3, "input": "16 x 16"}
    assert about["bands"] == {"same": 0.99, "different": 0.5, "rate": 0.001}
    found = client.get("/gallery?samples=3").json()
    assert found["gallery"] == 5
    assert [one["index"] for one in found["samples"]] == [0, 2, 4]
    assert found["samples"][1]["path"] == "deep/green.png"
    assert len(client.get("/gallery?samples=100").json()["samples"]) == 5
    assert client.get("/gallery?samples=0").json()["samples"] == []
    for wrong in ("101", "-1", "x"):
        assert client.get(f"/gallery?samples={wrong}").status_code == 400


def fits(value, schema, schemas):
    """Whether a JSON value fits the parts of JSON Schema that the document uses."""
    if "$ref" in schema:
        return fits(value, schemas[schema["$ref"].rpartition("/")[2]], schemas)
    kinds = {
        "object": dict, "array": list, "string": str, "null": type(None), "integer": int,
        "number": (int, float),
    }  # fmt: skip
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(isinstance(value, kinds[name]) for name in names):
        return False
    if ("const" in schema and value != schema["const"]) or value not in schema.get("enum", [value]):
        return False
    if isinstance(value, dict):
        own = schema.get("properties", {})
        if more := schema.get("additionalProperties"):
            own = dict.fromkeys(value, more) | own
        known = set(schema.get("required", [])) <= value.keys() <= own.keys()
        return known and all(fits(value[name], own[name], schemas) for name in value)
    return not isinstance(value, list) or all(fits(v, schema["items"], schemas) for v in value)


def test_the_document_of_the_endpoints_is_true(client):
    """Each endpoint answers as it says, also where it refuses, and none is left out."""
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    asked = {"content": RED, "headers": IMAGE}
    wrong = {"/search": "top=0", "/embed": "box=1", "/gallery": "samples=x"}
    wrong |= {"/gallery/{number}/similar": "top=0", "/gallery/{number}": "size=0"}
    for path, methods in document["paths"].items():
        ((method, call),) = methods.items()
        url = path.replace("{number}", "1")
        more = asked if method == "post" else {}
        assert ("requestBody" in call) == (method == "post")
        answer = client.request(method, url, **more)
        ((media, content),) = call["responses"]["200"]["content"].items()
        assert (answer.status_code, answer.headers["content-type"]) == (200, media)
        if media == "application/json":
            assert fits(answer.json(), content["schema"], schemas), path
            assert not fits(answer.json() | {"more": 1}, content["schema"], schemas)
        if path in wrong:
            refused = client.request(method, f"{url}?{wrong[path]}", **more)
            assert refused.status_code == 400
            assert fits(refused.json(), schemas["Error"], schemas)
            assert wrong[path].partition("=")[0] in {p["name"] for p in call["parameters"]}
    served = {route.path for route in client.app._app.routes}
    assert served - document["paths"].keys() == {"/", "/page.css", "/page.js", "/openapi.json"}


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
    searcher.search = lambda *words: seen.append(words[0]) or search(*words)
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
        assert image.size == (154, 512)
    with Image.open(io.BytesIO(client.get("/gallery/0?size=large").content)) as image:
        assert image.size == (300, 1000)
    assert client.get("/gallery/0?size=huge").status_code == 400
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


def a_request(stream):
    """A request with a body of these messages."""
    from starlette.requests import Request

    messages = iter(stream)

    async def receive():
        return next(messages)

    scope = {"type": "http", "headers": [], "client": ("10.0.0.1", 5)}
    return Request(scope, receive)


def test_a_body_that_is_too_long_is_not_read_to_its_end(uploads):
    import anyio
    from starlette.exceptions import HTTPException

    taken = []

    def endless():
        while True:
            taken.append(2**20)
            yield {"type": "http.request", "body": bytes(taken[-1]), "more_body": True}

    with pytest.raises(HTTPException, match="413"):
        anyio.run(uploads.read_body, a_request(endless()))
    assert sum(taken) == uploads.MAX_BYTES + 2**20


def test_a_broken_upload_is_one_short_line(uploads, capsys):
    import anyio
    from starlette.exceptions import HTTPException

    part = {"type": "http.request", "body": bytes(1234), "more_body": True}
    with pytest.raises(HTTPException, match="broke off"):
        anyio.run(uploads.read_body, a_request([part, {"type": "http.disconnect"}]))
    assert capsys.readouterr().err == "10.0.0.1: an upload broke off after 1,234 bytes\n"


def test_a_slow_upload_is_refused(uploads, monkeypatch):
    import anyio
    from starlette.exceptions import HTTPException
    from starlette.requests import Request

    monkeypatch.setattr(uploads, "BODY_SECONDS", 0.01)
    scope = {"type": "http", "headers": [], "client": None}
    with pytest.raises(HTTPException, match=r"408.*longer than"):
        anyio.run(uploads.read_body, Request(scope, anyio.sleep_forever))


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
    searcher.names = {"deep"}
    server = Server(app.make_app(searcher, names(), bands=bands()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()


SHOWN = "[...document.querySelectorAll('#hits .path')].map((span) => span.textContent)"
HITS = "document.querySelectorAll('#hits li:not(.skeleton)')"
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
    wait_for(page, f"{HITS}.length === 5")
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


def test_an_empty_page_offers_samples(page, address):
    """The head tells gallery and model; a sample starts a search, and so does a hit."""
    seen = Seen(page)
    page.goto(address)
    wait_for(page, "document.querySelectorAll('#samples li').length === 5")
    head = page.evaluate("document.getElementById('facts').innerText")
    assert "5 images" in head
    assert "run" in head
    page.click("#samples .show >> nth=4")  # red
    wait_for(page, f"{HITS}.length === 4")
    assert page.evaluate(SHOWN)[0] == "deep/dark red.png"
    assert page.evaluate("document.activeElement.id") == "results"
    assert not page.is_visible("#samples")
    assert not page.is_visible("#cut")  # a part of an upload alone
    words = "[...document.querySelectorAll('#hits .verdict')].map((p) => p.textContent)"
    assert page.evaluate(words)[0] == "likely the same"
    assert page.evaluate(words)[-1] == "likely not"
    assert page.evaluate("document.querySelector('#hits .name').textContent") == "deep"
    page.click("#hits .again >> nth=0")
    wait_for(page, f"{HITS}.length === 4 && ({SHOWN})[0] === 'red.png'")
    assert seen.errors == []


def test_a_hit_is_enlarged(page, address, tmp_path):
    (tmp_path / "q.png").write_bytes(RED)
    page.goto(address)
    page.set_input_files("#file", tmp_path / "q.png")
    wait_for(page, f"{HITS}.length === 5")
    page.click("#hits .show >> nth=1")
    title = "document.getElementById('large-title').textContent"
    assert page.evaluate(title) == "2. deep, deep/dark red.png"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(title) == "3. grey.png"
    page.keyboard.press("Escape")
    focused = "document.activeElement === document.querySelectorAll('#hits .show')[2]"
    wait_for(page, focused)  # the dialog tells a moment later that it was closed
    page.keyboard.press("Enter")
    page.click("#large-search")
    wait_for(page, f"{HITS}.length === 4")
    assert not page.is_visible("#large")
    assert page.evaluate("document.getElementById('about').textContent") == "grey.png"


def test_a_part_is_chosen_by_keys_and_by_mouse(page, address, tmp_path):
    image = np.full((40, 60, 3), COLOURS["red.png"], np.uint8)
    image[:, 30:] = COLOURS["deep/green.png"]
    cv2.imwrite(str(tmp_path / "q.png"), image[:, :, ::-1])
    seen = Seen(page)
    page.goto(address)
    page.set_input_files("#file", tmp_path / "q.png")
    wait_for(page, f"{HITS}.length === 5")
    page.click("#cut")
    assert page.evaluate("document.activeElement.id") == "crop"
    for _ in range(20):
        page.keyboard.press("Shift+ArrowLeft")
    wait_for(page, f"({SHOWN})[0] === 'red.png' && !document.querySelector('.skeleton')")
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    wait_for(page, f"({SHOWN})[0] === 'deep/green.png'")
    area = page.locator("#preview").bounding_box()
    page.mouse.move(area["x"] + 1, area["y"] + 1)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.45, area["y"] + area["height"] - 1)
    page.mouse.up()
    wait_for(page, f"({SHOWN})[0] === 'red.png'")
    boxes = [url.partition("box=")[2] for url in seen.requests if "box=" in url]
    x0, y0, x1, y1 = map(int, boxes[-1].split(","))
    assert (x0, y0) <= (2, 2)
    assert (25 <= x1 <= 29, 37 <= y1 <= 40) == (True, True)
    page.click("#whole")
    wait_for(page, "document.getElementById('crop').hidden")
    assert seen.errors == []


@pytest.fixture
def with_columns(searcher):
    """Give the gallery columns; the images are in the order of their names."""
    columns = {"camera": np.array([1, 2, 1, 2, 1]), "floor": np.array(["a", "a", "b", "b", ""])}
    columns["digest"] = np.array(["0" * 32] * 5)
    searcher.gallery = searcher.gallery._replace(columns=columns)


@pytest.mark.usefixtures("with_columns")
def test_a_filter_is_kept_and_its_error_is_beside_it(page, address, tmp_path):
    """In the search of a file, of a part, and of a gallery image."""
    (tmp_path / "q.png").write_bytes(RED)
    seen, error = Seen(page), "document.getElementById('where-error').textContent"
    page.goto(address)
    page.get_by_label("Filter").fill("camera = 2")  # before there is a query
    page.keyboard.press("Enter")
    wait_for(page, f"{STATUS} === '2 of 5 images pass the filter'")
    assert "columns: camera, floor, digest, path" in page.inner_text("#where-help")
    page.set_input_files("#file", tmp_path / "q.png")
    wait_for(page, f"{HITS}.length === 2")
    two = ["deep/dark red.png", "grey.png"]
    assert page.evaluate(SHOWN) == two
    page.click("#cut")
    wait_for(page, f"{HITS}.length === 2")
    page.click("#hits .again >> nth=1")
    wait_for(page, f"{HITS}.length === 1 && ({SHOWN})[0] === '{two[0]}'")
    boxes = [url for url in seen.requests if "box=" in url]
    assert len(boxes) == 1
    asked = [url for url in seen.requests if "top=" in url]
    assert len(asked) == 3
    assert all("where=camera+%3D+2" in url for url in asked)
    page.click("#hits .show >> nth=0")
    assert page.inner_text("#large-about").startswith("cosine 0.6")
    assert page.inner_text("#large-about").partition("\n")[0].endswith("camera 2 · floor a")
    page.keyboard.press("Escape")
    assert seen.errors == []

    for wrong, told in (
        ("floor=b and", "the filter cannot be read: a column is missing at the end of"),
        ("camera=<b>", "the filter cannot be read: a value is missing before '<b>'"),
        ("cam=1", "the gallery has no column 'cam': it has camera, floor, digest, path"),
    ):
        page.get_by_label("Filter").fill(wrong)
        page.keyboard.press("Enter")
        wait_for(page, f"{error}.includes({json.dumps(told)}) && {HITS}.length === 0")
        assert page.get_attribute("#where", "aria-invalid") == "true"
        assert page.evaluate(STATUS) == ""
        assert "\n" not in page.evaluate(error)
    page.get_by_label("Filter").fill("camera=7")
    page.keyboard.press("Enter")
    wait_for(page, f"{STATUS}.startsWith('None of 5 images passes the filter')")
    assert page.evaluate(error) == ""
    assert page.get_attribute("#where", "aria-invalid") is None
    page.get_by_label("Filter").fill("")
    wait_for(page, f"{HITS}.length === 4")


def test_a_gallery_without_names_has_no_filter(page, address, searcher):
    searcher.gallery = searcher.gallery._replace(paths=None)
    page.goto(address)
    wait_for(page, "document.querySelectorAll('#samples li').length === 5")
    assert not page.is_visible("#where")


@pytest.mark.usefixtures("with_columns")
def test_a_filter_is_counted(client):
    found = client.get("/gallery", params={"samples": 0, "where": "camera=1"}).json()
    assert (found["passing"], found["gallery"]) == (3, 5)
    assert found["columns"] == ["camera", "floor", "digest", "path"]
    assert "passing" not in client.get("/gallery").json()
    answer = client.get("/gallery", params={"where": "cam=1"})
    assert (answer.status_code, answer.json()["error"][:33]) == (
        400, "where: the gallery has no column ",
    )  # fmt: skip


def test_hits_below_the_score_are_left_out(app, searcher):
    needs.package("httpx2")
    from starlette.testclient import TestClient

    def ask(lowest):
        made = app.make_app(searcher, names(), lowest=lowest)
        client = TestClient(made, base_url="http://localhost")
        assert client.get("/health").json()["accept"] == lowest
        found = client.post("/search?top=5", content=RED, headers=IMAGE).json()
        similar = client.get("/gallery/4/similar?top=1").json()
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert fits(found, schemas["RankedList"], schemas)
        return found, similar

    everything, _ = ask(None)
    assert "best" not in everything
    scores = [hit["score"] for hit in everything["hits"]]
    found, similar = ask(scores[1])  # as good as is enough
    assert found["hits"] == everything["hits"][:2]
    assert (found["accepted"], found["best"]) == (2, scores[0])
    assert similar["accepted"] == 1
    found, similar = ask(1.5)
    assert (found["hits"], found["accepted"], found["best"]) == ([], 0, scores[0])


def test_skeletons_stand_while_it_searches(page, address, searcher, tmp_path):
    go_on, find = threading.Event(), searcher.search
    searcher.search = lambda *words: (go_on.wait(60), find(*words))[1]
    (tmp_path / "q.png").write_bytes(RED)
    page.goto(address)
    page.set_input_files("#file", tmp_path / "q.png")
    wait_for(page, "document.querySelectorAll('#hits .skeleton').length === 10")
    assert page.evaluate("document.getElementById('hits').ariaBusy") == "true"
    go_on.set()
    wait_for(page, f"{HITS}.length === 5")
    assert page.evaluate("document.getElementById('hits').ariaBusy") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(page, address, tmp_path, width, scheme):
    (tmp_path / "q.png").write_bytes(RED)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    wait_for(page, "document.querySelectorAll('#samples li').length === 5")
    page.get_by_label("Filter").fill("camera=3")  # there is none
    page.keyboard.press("Enter")
    wait_for(page, "document.getElementById('where-error').textContent !== ''")
    assert serious_findings(page) == []
    page.get_by_label("Filter").fill("")
    page.set_input_files("#file", tmp_path / "q.png")
    wait_for(page, f"{HITS}.length === 5")
    page.click("#cut")
    wait_for(page, f"{HITS}.length === 5")
    assert serious_findings(page) == []
    page.click("#hits .show >> nth=1")
    assert serious_findings(page) == []


def test_with_keys_and_on_a_phone(phone, address, tmp_path):
    (tmp_path / "q.png").write_bytes(RED)
    seen = Seen(phone)
    phone.goto(address)
    phone.keyboard.press("Tab")
    assert phone.evaluate("document.activeElement.className") == "skip"
    phone.keyboard.press("Tab")
    assert phone.evaluate("document.activeElement.id") == "file"
    ring = "getComputedStyle(document.getElementById('drop')).outlineStyle"
    assert phone.evaluate(ring) == "solid"  # the focus is visible
    phone.keyboard.press("Tab")
    assert phone.evaluate("document.activeElement.id") == "top"
    phone.set_input_files("#file", tmp_path / "q.png")
    wait_for(phone, f"{HITS}.length === 5")
    wait_for(phone, LOADED)
    assert overflow(phone) <= 0
    phone.screenshot(path=tmp_path / "phone.png")
    assert seen.errors == []
