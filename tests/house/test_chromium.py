"""The browser that other tests look through must see errors, requests and keys itself."""

HTML = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title>
<style>@media (prefers-color-scheme: dark) {{ body {{ color: rgb(1, 2, 3); }} }}</style></head>
<body><button id="a" onclick="this.dataset.n = 1 + (+this.dataset.n || 0)">a</button>
<input id="f" type="file"><div style="width: 500px">x</div>{}</body></html>"""


def test_a_calm_page(page, tmp_path):
    path = tmp_path / "a b.html"
    path.write_text(HTML.format('<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'))
    page.resize(600, 400)
    page.open(path)
    assert (page.errors, page.requests) == ([], [path.as_uri()])
    assert page.overflow() == 0
    page.resize(400, 400)
    assert page.overflow() > 100
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "a"
    page.press("Enter")
    page.press(" ")
    assert page.evaluate("document.activeElement.dataset.n") == "2"
    page.choose_files("#f", path)
    assert page.evaluate("document.querySelector('#f').files[0].text()") == path.read_text()
    colour = "getComputedStyle(document.body).color"
    assert page.evaluate(colour) == "rgb(0, 0, 0)"
    page.prefer("dark")
    assert page.evaluate(colour) == "rgb(1, 2, 3)"
    page.screenshot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_what_goes_wrong_is_seen(page, tmp_path):
    path = tmp_path / "b.html"
    script = "console.error('one'); setTimeout(() => { throw new Error('two'); });"
    path.write_text(HTML.format(f"<script>{script}</script><img alt='' src='http://x.test/i.png'>"))
    page.open(path)
    page.wait_for("true")
    for what in ("one", "two", "ERR_NAME_NOT_RESOLVED"):
        assert any(what in error for error in page.errors), page.errors
    assert "http://x.test/i.png" in page.requests
