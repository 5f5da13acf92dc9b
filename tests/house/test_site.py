"""The documentation as a site: built without a warning, whole, and without a network."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from support import needs
from support.chromium import Seen, overflow, wait_for
from support.loopback_server import LoopbackServer
from support.paths import ROOT

needs.installed("mkdocs", "material", "mkdocstrings")


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.places = [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.places |= {known[name] for name in ("id", "name") if known.get(name)}
        if tag == "a" and known.get("href"):
            self.links.append(known["href"])
        elif tag in ("script", "img", "link") and known.get("rel") != "canonical":
            self.loaded += [known[name] for name in ("src", "href") if known.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    pages = folder.rglob("*.html")
    return {page.relative_to(folder).as_posix(): Page(page) for page in pages}, folder


def test_all_pages_are_there_and_in_the_menu(site):
    pages, _ = site
    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    written |= {"index", "about", "CONTRIBUTING", "CHANGELOG", "SECURITY", "launch/index"}
    assert pages.keys() - {"404.html"} == {f"{name}.html" for name in written}
    menu = {os.path.normpath(link) for link in pages["index.html"].links if ":" not in link}
    assert {f"{name}.html" for name in written} <= menu


def test_links_lead_somewhere(site):
    pages, folder = site
    for name, page in pages.items():
        if name == "404.html":
            continue
        for link in page.links + page.loaded:
            if re.match(r"(https?|mailto|data|javascript):", link):
                continue
            path, _, place = unquote(link).partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            assert (folder / target).exists(), f"{name}: {link}"
            if place and target in pages:
                assert place in pages[target].places, f"{name}: {link}"


def test_nothing_is_fetched(site):
    pages, folder = site
    for name, page in pages.items():
        remote = [link for link in page.loaded if re.match(r"(https?:)?//", link)]
        assert remote == [], name
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", sheet.read_text()), sheet


def test_docstrings_become_pages(site):
    pages, folder = site
    places = pages["api.html"].places
    for name in (
        "batnet_jax.inference.model.Model.embed",
        "batnet_jax.retrieval.evaluator.evaluate",
        "batnet_jax.models.bi_attention.BiAttention",
        "batnet_jax.step.losses.triplet_loss",
    ):
        assert name in places
    text = (folder / "api.html").read_text()
    assert "gallery_cameras" in text
    assert ":::" not in text


@pytest.fixture
def served(site):
    """The site's address on loopback."""
    handler = functools.partial(QuietHandler, directory=site[1])
    with LoopbackServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize("screen", ["page", "phone"])
def test_it_is_read_in_a_browser(served, screen, request):
    """In Chromium: pictures, no errors, no wider than a phone, and the search finds a word."""
    page = request.getfixturevalue(screen)
    seen = Seen(page)
    page.goto(f"{served}/index.html")
    assert "All pages" in page.inner_text("body")
    page.evaluate(
        "(() => { const field = document.querySelector('.md-search__input'); field.focus();"
        " field.value = 'triplet'; field.dispatchEvent(new Event('keyup')); })()"
    )
    wait_for(page, "document.querySelectorAll('.md-search-result__item').length > 0")
    page.goto(f"{served}/design.html")
    wait_for(page, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert overflow(page) <= 0
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith(served)] == []
