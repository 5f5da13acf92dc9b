"""Pages in headless Chromium, which Playwright drives: no name is looked up outside.

The fixtures `page` and `phone` are Playwright's pages, each in a context of its own. Tests skip
where Playwright or Chromium is absent. Playwright's own Chromium would have to be downloaded, so
these tests take the system's.
"""

import time

import pytest

from support import needs

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-quic", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)  # fmt: skip
PHONE = {"viewport": {"width": 360, "height": 640}, "device_scale_factor": 2}
SECONDS = 60  # for any one answer, on a machine with other work

CONTRAST = """(() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => +v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (node) => {
    const own = getComputedStyle(node).backgroundColor;
    return /rgba|transparent|color/.test(own) ? paper(node.parentElement) : own;
  };
  return [...document.querySelectorAll("p, dt, dd, h1, h2, h3, td, th, a, li, label, button, span")]
    .filter((node) => node.textContent.trim() && node.getClientRects().length)
    .map((node) => {
      const [a, b] = [light(getComputedStyle(node).color), light(paper(node))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.className + node.tagName];
    }).reduce((low, own) => own[0] < low[0] ? own : low);
})()"""
"""JavaScript: the lowest contrast of a page's text to its background, by WCAG, and its element."""


class Seen:
    """What a page has asked for and complained of.

    Attributes:
      errors: errors and warnings of the console, and exceptions.
      requests: addresses, without data: and blob:.
    """

    def __init__(self, page):
        self.errors, self.requests = [], []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _asked(self, request):
        if not request.url.startswith(("data:", "blob:")):
            self.requests.append(request.url)


def overflow(page):
    """Return by how many CSS pixels the page is wider than the screen.

    A phone's `innerWidth` grows with a page that is too wide; `clientWidth` does not.
    """
    root = "document.documentElement"
    return page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")


def serious_findings(page):
    """Return what axe-core finds of serious or critical impact: rule, and the elements.

    Skips the test where the package that carries axe-core is missing.
    """
    axe = needs.package("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(page).response["violations"]
    return [
        (rule["id"], [node["html"][:200] for node in rule["nodes"]])
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def wait_for(page, expression):
    """Wait until an expression of JavaScript is true.

    Playwright's `wait_for_function` calls `eval` in the page, which our pages' policy forbids.
    """
    end = time.monotonic() + SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"still false after {SECONDS} seconds: {expression}"
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Start Chromium for the tests of a file."""
    program = needs.program(*NAMES)
    playwright = needs.package("playwright.sync_api")
    home = tmp_path_factory.mktemp("chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=program, args=FLAGS, env={"HOME": str(home)}
        )
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Return a function that opens a page; it takes the options of Playwright's `new_context`."""
    contexts = []

    def open_one(**options):
        contexts.append(browser.new_context(**options))
        contexts[-1].set_default_timeout(1000 * SECONDS)
        return contexts[-1].new_page()

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page):
    """Open a page of 1280 x 900 pixels."""
    return open_page(viewport={"width": 1280, "height": 900})


@pytest.fixture
def phone(open_page):
    """Open a page on a phone: 360 x 640 CSS pixels, a touch screen."""
    return open_page(**PHONE, is_mobile=True, has_touch=True)
