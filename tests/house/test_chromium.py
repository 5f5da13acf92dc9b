"""The tests of pages must see what a page does wrong, and a phone must be one."""

from support.chromium import Seen, overflow

HTML = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title></head><body>{}'
SCRIPT = "<script>console.error('one'); setTimeout(() => { throw new Error('two'); });</script>"


def test_a_calm_page(page, tmp_path):
    path = tmp_path / "a b.html"
    path.write_text(HTML.format('<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'))
    seen = Seen(page)
    page.goto(path.as_uri())
    assert (seen.errors, seen.requests) == ([], [path.as_uri()])
    assert overflow(page) == 0


def test_what_goes_wrong_is_seen(page, tmp_path):
    path = tmp_path / "b.html"
    path.write_text(HTML.format(SCRIPT + "<img alt='' src='http://x.test/i.png'>"))
    seen = Seen(page)
    page.goto(path.as_uri())
    page.wait_for_timeout(100)
    for what in ("one", "two", "ERR_NAME_NOT_RESOLVED"):
        assert any(what in error for error in seen.errors), seen.errors
    assert "http://x.test/i.png" in seen.requests


def test_a_phone(phone, tmp_path):
    path = tmp_path / "c.html"
    meta = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    path.write_text(
        HTML.format("<div style='width: 500px'>x</div>").replace("<title>", meta + "<title>")
    )
    phone.goto(path.as_uri())
    assert overflow(phone) > 100
    assert phone.evaluate("[window.devicePixelRatio, navigator.maxTouchPoints > 0]") == [2, True]
