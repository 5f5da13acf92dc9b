"""Parse the pages that the package writes and check what must hold of every page."""

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}
HIDDEN = {"style", "script"}


class Page(HTMLParser):
    """A parsed page: its tags and its visible text. Elements that are not nested fail."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data if not HIDDEN & set(self.open) else ""

    def all(self, tag):
        """Return the attributes of every element with this tag."""
        return [attrs for name, attrs in self.tags if name == tag]


def read_page(path):
    """Parse a page and check it: self-contained, safe, accessible, with unique ids."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    alone = re.sub(r'url\("data:image/webp;base64,[^"]*"\)', "", text)
    assert not re.search(r"https?:|@import|url\(|fetch|import\(|XMLHttp", alone)
    parsed = Page(text)
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    for tag, attrs in parsed.tags:
        assert tag not in {"link", "iframe", "object", "base", "img"}
        assert not {"src", "srcset", "poster", "data", "action", "style"} & attrs.keys()
        assert not [name for name in attrs if name.startswith("on")]
        for reference in ("aria-labelledby", "for", "list"):
            assert attrs.get(reference, ids[0]) in ids
        if "href" in attrs:
            assert attrs["href"].removeprefix("#") in ids
        if attrs.get("role") == "img":
            assert len(attrs["aria-label"]) > 4
        if attrs.get("class") == "scroll":
            assert (attrs["tabindex"], bool(attrs["aria-label"])) == ("0", True)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in parsed.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert parsed.all("html") == [{"lang": "en"}]
    assert len(parsed.all("h1")) == len(parsed.all("main")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in parsed.all(
        "meta"
    )
    return parsed
